"""Pictures of a classifier's predictions: the classes that it confuses, and its most confident
mistakes."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.errors import UserError
from trainables.plots.canvas import DPI, HEADING, MARGIN, Canvas
from trainables.plots.lettering import shortened
from trainables.plots.share_matrix import BESIDE, SCALE, draw_matrix, laid_out
from trainables.plots.snapshots import read_arrays

_COLUMNS = 8
_IMAGE, _IMAGE_GAP = 1.36, 0.09  # inches
_CAPTION_LINE = 0.17  # inches
_PAIRS = 12
_PAIR_LINE, _PAIR_WIDTH = 0.22, 2.6  # inches
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

    captions = [shortened(names[c], 18) for c in shown]
    side = min(5 + 0.12 * len(captions), 18)
    matrix = laid_out(captions, captions, side / len(captions))
    width = matrix.right + SCALE + BESIDE + _PAIR_WIDTH + MARGIN
    dpi = DPI if len(shown) <= 100 else _FINE_DPI
    canvas = Canvas(width, matrix.foot, dpi)
    canvas.heading(title, subtitle, matrix.left)
    draw_matrix(canvas, matrix, shares)
    _list_pairs(canvas, width - MARGIN - _PAIR_WIDTH, counts, names)
    canvas.save(path)


def _most_confused(counts: np.ndarray) -> np.ndarray:
    """Classes with the most mistakes, as true or predicted class, sorted by number."""
    missed = counts.sum(1) - counts.diagonal()
    mistaken = counts.sum(0) - counts.diagonal()
    mistakes = missed + mistaken
    order = np.argsort(-mistakes, kind="stable")
    return np.sort(order[: _MAX_CLASSES // 3])


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
