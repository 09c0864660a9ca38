"""Pictures of segmentation: predicted masks beside image and truth, IoU per class, and the
confusion of pixels. `draw.py` is the command."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.plots.canvas import DPI, HEADING, MARGIN, Canvas, width_of
from trainables.plots.class_colours import UNKNOWN, class_palette, coloured, hex_colour
from trainables.plots.class_key import ClassKey
from trainables.plots.lettering import shortened
from trainables.plots.share_matrix import SCALE, draw_matrix, laid_out
from trainables.plots.snapshots import NO_IMAGE, read_arrays

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
# Inches.
_PANEL, _PANEL_GAP = 2.12, 0.12
_LINE = 0.17  # of a text
_BARS, _BAR, _BAR_PITCH = 4.6, 0.36, 0.45  # length of IoU 1, thickness, distance
_CELL = 0.62
_BLACK = "black"


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

    paths = []
    for kind, draw in (("predicted", _panels), ("iou", _bars), ("confusion", _confusion)):
        path = out_dir / f"{kind}_{npz.stem}.png"
        draw(data, title).save(path)
        paths.append(path)
    return paths


def _read(npz: Path) -> Masks:
    arrays = read_arrays(npz, "masks", _NEEDED, _OPTIONAL)
    names = tuple(shortened(str(name)) for name in arrays["names"])
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
        return tuple(shortened(str(text)) for text in arrays["captions"])
    return tuple(f"{position:04d}" for position in arrays["positions"])


def _panels(data: Masks, title: str) -> Canvas:
    """Image, truth and prediction, one image per row."""
    image_height, image_width = data.images.shape[2:]
    height = _PANEL * image_height / image_width
    left = MARGIN + 2 * _LINE + MARGIN
    width = left + 3 * (_PANEL + _PANEL_GAP)
    top = HEADING + _LINE + MARGIN
    foot = top + len(data.captions) * (height + _PANEL_GAP)
    key = _key(data, width - left)

    canvas = Canvas(width, foot + key.height + MARGIN)
    canvas.heading(title, f"epoch {data.epoch} · validation images", left)
    lefts = [left + column * (_PANEL + _PANEL_GAP) for column in range(3)]
    for x, name in zip(lefts, _COLUMNS, strict=True):
        canvas.write(x + _PANEL / 2, top - MARGIN, name, ha="center")

    images = data.images.transpose(0, 2, 3, 1)
    truths = coloured(data.truth, data.colors)
    predictions = coloured(data.predicted, data.colors)
    is_large = image_width >= _PANEL * DPI  # a smaller one is shown pixel by pixel
    for row, name in enumerate(data.captions):
        y = top + row * (height + _PANEL_GAP)
        middle = y + height / 2
        right = f"pixels right {data.accuracies[row]:.0%}"
        canvas.write(MARGIN, middle, name, fontsize=8, va="center", color=_BLACK, rotated=True)
        canvas.write(MARGIN + _LINE, middle, right, fontsize=8, va="center", rotated=True)
        canvas.image(images[row], lefts[0], y, _PANEL, height, _BLACK, smooth=is_large)
        canvas.image(truths[row], lefts[1], y, _PANEL, height, _BLACK, smooth=False)
        canvas.image(predictions[row], lefts[2], y, _PANEL, height, _BLACK, smooth=False)
    key.draw(canvas, left, foot)
    return canvas


def _key(data: Masks, width: float) -> ClassKey:
    names, colours = list(data.names), data.colors.tolist()
    nothing = (data.truth >= len(data.names)) & (data.truth != NO_IMAGE)
    if np.any(nothing):
        names.append("unknown")
        colours.append(UNKNOWN)
    return ClassKey(names, colours, width)


def _bars(data: Masks, title: str) -> Canvas:
    """IoU of each class."""
    ious = class_ious(data.confusion)
    left = 2 * MARGIN + width_of(data.names)
    top = HEADING + 2 * MARGIN
    bottom = top + _BAR_PITCH * len(ious)
    canvas = Canvas(left + _BARS + 0.6, bottom + 0.42)
    canvas.heading(title, f"epoch {data.epoch} · mIoU {np.nanmean(ious):.3f}", left)
    for row, iou in enumerate(ious):
        middle = top + (row + 0.5) * _BAR_PITCH
        end = left + _BARS * float(np.nan_to_num(iou))
        look = {"frame": "#666666", "fill": hex_colour(data.colors[row])}
        canvas.rectangle(left, middle - _BAR / 2, end, middle + _BAR / 2, **look)
        canvas.write(left - MARGIN, middle, data.names[row], ha="right", va="center_baseline")
        text = "absent" if np.isnan(iou) else f"{iou:.3f}"
        canvas.write(end + MARGIN, middle, text, va="center_baseline", color=_BLACK)

    canvas.rectangle(left, top, left, bottom, frame=_BLACK)
    canvas.rectangle(left, bottom, left + _BARS, bottom, frame=_BLACK)
    for share in (0, 0.2, 0.4, 0.6, 0.8, 1):
        x = left + _BARS * share
        canvas.rectangle(x, bottom, x, bottom + MARGIN / 2, frame=_BLACK)
        canvas.write(x, bottom + MARGIN, f"{share:.1f}", ha="center", va="top")
    canvas.write(left + _BARS / 2, canvas.height - MARGIN, "IoU", ha="center")
    return canvas


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


def _confusion(data: Masks, title: str) -> Canvas:
    """Share of each true class's pixels by predicted class, one true class per row."""
    pixels = data.confusion.T.astype(float)  # (C + 1, C)
    names = list(data.names)
    if pixels[-1].any():
        names.append("unknown")
    pixels_of_class = pixels.sum(1, keepdims=True).clip(1)
    shares = (pixels / pixels_of_class)[: len(names)]

    matrix = laid_out(names, data.names, _CELL)
    said = f"epoch {data.epoch} · share of each true class's pixels"
    width = max(matrix.right + SCALE, matrix.left + width_of([said])) + MARGIN
    canvas = Canvas(width, matrix.foot)
    canvas.heading(title, said, matrix.left)
    draw_matrix(canvas, matrix, shares)
    return canvas
