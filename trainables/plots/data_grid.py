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
from typing import Any

import numpy as np

from trainables.plots.canvas import Canvas
from trainables.plots.class_colours import UNKNOWN, class_palette, coloured
from trainables.plots.class_key import ClassKey
from trainables.plots.lettering import shortened
from trainables.plots.snapshots import read_arrays

_CELL = 0.72  # inches
_GAP = 0.06  # between images, in cells
_BLOCK_GAP = 0.7  # between blocks, in cells
_LABEL = 0.17  # width of a letter in a class name, in cells
_OPACITY = 0.55  # of a mask over its image
_LEFT, _ABOVE, _BELOW = 0.15, 1.05, 0.15  # around the images, in inches
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
    figure_width = width * _CELL + 2 * _LEFT
    key_names: list[str] = []
    if blocks[0].masks is not None:
        key_names = [*names, "no class"]
    key = ClassKey(key_names, [*colors.tolist(), UNKNOWN][: len(key_names)], width * _CELL)
    key_top = _ABOVE + height * _CELL + _BELOW / 2

    canvas = Canvas(figure_width, key_top + key.height + _BELOW / 2)
    canvas.write(_LEFT, 0.3, title, fontsize=13, bold=True, color="#222222")
    canvas.write(_LEFT, 0.5, _subtitle(blocks, names))
    for number, (block, start) in enumerate(zip(blocks, starts, strict=True)):
        named = _block_names_its_classes(blocks, number)
        _draw_block(canvas, block, start, colors, names if named else ())
    key.draw(canvas, _LEFT, key_top)

    path = out_dir / f"{npz.stem}.png"
    canvas.save(path)
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
    names = tuple(shortened(str(name), 16) for name in head["names"])
    colors = class_palette(head["colors"], len(names))
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
    canvas: Canvas,
    block: Block,
    start: float,  # left edge, in cells
    colors: np.ndarray,  # (C, 3) uint8
    names: tuple[str, ...],  # empty: the lines are labelled further left
) -> None:
    _write(canvas, start, -0.22, _heading(block), fontsize=10, bold=True, va="bottom")
    if names:
        _write_labels(canvas, block, start, names)

    first_of_line = np.searchsorted(block.lines, block.lines)
    places = np.arange(len(block.lines)) - first_of_line
    for number, (line, place) in enumerate(zip(block.lines, places, strict=True)):
        x = start + place * block.cells
        image = block.images[number]
        _show(canvas, image, x, line)
        if block.masks is not None:
            mask = block.masks[number]
            _show(canvas, _overlaid(image, mask, colors), x + 1 - _GAP, line)


def _write_labels(canvas: Canvas, block: Block, start: float, names: tuple[str, ...]) -> None:
    """Write the name of each class once, beside the middle of its lines."""
    for label in np.unique(block.labels[block.labels >= 0]):
        lines = np.flatnonzero(block.labels == label)
        middle = (lines[0] + lines[-1] + 1) / 2
        right = start - 0.15
        count = f"{block.counts[lines[0]]:,}"
        _write(canvas, right, middle, names[label], ha="right", va="bottom")
        look: dict[str, Any] = {"fontsize": 7, "color": "#888888"}
        _write(canvas, right, middle + 0.06, count, ha="right", va="top", **look)


def _write(canvas: Canvas, x: float, y: float, text: str, **look: Any) -> None:
    """Write a text at a position in cells."""
    canvas.write(_LEFT + x * _CELL, _ABOVE + y * _CELL, text, **look)


def _show(canvas: Canvas, image: np.ndarray, x: float, y: float) -> None:
    """Draw an image into the cell with this upper left corner."""
    side = (1 - _GAP) * _CELL
    # Without a frame, snow could not be distinguished from the background.
    canvas.image(image, _LEFT + x * _CELL, _ABOVE + y * _CELL, side, side, frame=_FRAME)


def _overlaid(
    image: np.ndarray,  # (h, w, 3) uint8
    mask: np.ndarray,  # (h, w) uint8
    colors: np.ndarray,  # (C, 3) uint8
) -> np.ndarray:  # (h, w, 3) uint8
    """Overlay the class colours on the image; pixels without class are darkened."""
    over = coloured(mask, colors).astype(float)
    mixed = (1 - _OPACITY) * image + _OPACITY * over
    return mixed.round().astype(np.uint8)
