"""Pictures of a classifier's predictions: which classes it confuses, and its most confident
mistakes."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import PercentFormatter

from trainables.errors import UserError
from trainables.plots.snapshots import read_arrays
from trainables.plots.style import INK, caption, heading, plt, quiet_frame

_COLUMNS = 8
_PAIRS = 12
# Up to so many classes every cell bears its share.
_MAX_NAMED_CELLS = 20
# Rows and columns that can be told apart on paper; of more classes the most confused are shown.
_MAX_CLASSES = 210
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
    """Write `confusion_<stem>.png` and, if anything was wrong, `mistakes_<stem>.png` of a
    predictions file into `out_dir`.

    Args:
        npz: arrays as in `Predictions`; `names` (C,) str, `epoch` int.
        title: first line of the pictures, such as the trial's name.
    Returns:
        The paths. Equal input gives equal pictures.
    Raises:
        UserError: the file is missing, unreadable, or its content is not as above.
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
    """Draw the share of each true class that is predicted as each class (rows sum to 1), beside the
    most frequent confusions.

    Of more than `_MAX_CLASSES` classes, those with the most mistakes.
    """
    shown = np.arange(len(names))
    if len(names) > _MAX_CLASSES:
        shown = _most_confused(counts)
        subtitle += f"; the {len(shown)} with the most mistakes"
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    shares = shares[np.ix_(shown, shown)]

    side = min(5 + 0.12 * len(shown), 18)
    figure, (ax, beside) = plt.subplots(
        1, 2, figsize=(side + 4.2, side + 0.6), width_ratios=(side + 0.8, 2.8), layout="constrained"
    )
    image = ax.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    _label_classes(ax, [caption(names[c], 18) for c in shown], side)
    if len(shown) <= _MAX_NAMED_CELLS:
        _write_shares(ax, shares)
    heading(ax, title, subtitle)
    _draw_scale(figure, ax, image)
    _list_pairs(beside, counts, names)

    dpi = 120 if len(shown) <= 100 else 160
    figure.savefig(path, dpi=dpi, bbox_inches="tight", pad_inches=0.15)
    plt.close(figure)


def _most_confused(counts: np.ndarray) -> np.ndarray:
    """Classes with the most mistakes, as true or as predicted class, sorted by number."""
    missed = counts.sum(1) - counts.diagonal()
    mistaken = counts.sum(0) - counts.diagonal()
    mistakes = missed + mistaken
    order = np.argsort(-mistakes, kind="stable")
    return np.sort(order[: _MAX_CLASSES // 3])


def _label_classes(ax: Axes, captions: list[str], side: float) -> None:
    """Label the rows and columns of a matrix whose side is `side` inches."""
    row_height = 72 * side / len(captions)  # points
    size = min(9.0, 0.6 * row_height)
    upright = max(len(text) for text in captions) <= 2
    ticks = range(len(captions))

    ax.set_xticks(ticks, captions, rotation=0 if upright else 90, fontsize=size)
    ax.set_yticks(ticks, captions, fontsize=size)
    ax.tick_params(length=0, pad=1.5)
    ax.set_xlabel("predicted", color=INK)
    ax.set_ylabel("true", color=INK)


def _write_shares(ax: Axes, shares: np.ndarray) -> None:
    """Write every share of at least half a percent into its cell."""
    for (row, column), share in np.ndenumerate(shares):
        if share < 0.005:
            continue
        ax.text(
            column,
            row,
            f"{share:.0%}",
            ha="center",
            va="center",
            fontsize=7.5,
            color="white" if share >= 0.3 else INK,
        )


def _draw_scale(figure: Figure, ax: Axes, image: AxesImage) -> None:
    percent = PercentFormatter(1)
    bar = figure.colorbar(image, ax=ax, shrink=0.6, aspect=40, pad=0.01, format=percent)
    bar.outline.set_visible(False)


def _list_pairs(ax: Axes, counts: np.ndarray, names: tuple[str, ...]) -> None:
    """List the most frequent confusions, true -> predicted, with their number and the class's
    size."""
    confused = counts - np.diag(counts.diagonal())
    order = np.argsort(-confused, axis=None, kind="stable")[:_PAIRS]
    cells = [int(cell) for cell in order if confused.flat[cell]]
    pairs = [divmod(cell, len(names)) for cell in cells]

    ax.axis("off")
    ax.text(
        0,
        1,
        "most often confused",
        transform=ax.transAxes,
        va="top",
        fontsize=9,
        fontweight="bold",
        color=INK,
    )
    for line, (true, predicted) in enumerate(pairs, 1):
        truth = caption(names[true], 14)
        answer = caption(names[predicted], 14)
        pair = f"{truth} → {answer}"
        times = confused[true, predicted]
        images = counts[true].sum()
        frequency = f"{times} of {images}"
        _write_line(ax, line, 0, "left", pair)
        _write_line(ax, line, 1, "right", frequency)


def _write_line(ax: Axes, line: int, x: float, side: str, text: str) -> None:
    """Write one text of a numbered line, at the left or the right edge."""
    ax.annotate(
        text,
        xy=(x, 1),
        xytext=(0, -16 * line),
        xycoords=ax.transAxes,
        textcoords="offset points",
        va="top",
        ha=side,
        fontsize=9,
        color=INK,
    )


def _draw_mistakes(data: Predictions, title: str, path: Path) -> None:
    """Draw the most confident mistakes, eight in a row."""
    count = len(data.mistakes)
    wrong = int((data.labels != data.predicted).sum())
    rows = math.ceil(count / _COLUMNS)

    size = (1.45 * _COLUMNS, 1.95 * rows + 0.8)  # inches
    figure = plt.figure(figsize=size, layout="constrained")
    figure.suptitle(title, x=0.005, ha="left", fontsize=12, fontweight="bold")
    figure.supxlabel(
        f"epoch {data.epoch} · {count} most confident of {wrong} mistakes "
        f"on {len(data.labels)} validation images · "
        "true class → predicted class, its probability",
        x=0.005,
        ha="left",
        fontsize=9,
        color=INK,
    )
    for place, (row, image) in enumerate(zip(data.mistakes, data.images, strict=True), 1):
        ax = figure.add_subplot(rows, _COLUMNS, place)
        # Smoothing would blur the few pixels of a small image.
        interpolation = "nearest" if image.shape[-1] < 64 else None
        ax.imshow(image.transpose(1, 2, 0), interpolation=interpolation)
        quiet_frame(ax)
        ax.set_title(_mistake_caption(data, row), fontsize=9)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _mistake_caption(data: Predictions, row: int) -> str:
    true = caption(data.names[data.labels[row]], 16)
    predicted = caption(data.names[data.predicted[row]], 16)
    separator = " " if len(true) + len(predicted) <= 12 else "\n"
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
    """Raise UserError unless `values` are `count` class numbers, one an image."""
    is_list = values.shape == (count,) and count
    is_integer = values.dtype.kind == "i"
    if not is_list or not is_integer or values.min() < 0 or values.max() >= classes:
        raise UserError(
            f"{str(npz)!r}: {name} {values.dtype} {values.shape} must be classes in "
            f"[0, {classes}), one an image"
        )
