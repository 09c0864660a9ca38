"""Pictures of a classifier's predictions: the classes that it confuses, and its most confident
mistakes."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.errors import UserError
from trainables.plots.canvas import DPI, HEADING, MARGIN, Canvas, width_of
from trainables.plots.class_colours import INK, blues
from trainables.plots.lettering import shortened
from trainables.plots.snapshots import read_arrays

_COLUMNS = 8
_IMAGE, _IMAGE_GAP = 1.36, 0.09  # inches
_CAPTION_LINE = 0.17  # inches
_PAIRS = 12
_PAIR_LINE, _PAIR_WIDTH = 0.22, 2.6  # inches
_BAR, _BAR_LABELS = 0.1, 0.5  # widths of the colour scale and its labels, in inches
_BESIDE = 0.25  # space for the name of an axis, in inches
_BAR_HEIGHT = 0.6  # as a share of the matrix
# Up to this many classes, every cell contains its share.
_MAX_NAMED_CELLS = 20
# Most rows and columns that are readable on paper; with more classes, the most confused are shown.
_MAX_CLASSES = 210
_FINE_DPI = 160  # if there are very many names
_NEEDED = ("labels", "predicted", "names", "mistakes", "images", "confidence", "epoch")


@dataclass(frozen=True)
class Predictions:
    """Checked content of a file."""

    labels: np.ndarray  # (n,) int in [0, C)
    predicted: np.ndarray  # (n,) int in [0, C)
    names: tuple[str, ...]  # C
    mistakes: np.ndarray  # (m,) rows of the pictured mistakes, the most confident first
    images: np.ndarray  # (m, 3, S, S) uint8
    confidence: np.ndarray  # (n,) probability of the predicted class
    epoch: int


def prediction_pictures(npz: Path, out_dir: Path, title: str) -> list[Path]:
    """Write `confusion_<stem>.png` and, if there are mistakes, `mistakes_<stem>.png` of a
    predictions file into `out_dir`.

    Args:
        npz: arrays as in `Predictions`; `names` (C,) str, `epoch` int.
        title: first line of the pictures, such as the trial's name.
    Returns:
        The paths. Equal input gives equal pictures.
    Raises:
        UserError: the file is missing or unreadable, or has other content.
    """
    data = _load(npz)
    out_dir.mkdir(parents=True, exist_ok=True)

    classes = len(data.names)
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (data.labels, data.predicted), 1)
    accuracy = np.trace(counts) / counts.sum()
    subtitle = (
        f"epoch {data.epoch} · {len(data.labels)} validation images, {classes} classes, "
        f"{accuracy:.1%} right"
    )
    paths = [out_dir / f"confusion_{npz.stem}.png"]
    confusion_picture(counts, data.names, title, subtitle, paths[0])

    if len(data.mistakes):
        paths.append(out_dir / f"mistakes_{npz.stem}.png")
        _draw_mistakes(data, title, paths[-1])
    return paths


def confusion_picture(
    counts: np.ndarray,  # (C, C) int, true x predicted
    names: tuple[str, ...],  # C
    title: str,
    subtitle: str,
    path: Path,
) -> None:
    """Draw the share of each true class that is predicted as each class (rows sum to 1), beside a
    list of the most frequent confusions.

    With more than `_MAX_CLASSES` classes, only the `_MAX_CLASSES // 3` with the most mistakes are
    shown.
    """
    shown = np.arange(len(names))
    if len(names) > _MAX_CLASSES:
        shown = _most_confused(counts)
        subtitle += f"; the {len(shown)} with the most mistakes"
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    shares = shares[np.ix_(shown, shown)]

    matrix = _layout([shortened(names[c], 18) for c in shown])
    width = matrix.right + _BAR + _BAR_LABELS + _BESIDE + _PAIR_WIDTH + MARGIN
    dpi = DPI if len(shown) <= 100 else _FINE_DPI
    canvas = Canvas(width, matrix.bottom + matrix.below + _BESIDE, dpi)
    canvas.heading(title, subtitle, matrix.left)
    cells = blues(shares)
    place = (matrix.left, matrix.top, matrix.side, matrix.side)
    canvas.image(cells, *place, frame="black", smooth=False)
    _label_classes(canvas, matrix)
    if len(shown) <= _MAX_NAMED_CELLS:
        _write_shares(canvas, matrix, shares)
    _draw_scale(canvas, matrix)
    _list_pairs(canvas, width - MARGIN - _PAIR_WIDTH, counts, names)
    canvas.save(path)


@dataclass(frozen=True)
class _Matrix:
    """The square of the cells and what stands around it, in inches."""

    captions: list[str]
    fontsize: float
    upright: bool
    """True if the names of the columns are not rotated."""
    left: float
    top: float
    side: float
    below: float
    """Height of the column names."""

    @property
    def right(self) -> float:
        return self.left + self.side

    @property
    def bottom(self) -> float:
        return self.top + self.side

    @property
    def cell(self) -> float:
        return self.side / len(self.captions)

    def middle(self, number: int) -> float:
        """Middle of a row or column, relative to the matrix."""
        return (number + 0.5) * self.cell


def _layout(captions: list[str]) -> _Matrix:
    side = min(5 + 0.12 * len(captions), 18)
    fontsize = min(9.0, 0.6 * 72 * side / len(captions))
    upright = max(len(text) for text in captions) <= 2
    width = width_of(captions, fontsize)
    return _Matrix(
        captions,
        fontsize,
        upright,
        left=MARGIN + _BESIDE + width,
        top=HEADING + MARGIN,
        side=side,
        below=_CAPTION_LINE if upright else width,
    )


def _most_confused(counts: np.ndarray) -> np.ndarray:
    """Classes with the most mistakes, as true or predicted class, sorted by number."""
    missed = counts.sum(1) - counts.diagonal()
    mistaken = counts.sum(0) - counts.diagonal()
    mistakes = missed + mistaken
    order = np.argsort(-mistakes, kind="stable")
    return np.sort(order[: _MAX_CLASSES // 3])


def _label_classes(canvas: Canvas, matrix: _Matrix) -> None:
    """Name the rows, the columns and the two axes."""
    size = matrix.fontsize
    foot = matrix.bottom + MARGIN
    for number, text in enumerate(matrix.captions):
        middle = matrix.middle(number)
        canvas.write(
            matrix.left - MARGIN,
            matrix.top + middle,
            text,
            fontsize=size,
            ha="right",
            va="center_baseline",
        )
        canvas.write(
            matrix.left + middle,
            foot,
            text,
            fontsize=size,
            ha="center",
            va="top",
            rotated=not matrix.upright,
        )
    half = matrix.side / 2
    canvas.write(matrix.left + half, canvas.height - MARGIN, "predicted", fontsize=10, ha="center")
    canvas.write(MARGIN, matrix.top + half, "true", fontsize=10, va="center", rotated=True)


def _write_shares(canvas: Canvas, matrix: _Matrix, shares: np.ndarray) -> None:
    """Write every share of at least half a percent into its cell."""
    for (row, column), share in np.ndenumerate(shares):
        if share < 0.005:
            continue
        canvas.write(
            matrix.left + matrix.middle(column),
            matrix.top + matrix.middle(row),
            f"{share:.0%}",
            ha="center",
            va="center",
            fontsize=7.5,
            color="white" if share >= 0.3 else INK,
        )


def _draw_scale(canvas: Canvas, matrix: _Matrix) -> None:
    """Draw the colour scale to the right of the matrix."""
    height = _BAR_HEIGHT * matrix.side
    top = matrix.top + (matrix.side - height) / 2
    left = matrix.right + _BAR
    steps = np.linspace(1, 0, 200)[:, None] ** 2
    canvas.image(blues(steps), left, top, _BAR, height, smooth=False)
    for share in (0, 0.2, 0.4, 0.6, 0.8, 1):
        y = top + height * (1 - math.sqrt(share))
        canvas.write(left + _BAR + MARGIN, y, f"{share:.0%}", va="center_baseline")


def _list_pairs(canvas: Canvas, left: float, counts: np.ndarray, names: tuple[str, ...]) -> None:
    """List the most frequent confusions, true -> predicted, with their number and the size of the
    true class."""
    confused = counts - np.diag(counts.diagonal())
    order = np.argsort(-confused, axis=None, kind="stable")[:_PAIRS]
    cells = [int(cell) for cell in order if confused.flat[cell]]
    pairs = [divmod(cell, len(names)) for cell in cells]

    top = HEADING + _PAIR_LINE
    canvas.write(left, top, "most often confused", bold=True)
    for line, (true, predicted) in enumerate(pairs, 1):
        truth = shortened(names[true], 14)
        answer = shortened(names[predicted], 14)
        times = confused[true, predicted]
        images = counts[true].sum()
        y = top + line * _PAIR_LINE
        canvas.write(left, y, f"{truth} → {answer}")
        canvas.write(left + _PAIR_WIDTH, y, f"{times} of {images}", ha="right")


def _draw_mistakes(data: Predictions, title: str, path: Path) -> None:
    """Draw the most confident mistakes, eight in a row."""
    count = len(data.mistakes)
    wrong = int((data.labels != data.predicted).sum())
    captions = [_mistake_caption(data, row) for row in data.mistakes]
    lines = 1 + max(text.count("\n") for text in captions)
    above = lines * _CAPTION_LINE + MARGIN  # for the captions of a row
    row_height = above + _IMAGE + _IMAGE_GAP
    rows = math.ceil(count / _COLUMNS)

    width = 2 * MARGIN + _COLUMNS * (_IMAGE + _IMAGE_GAP) - _IMAGE_GAP
    canvas = Canvas(width, HEADING + rows * row_height + MARGIN)
    canvas.heading(
        title,
        f"epoch {data.epoch} · {count} most confident of {wrong} mistakes "
        f"on {len(data.labels)} validation images · "
        "true class → predicted class, its probability",
    )
    for place, (text, image) in enumerate(zip(captions, data.images, strict=True)):
        row, column = divmod(place, _COLUMNS)
        left = MARGIN + column * (_IMAGE + _IMAGE_GAP)
        top = HEADING + row * row_height + above
        canvas.image(image.transpose(1, 2, 0), left, top, _IMAGE, _IMAGE)
        middle = left + _IMAGE / 2
        canvas.write(middle, top - MARGIN, text, ha="center", va="bottom", color="black")
    canvas.save(path)


def _mistake_caption(data: Predictions, row: int) -> str:
    true = shortened(data.names[data.labels[row]], 14)
    predicted = shortened(data.names[data.predicted[row]], 14)
    separator = " " if len(true) + len(predicted) <= 10 else "\n"
    return f"{true} →{separator}{predicted}  {data.confidence[row]:.2f}"


def _load(npz: Path) -> Predictions:
    arrays = read_arrays(npz, "predictions", _NEEDED)
    names = tuple(str(name) for name in arrays["names"])
    for name in ("labels", "predicted"):
        _check_classes(npz, name, arrays[name], len(arrays["labels"]), len(names))

    return Predictions(
        labels=arrays["labels"],
        predicted=arrays["predicted"],
        names=names,
        mistakes=arrays["mistakes"],
        images=arrays["images"],
        confidence=arrays["confidence"],
        epoch=int(arrays["epoch"]),
    )


def _check_classes(npz: Path, name: str, values: np.ndarray, count: int, classes: int) -> None:
    """Raise UserError unless `values` are `count` class numbers, one per image."""
    is_list = values.shape == (count,) and count
    is_integer = values.dtype.kind == "i"
    if not is_list or not is_integer or values.min() < 0 or values.max() >= classes:
        raise UserError(
            f"{str(npz)!r}: {name} {values.dtype} {values.shape} must be classes in "
            f"[0, {classes}), one an image"
        )
