"""Compare predictions with the labels of the images, next to the recorded test metrics."""

import math
from collections.abc import Sequence

import numpy as np
from rich.table import Table

from trainables.class_metrics import (
    CLASS_HEADER,
    ClassResult,
    balanced_accuracy,
    class_results,
    class_rows,
    confusion_counts,
    macro_f1,
    shown_classes,
)
from tune.formatting import line_width, plain_console
from tune.prediction.trained import Trained

_CLASSES = 40  # maximum in a table; if there are more, those recognised worst


def score_labels(
    truth: Sequence[str],
    predicted: Sequence[str],
    classes: Sequence[str],
    trained: Trained,
) -> list[str]:
    """Return accuracy, balanced accuracy, macro-F1 and a table by class, as lines for the user."""
    number = {name: position for position, name in enumerate(classes)}
    true = np.array([number[name] for name in truth])
    called = np.array([number[name] for name in predicted])
    counts = confusion_counts(true, called, len(classes))
    top1 = float((true == called).mean())
    first = (
        f"{len(true):,} have labels: top-1 {top1:.4f}, "
        f"balanced accuracy {balanced_accuracy(counts):.4f}, macro-F1 {macro_f1(counts):.4f}; "
        f"{trained.on_record('test/top1')}"
    )
    return [first, *_table(class_results(counts, classes))]


def score_masks(
    confusion: np.ndarray,  # (C, C + 1) int64, predicted x true; last column: unknown truth
    masks: int,
    classes: Sequence[str],
    trained: Trained,
) -> list[str]:
    """Return the course's mIoU and a table by class, as lines for the user."""
    results = class_results(confusion[:, :-1].T, classes, elsewhere=confusion[:, -1])
    ious = [result.iou for result in results if not math.isnan(result.iou)]
    mean = sum(ious) / max(1, len(ious))
    first = f"{masks:,} have masks: mIoU {mean:.4f}; {trained.on_record('test/miou')}"
    return [first, *_table(results)]


def _table(results: Sequence[ClassResult]) -> list[str]:
    """Return a table of the classes in truth or prediction; if there are many, those with the
    lowest F1."""
    present = [result for result in results if result.count or result.predicted]

    table = Table(box=None, pad_edge=False, header_style="")  # lines of plain text
    table.add_column(CLASS_HEADER[0], overflow="fold")
    for name in CLASS_HEADER[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in class_rows(shown_classes(present, _CLASSES)):
        table.add_row(*row)

    console = plain_console(line_width(plain_console()))
    with console.capture() as capture:
        console.print(table)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    hidden = len(present) - _CLASSES
    if hidden > 0:
        lines.append(f"... and {hidden} classes that are recognised better")
    return lines
