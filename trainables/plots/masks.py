"""Pictures of segmentation: predicted masks beside image and truth, IoU per class, and the
confusion of pixels. `draw.py` is the command."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from trainables.plots.class_colours import INK, UNKNOWN, class_palette, coloured
from trainables.plots.snapshots import NO_IMAGE, read_arrays
from trainables.plots.style import caption, plt

_COLUMNS = ("image", "truth", "predicted")
_NEEDED = (
    "epoch",
    "confusion",
    "images",
    "truth",
    "predicted",
    "names",
    "colors",
    "accuracies",
)
# Files of earlier trials have "positions" instead of "captions".
_OPTIONAL = ("positions", "captions")


@dataclass(frozen=True)
class Masks:
    """Checked content of a file."""

    epoch: int
    captions: tuple[str, ...]  # n
    confusion: np.ndarray  # (C, C + 1) int64, [predicted, true]; the last column is unknown truth
    images: np.ndarray  # (n, 3, h, w) uint8
    truth: np.ndarray  # (n, h, w) uint8
    predicted: np.ndarray  # (n, h, w) uint8
    names: tuple[str, ...]  # C
    colors: np.ndarray  # (C, 3) uint8
    accuracies: np.ndarray  # (n,)


def mask_pictures(npz: Path, out_dir: Path, title: str) -> list[Path]:
    """Write `predicted_<stem>.png`, `iou_<stem>.png` and `confusion_<stem>.png` of a file from
    `Segmentation.snapshot` into `out_dir`, and return their paths.

    Raises:
        UserError: the file is missing, unreadable, or lacks an array.
    """
    data = _read(Path(npz))
    out_dir.mkdir(parents=True, exist_ok=True)

    figures = {
        "predicted": _panels(data, title),
        "iou": _bars(data, title),
        "confusion": _confusion(data, title),
    }
    paths = []
    for kind, figure in figures.items():
        path = out_dir / f"{kind}_{npz.stem}.png"
        figure.savefig(path, dpi=100)
        plt.close(figure)
        paths.append(path)
    return paths


def _read(npz: Path) -> Masks:
    arrays = read_arrays(npz, "masks", _NEEDED, _OPTIONAL)
    names = tuple(caption(str(name)) for name in arrays["names"])
    return Masks(
        epoch=int(arrays["epoch"]),
        captions=_captions(arrays),
        confusion=arrays["confusion"],
        images=arrays["images"],
        truth=arrays["truth"],
        predicted=arrays["predicted"],
        names=names,
        colors=class_palette(arrays["colors"], len(names)),
        accuracies=arrays["accuracies"],
    )


def _captions(arrays: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Texts beside the images: each file with the reason why it is shown, or its position in the
    validation split."""
    if "captions" in arrays:
        return tuple(caption(str(text)) for text in arrays["captions"])
    return tuple(f"{position:04d}" for position in arrays["positions"])


def _panels(data: Masks, title: str) -> Figure:
    """Image, truth and prediction, one image per row."""
    rows = len(data.captions)
    figure, axes = plt.subplots(
        rows, 3, figsize=(7.2, 2.2 * rows + 1.0), layout="constrained", squeeze=False
    )
    pictures = (
        data.images.transpose(0, 2, 3, 1),
        coloured(data.truth, data.colors),
        coloured(data.predicted, data.colors),
    )
    for row in range(rows):
        for column in range(3):
            _show(axes[row, column], pictures[column][row])
        right = f"pixels right {data.accuracies[row]:.0%}"
        axes[row, 0].set_ylabel(f"{data.captions[row]}\n{right}", fontsize=8)
    for column, name in enumerate(_COLUMNS):
        axes[0, column].set_title(name, fontsize=9, color=INK)

    figure.suptitle(
        f"{title}, validation images, epoch {data.epoch}", fontsize=11, fontweight="bold"
    )
    handles = _legend_patches(data)
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(4, len(handles)),
        frameon=False,
        fontsize=9,
    )
    return figure


def _show(ax: Axes, picture: np.ndarray) -> None:
    ax.imshow(picture, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])


def _legend_patches(data: Masks) -> list[Patch]:
    patches = []
    for name, (red, green, blue) in zip(data.names, data.colors.tolist(), strict=True):
        colour = (red / 255, green / 255, blue / 255)
        patches.append(Patch(facecolor=colour, edgecolor="#888888", label=name))
    nothing = (data.truth >= len(data.names)) & (data.truth != NO_IMAGE)
    if np.any(nothing):
        patches.append(Patch(facecolor=UNKNOWN, label="unknown"))
    return patches


def _bars(data: Masks, title: str) -> Figure:
    """IoU of each class."""
    ious = class_ious(data.confusion)
    lengths = np.nan_to_num(ious)
    height = 0.45 * len(ious) + 1.6  # inches
    figure, ax = plt.subplots(figsize=(6, height), layout="constrained")
    rows = np.arange(len(ious))
    ax.barh(rows, lengths, color=data.colors / 255, edgecolor="#666666", linewidth=0.6)
    for row, iou in enumerate(ious):
        text = "absent" if np.isnan(iou) else f"{iou:.3f}"
        end = float(lengths[row])
        ax.text(end + 0.01, row, text, va="center", fontsize=9)

    ax.set_yticks(rows, data.names)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.1)
    ax.set_xticks(np.linspace(0, 1, 6))
    ax.set_xlabel("IoU")
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title(
        f"{title}, epoch {data.epoch}: mIoU {np.nanmean(ious):.3f}",
        loc="left",
        fontsize=11,
        fontweight="bold",
    )
    return figure


def class_ious(
    confusion: np.ndarray,  # (C, C + 1) int64
) -> np.ndarray:  # (C,)
    """IoU of each class, as in `trainables.miou.class_iou`. That module needs torch, whose import
    takes longer than drawing all pictures of a trial."""
    known = confusion[:, :-1].astype(float)
    hits = known.diagonal()
    union = confusion.sum(1) + known.sum(0) - hits
    with np.errstate(invalid="ignore"):  # a class in neither truth nor prediction
        return np.asarray(hits / union)


def _confusion(data: Masks, title: str) -> Figure:
    """Share of each true class's pixels by predicted class, one true class per row."""
    pixels = data.confusion.T.astype(float)  # (C + 1, C)
    names = list(data.names)
    if pixels[-1].any():
        names.append("unknown")
    pixels_of_class = pixels.sum(1, keepdims=True).clip(1)
    shares = (pixels / pixels_of_class)[: len(names)]

    side = 0.62 * len(names) + 2.4
    figure, ax = plt.subplots(figsize=(side + 0.6, side), layout="constrained")
    image = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        ax.text(
            column,
            row,
            f"{share:.2f}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if share > 0.6 else "#333333",
        )
    ax.set_xticks(range(len(data.names)), data.names, rotation=45, ha="right")
    ax.set_yticks(range(len(names)), names)
    ax.set_xlabel("predicted")
    ax.set_ylabel("truth")
    ax.set_title(
        f"{title}, epoch {data.epoch}\nshare of each class's pixels",
        loc="left",
        fontsize=10,
        fontweight="bold",
    )
    figure.colorbar(image, shrink=0.7)
    return figure
