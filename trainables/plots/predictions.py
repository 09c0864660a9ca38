"""Pictures of a classifier's predictions: which classes it takes for which, and where it is sure
and wrong."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.ticker import PercentFormatter

from trainables.errors import UserError, first_line
from trainables.plots.style import INK, caption, heading, plt, quiet_frame

_COLUMNS = 8
_NAMED_CELLS = 20
"""Up to so many classes every cell bears its share."""
_MOST_CLASSES = 210
"""Rows and columns that can be told apart on paper; of more classes the most confused are shown."""
_PAIRS = 12


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
    """Write `confusion_<stem>.png` and, where anything was wrong, `mistakes_<stem>.png` of a
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
    counts = np.zeros((len(data.names), len(data.names)), np.int64)
    np.add.at(counts, (data.labels, data.predicted), 1)
    right = np.trace(counts) / counts.sum()
    what = f"epoch {data.epoch} · {len(data.labels)} validation images, {len(data.names)} classes, {right:.1%} right"
    paths = [out_dir / f"confusion_{npz.stem}.png"]
    confusion_picture(counts, data.names, title, what, paths[0])
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
    """Shares of each true class that go to each predicted one, rows of sum 1; beside it the most
    frequent confusions.

    Of more than `_MOST_CLASSES` classes, those with the most mistakes.
    """
    shown = np.arange(len(names))
    if len(names) > _MOST_CLASSES:
        wrong = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
        shown = np.sort(np.argsort(-wrong, kind="stable")[: _MOST_CLASSES // 3])
        subtitle += f"; the {len(shown)} with the most mistakes"
    shares = (counts / counts.sum(1, keepdims=True).clip(1))[np.ix_(shown, shown)]
    side = min(5 + 0.12 * len(shown), 18)
    figure, (ax, beside) = plt.subplots(
        1, 2, figsize=(side + 4.2, side + 0.6), width_ratios=(side + 0.8, 2.8), layout="constrained"
    )
    image = ax.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    # points; a row is 72 side / C high, less the margins
    size = min(9.0, 0.6 * 72 * side / len(shown))
    captions = [caption(names[i], 18) for i in shown]
    upright = max(map(len, captions)) <= 2
    ax.set_xticks(range(len(shown)), captions, rotation=0 if upright else 90, fontsize=size)
    ax.set_yticks(range(len(shown)), captions, fontsize=size)
    ax.tick_params(length=0, pad=1.5)
    if len(shown) <= _NAMED_CELLS:
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.005:
                ax.text(
                    column,
                    row,
                    f"{share:.0%}",
                    ha="center",
                    va="center",
                    fontsize=7.5,
                    color="white" if share >= 0.3 else INK,
                )
    ax.set_xlabel("predicted", color=INK)
    ax.set_ylabel("true", color=INK)
    heading(ax, title, subtitle)
    bar = figure.colorbar(image, ax=ax, shrink=0.6, aspect=40, pad=0.01, format=PercentFormatter(1))
    bar.outline.set_visible(False)
    _list_pairs(beside, counts, names)
    figure.savefig(
        path, dpi=120 if len(shown) <= 100 else 160, bbox_inches="tight", pad_inches=0.15
    )
    plt.close(figure)


def _list_pairs(ax: plt.Axes, counts: np.ndarray, names: tuple[str, ...]) -> None:
    """The most frequent confusions, true -> predicted, with their number and the class's size."""
    off = counts - np.diag(counts.diagonal())
    order = np.argsort(-off, axis=None, kind="stable")[:_PAIRS]
    rows = [divmod(int(i), len(names)) for i in order if off.flat[i]]
    lines = [f"{caption(names[a], 14)} → {caption(names[b], 14)}" for a, b in rows]
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
    for number, (line, (a, b)) in enumerate(zip(lines, rows, strict=True), 1):
        for x, side, text in ((0, "left", line), (1, "right", f"{off[a, b]} of {counts[a].sum()}")):
            down, at = (0, -16 * number), ax.transAxes
            ax.annotate(
                text,
                (x, 1),
                down,
                xycoords=at,
                textcoords="offset points",
                va="top",
                ha=side,
                fontsize=9,
                color=INK,
            )


def _draw_mistakes(data: Predictions, title: str, path: Path) -> None:
    count = len(data.mistakes)
    lines = -(-count // _COLUMNS)
    figure = plt.figure(figsize=(1.45 * _COLUMNS, 1.95 * lines + 0.8), layout="constrained")
    figure.suptitle(title, x=0.005, ha="left", fontsize=12, fontweight="bold")
    wrong = int((data.labels != data.predicted).sum())
    figure.supxlabel(
        f"epoch {data.epoch} · {count} most confident of {wrong} mistakes on {len(data.labels)} validation images · "
        "true class → predicted class, its probability",
        x=0.005,
        ha="left",
        fontsize=9,
        color=INK,
    )
    for place, (row, image) in enumerate(zip(data.mistakes, data.images, strict=True), 1):
        ax = figure.add_subplot(lines, _COLUMNS, place)
        ax.imshow(
            image.transpose(1, 2, 0), interpolation="nearest" if image.shape[-1] < 64 else None
        )
        quiet_frame(ax)
        true, predicted = (
            caption(data.names[which[row]], 16) for which in (data.labels, data.predicted)
        )
        one_line = len(true) + len(predicted) <= 12
        ax.set_title(
            f"{true} →{' ' if one_line else chr(10)}{predicted}  {data.confidence[row]:.2f}",
            fontsize=9,
        )
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _load(npz: Path) -> Predictions:
    try:
        with np.load(npz) as file:
            arrays = {
                name: file[name]
                for name in (
                    "labels",
                    "predicted",
                    "names",
                    "mistakes",
                    "images",
                    "confidence",
                    "epoch",
                )
            }
    except FileNotFoundError:
        raise UserError(
            f"no predictions file {str(npz)!r}; a completed trial writes it into its folder"
        ) from None
    except KeyError as error:
        raise UserError(f"{str(npz)!r} lacks an array: {error.args[0]}") from None
    except (OSError, ValueError, TypeError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        reason = first_line(error)
        raise UserError(f"cannot read predictions {str(npz)!r}: {reason}") from None
    n, classes = len(arrays["labels"]), len(arrays["names"])
    for name in ("labels", "predicted"):
        values = arrays[name]
        if (
            values.shape != (n,)
            or not n
            or values.dtype.kind != "i"
            or values.min() < 0
            or values.max() >= classes
        ):
            raise UserError(
                f"{str(npz)!r}: {name} {values.dtype} {values.shape} must be classes in [0, {classes}), one an image"
            )
    return Predictions(
        **arrays | {"names": tuple(map(str, arrays["names"])), "epoch": int(arrays["epoch"])}
    )
