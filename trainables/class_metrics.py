"""Per-class results, and two averages that weigh all classes equally, from one confusion matrix.

Reports and `report.py predict` import this module too: it must not import torch.

>>> counts = confusion_counts(truth, predicted, len(names))
>>> macro_f1(counts), balanced_accuracy(counts)
>>> write_class_results(folder / CLASS_RESULTS, class_results(counts, names))
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from trainables.errors import UserError
from trainables.files import write_atomically


@dataclass(frozen=True)
class ClassResult:
    """Results of one class. NaN means undefined, such as the precision of a class that was never
    predicted."""

    name: str
    count: int
    """Images (for masks: pixels) whose true class this is."""
    predicted: int
    """Images (pixels) that were predicted as this class."""
    precision: float
    """Share of the predictions that are right, in [0, 1]."""
    recall: float
    """Share of the true images (pixels) that were found, in [0, 1]."""
    f1: float
    """Harmonic mean of precision and recall, in [0, 1]; 0 if either is 0 or undefined."""
    iou: float
    """Intersection over union, in [0, 1]."""


def confusion_counts(
    truth: np.ndarray,  # (n,) int in [0, C)
    predicted: np.ndarray,  # (n,) int in [0, C)
    classes: int,  # C
) -> np.ndarray:  # (C, C) int64, true x predicted
    """Count the pairs of true and predicted class."""
    cells = np.asarray(truth, np.int64) * classes + np.asarray(predicted, np.int64)
    counts: np.ndarray = np.bincount(cells, minlength=classes * classes)
    return counts.reshape(classes, classes)


def class_results(
    counts: np.ndarray,  # (C, C) int, true x predicted
    names: Sequence[str],  # C
    elsewhere: np.ndarray | None = None,  # (C,) int
) -> list[ClassResult]:
    """Results of every class, in order.

    Args:
        elsewhere: predictions of each class on pixels without truth, which count as wrong.
    """
    hits = counts.diagonal().astype(float)
    true = counts.sum(1)
    called = counts.sum(0)
    if elsewhere is not None:
        called = called + elsewhere

    precision = _ratio(hits, called)
    recall = _ratio(hits, true)
    f1 = _ratio(2 * hits, true + called)
    iou = _ratio(hits, true + called - hits)
    return [
        ClassResult(
            name=name,
            count=int(true[number]),
            predicted=int(called[number]),
            precision=float(precision[number]),
            recall=float(recall[number]),
            f1=float(f1[number]),
            iou=float(iou[number]),
        )
        for number, name in enumerate(names)
    ]


def macro_f1(counts: np.ndarray) -> float:
    """Mean F1 over the classes in truth or prediction, in [0, 1]; NaN if there are none.

    The same as scikit-learn's `f1_score(average="macro", zero_division=0)`.
    """
    sizes = counts.sum(0) + counts.sum(1)
    return _mean(_ratio(2.0 * counts.diagonal(), sizes))


def balanced_accuracy(counts: np.ndarray) -> float:
    """Mean recall over the classes in truth, in [0, 1]; NaN if there are none.

    The same as scikit-learn's `balanced_accuracy_score`.
    """
    return _mean(_ratio(counts.diagonal().astype(float), counts.sum(1)))


def image_ratios(
    truth: np.ndarray,  # (n,) int in [0, C)
    predicted: np.ndarray,  # (n,) int in [0, C)
    classes: int,  # C
) -> dict[str, np.ndarray]:  # (n, C, 2) uint8 each
    """Each image's part of the numerators and denominators of both averages. The mean over classes
    of the ratio of their sums over images is "macro_f1" or "balanced_accuracy"."""
    is_true = np.arange(classes) == np.asarray(truth)[:, None]
    is_predicted = np.arange(classes) == np.asarray(predicted)[:, None]
    hit = (is_true & is_predicted).astype(np.uint8)
    either = is_true.astype(np.uint8) + is_predicted.astype(np.uint8)
    return {
        "macro_f1": np.stack([2 * hit, either], axis=2),
        "balanced_accuracy": np.stack([hit, is_true.astype(np.uint8)], axis=2),
    }


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """The quotient; NaN for 0 / 0."""
    result = np.full(len(above), math.nan)
    np.divide(above, below, out=result, where=below > 0)
    return result


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


# ---------------------------------------------------------------- files and tables


def write_class_results(path: Path, results: Sequence[ClassResult]) -> None:
    """Write a csv file with one line per class; undefined values are empty."""
    names = [field.name for field in fields(ClassResult)]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for result in results:
        writer.writerow({name: _cell(value) for name, value in asdict(result).items()})
    write_atomically(path, text.getvalue())


def read_class_results(path: Path) -> list[ClassResult]:
    """Read what `write_class_results` wrote.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [_result(row) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is not a table of results by class: {error}") from None


def class_rows(results: Sequence[ClassResult]) -> list[list[str]]:
    """Table cells for display: name, count, precision, recall, F1, IoU; "-" means undefined."""
    rows: list[list[str]] = []
    for result in results:
        shares = (result.precision, result.recall, result.f1, result.iou)
        cells = ["-" if math.isnan(share) else f"{share:.3f}" for share in shares]
        rows.append([result.name, f"{result.count:,}", *cells])
    return rows


def shown_classes(results: Sequence[ClassResult], most: int) -> list[ClassResult]:
    """All classes, or those with the lowest F1 if there are more than `most`. Classes with an
    undefined F1 come last."""
    if len(results) <= most:
        return list(results)
    return sorted(results, key=lambda one: math.inf if math.isnan(one.f1) else one.f1)[:most]


CLASS_HEADER = ("class", "count", "precision", "recall", "F1", "IoU")
"""Columns of `class_rows`."""


def _cell(value: object) -> object:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value


def _result(row: Mapping[str, str]) -> ClassResult:
    def share(name: str) -> float:
        return float(row[name] or "nan")

    return ClassResult(
        name=row["name"],
        count=int(row["count"]),
        predicted=int(row["predicted"]),
        precision=share("precision"),
        recall=share("recall"),
        f1=share("f1"),
        iou=share("iou"),
    )
