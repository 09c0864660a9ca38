"""The picture of a data set: one block of images per split, one or more lines per class, and masks
beside and over their images. `draw.py` is the command.

    train · 2,000                val · 300          test · 300
    ant   [ ] [ ] [ ] [ ] [ ]    [ ] [ ] [ ]        [ ] [ ] [ ]
    bee   [ ] [ ] [ ] [ ] [ ]    [ ] [ ] [ ]        [ ] [ ] [ ]

A block names its classes only if they differ from those of the previous block. Positions are in
cells: a cell is one image, and x and y start at the upper left of the first block, including its
class names but not its heading.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from trainables.plots.class_colours import coloured
from trainables.plots.snapshots import read_arrays
from trainables.plots.style import INK, caption, plt

_CELL = 0.72  # inches
_GAP = 0.06  # between images, in cells
_BLOCK_GAP = 0.7  # between blocks, in cells
_LABEL = 0.17  # width of a letter in a class name, in cells
_SMALL = 64  # images with smaller sides are drawn pixel by pixel
_OPACITY = 0.55  # of a mask over its image
_INCHES_ABOVE, _INCHES_BELOW = 1.05, 0.15
_LEGEND_LINE = 0.3  # inches
_LEGEND_COLUMN = 1.3  # inches
_FRAME = "#dddddd"


@dataclass(frozen=True, eq=False)
class Block:
    """The images of one split."""

    name: str
    """Name of the split."""
    total: int
    """Number of images in the split."""
    images: np.ndarray  # (n, h, w, 3) uint8
    """Images that are shown."""
    lines: np.ndarray  # (n,)
    """Line of each image, sorted."""
    labels: np.ndarray  # (lines,)
    """Class of each line; -1 = none."""
    counts: np.ndarray  # (lines,)
    """Number of images of that class in the split."""
    masks: np.ndarray | None  # (n, h, w) uint8
    """Class number of each pixel; None for images without masks."""

    @property
    def columns(self) -> int:
        """Width of the longest line, in cells."""
        most = int(np.bincount(self.lines).max(initial=1))
        return most * self.cells

    @property
    def cells(self) -> int:
        """Cells per image: 2 with a mask, otherwise 1."""
        return 1 if self.masks is None else 2


def data_pictures(npz: Path, out_dir: Path, title: str) -> list[Path]:
    """Draw `data.png` from a file of `write_data_sample` into `out_dir`, and return its path.

    Raises:
        UserError: the file is missing, unreadable, or lacks an array.
    """
    names, colors, blocks = _read(npz)
    out_dir.mkdir(parents=True, exist_ok=True)

    starts, width = _places(blocks, names)
    height = max(len(block.labels) for block in blocks)
    figure_width = width * _CELL + 0.3
    legend_lines = 0
    if blocks[0].masks is not None:
        patches = len(names) + 1
        columns = max(1, int(figure_width / _LEGEND_COLUMN))
        legend_lines = -(-patches // columns)  # rounded up
    below = _INCHES_BELOW + _LEGEND_LINE * legend_lines
    figure_height = height * _CELL + _INCHES_ABOVE + below

    figure = plt.figure(figsize=(figure_width, figure_height))
    bottom = below / figure_height
    top = height * _CELL / figure_height
    left = 0.15 / figure_width
    ax = figure.add_axes((left, bottom, width * _CELL / figure_width, top))
    ax.set_xlim(0, width)
    ax.set_ylim(height, 0)
    ax.axis("off")

    for number, (block, start) in enumerate(zip(blocks, starts, strict=True)):
        named = _block_names_its_classes(blocks, number)
        _draw_block(ax, block, start, colors, names if named else ())

    figure.text(
        left, 1 - 0.3 / figure_height, title, fontsize=13, fontweight="bold", color="#222222"
    )
    figure.text(left, 1 - 0.5 / figure_height, _subtitle(blocks, names), fontsize=9, color=INK)
    if legend_lines:
        figure.legend(
            handles=_patches(names, colors),
            loc="lower left",
            bbox_to_anchor=(left, 0),
            ncols=-(-patches // legend_lines),
            frameon=False,
            fontsize=9,
            borderaxespad=0.3,
        )
    path = out_dir / f"{npz.stem}.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return [path]


def _subtitle(blocks: list[Block], names: tuple[str, ...]) -> str:
    """A line that explains how to read the picture."""
    if blocks[0].masks is not None:
        return "every image, and beside it the same image under its mask"
    shown = len(np.unique(blocks[0].labels[blocks[0].labels >= 0]))
    if not shown:
        return "images without labels, spread over each split"
    classes = f"{shown} of {len(names):,} classes" if shown < len(names) else f"{shown} classes"
    return f"{classes}; below a name its number of images in that split"


def _block_names_its_classes(blocks: list[Block], number: int) -> bool:
    """True if a block has other classes than the previous one."""
    if number == 0:
        return True
    before = blocks[number - 1]
    return not np.array_equal(before.labels, blocks[number].labels)


def _read(npz: Path) -> tuple[tuple[str, ...], np.ndarray, list[Block]]:
    head = read_arrays(npz, "data", ("epoch", "splits", "names", "colors"))
    names = tuple(caption(str(name), 16) for name in head["names"])
    colors = head["colors"].reshape(-1, 3)
    if len(colors) != len(names):  # the data set has no colours of its own
        palette = plt.get_cmap("tab20")(np.arange(len(names)) % 20)
        colors = np.round(255 * palette[:, :3]).astype(np.uint8)

    blocks = [_read_block(npz, str(name)) for name in head["splits"]]
    return names, colors, blocks


def _read_block(npz: Path, name: str) -> Block:
    """The block of one split."""
    words = ("images", "lines", "labels", "counts", "total")
    needed = [f"{name}_{word}" for word in words]
    arrays = read_arrays(npz, "data", ("epoch", *needed), (f"{name}_masks",))
    images, lines, labels, counts, total = (arrays[key] for key in needed)
    return Block(
        name,
        total=int(total),
        images=images.transpose(0, 2, 3, 1),
        lines=lines,
        labels=labels,
        counts=counts,
        masks=arrays.get(f"{name}_masks"),
    )


def _places(blocks: list[Block], names: tuple[str, ...]) -> tuple[list[float], float]:
    """Left edge of the images of each block, and the width of everything, in cells."""
    starts: list[float] = []
    x = 0.0
    for number, block in enumerate(blocks):
        if _block_names_its_classes(blocks, number):
            x += _label_width(block, names)
        starts.append(x)
        heading = 0.12 * len(_heading(block))
        x += max(block.columns, heading) + _BLOCK_GAP
    return starts, x - _BLOCK_GAP


def _label_width(block: Block, names: tuple[str, ...]) -> float:
    """Width of the class names of a block, in cells; 0 without any."""
    labels = block.labels[block.labels >= 0]
    if not len(labels):
        return 0.0
    longest = max(len(names[label]) for label in labels)
    return max(0.5, longest * _LABEL) + 0.15


def _heading(block: Block) -> str:
    """`train · 2,000`."""
    return f"{block.name} · {block.total:,}"


def _draw_block(
    ax: Axes,
    block: Block,
    start: float,  # left edge, in cells
    colors: np.ndarray,  # (C, 3) uint8
    names: tuple[str, ...],  # empty: the lines are labelled further left
) -> None:
    ax.text(
        start,
        -0.22,
        _heading(block),
        fontsize=10,
        fontweight="bold",
        color=INK,
        ha="left",
        va="bottom",
    )
    if names:
        _write_labels(ax, block, start, names)

    first_of_line = np.searchsorted(block.lines, block.lines)
    places = np.arange(len(block.lines)) - first_of_line
    for number, (line, place) in enumerate(zip(block.lines, places, strict=True)):
        x = start + place * block.cells
        image = block.images[number]
        _show(ax, image, x, line)
        if block.masks is not None:
            mask = block.masks[number]
            _show(ax, _overlaid(image, mask, colors), x + 1 - _GAP, line)


def _write_labels(ax: Axes, block: Block, start: float, names: tuple[str, ...]) -> None:
    """Write the name of each class once, beside the middle of its lines."""
    for label in np.unique(block.labels[block.labels >= 0]):
        lines = np.flatnonzero(block.labels == label)
        middle = (lines[0] + lines[-1] + 1) / 2
        right = start - 0.15
        count = f"{block.counts[lines[0]]:,}"
        ax.text(right, middle, names[label], fontsize=9, color=INK, ha="right", va="bottom")
        ax.text(right, middle + 0.06, count, fontsize=7, color="#888888", ha="right", va="top")


def _show(ax: Axes, image: np.ndarray, x: float, y: float) -> None:
    """Draw an image into the cell with this upper left corner."""
    interpolation = "nearest" if image.shape[0] < _SMALL else "antialiased"
    right = x + 1 - _GAP
    bottom = y + 1 - _GAP
    ax.imshow(
        image, extent=(x, right, bottom, y), interpolation=interpolation, aspect="auto", zorder=2
    )
    # Without a frame, snow could not be distinguished from the background.
    side = 1 - _GAP
    ax.add_patch(Rectangle((x, y), side, side, fill=False, edgecolor=_FRAME, lw=0.6, zorder=3))


def _overlaid(
    image: np.ndarray,  # (h, w, 3) uint8
    mask: np.ndarray,  # (h, w) uint8
    colors: np.ndarray,  # (C, 3) uint8
) -> np.ndarray:  # (h, w, 3) uint8
    """Overlay the class colours on the image; pixels without class are darkened."""
    over = coloured(mask, colors).astype(float)
    mixed = (1 - _OPACITY) * image + _OPACITY * over
    return mixed.round().astype(np.uint8)


def _patches(names: tuple[str, ...], colors: np.ndarray) -> list[Patch]:
    """A legend patch for each class, and one for pixels without class."""
    patches = []
    for name, (red, green, blue) in zip(names, colors.tolist(), strict=True):
        colour = (red / 255, green / 255, blue / 255)
        patches.append(Patch(facecolor=colour, edgecolor="#888888", label=name))
    patches.append(Patch(facecolor="black", label="no class"))
    return patches
