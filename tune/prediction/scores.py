"""Predictions against labels that the images came with, beside the test metrics on record."""

from collections.abc import Sequence

import numpy as np
from rich.table import Table

from tune.formatting import plain_console
from tune.prediction.trained import Trained

_CLASSES = 40  # in a table; of more, those that are recognised worst


def score_labels(
    truth: Sequence[str],
    predicted: Sequence[str],
    classes: Sequence[str],  # C
    trained: Trained,
) -> list[str]:
    """Accuracy, balanced accuracy, macro-F1 and a table by class, in words."""
    number = {name: position for position, name in enumerate(classes)}
    true = np.array([number[name] for name in truth])
    said = np.array([number[name] for name in predicted])
    counts = np.zeros((len(classes), len(classes)), np.int64)  # (truth, predicted)
    np.add.at(counts, (true, said), 1)

    hits = counts.diagonal()
    present = counts.sum(1)
    called = counts.sum(0)
    recall = _ratio(hits, present)
    precision = _ratio(hits, called)
    f1 = _ratio(2 * hits, present + called)
    accuracy = hits.sum() / max(1, present.sum())

    shown = np.flatnonzero(present)
    told = [
        f"{len(true):,} have labels: top-1 {accuracy:.4f}, "
        f"balanced accuracy {recall[shown].mean():.4f}, "
        f"macro-F1 {np.nanmean(f1):.4f}; {trained.on_record('test/top1')}"
    ]
    rows = [
        (classes[c], str(present[c]), _text(precision[c]), _text(recall[c]), _text(f1[c]))
        for c in _worst_first(shown, f1)
    ]
    return told + _table(("class", "images", "precision", "recall", "F1"), rows, len(shown))


def score_masks(
    ious: np.ndarray,  # (C,) float64, NaN for a class in neither truth nor prediction
    pixels: np.ndarray,  # (C,) of truth
    masks: int,
    classes: Sequence[str],
    trained: Trained,
) -> list[str]:
    """The course's mIoU and a table by class, in words."""
    told = [f"{masks:,} have masks: mIoU {np.nanmean(ious):.4f}; {trained.on_record('test/miou')}"]
    shown = np.flatnonzero(~np.isnan(ious))
    share = pixels / max(1, pixels.sum())
    rows = [(classes[c], f"{share[c]:.1%}", _text(ious[c])) for c in _worst_first(shown, ious)]
    return told + _table(("class", "of the pixels", "IoU"), rows, len(shown))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part / whole`, NaN for 0 / 0."""
    undefined = np.full(len(part), np.nan)
    ratio: np.ndarray = np.divide(part, whole, out=undefined, where=whole > 0)
    return ratio


def _text(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.4f}"


def _worst_first(shown: np.ndarray, quality: np.ndarray) -> list[int]:
    order = np.argsort(quality[shown], kind="stable")
    worst: list[int] = shown[order].tolist()
    return worst


def _table(columns: Sequence[str], rows: Sequence[tuple[str, ...]], classes: int) -> list[str]:
    """Lines of a table, at most `_CLASSES` of the rows."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(columns[0], overflow="fold")
    for name in columns[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows[:_CLASSES]:
        table.add_row(*row)

    console = plain_console(100)
    with console.capture() as capture:
        console.print(table)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    if classes > _CLASSES:
        lines.append(f"... and {classes - _CLASSES} classes that are recognised better")
    return lines
