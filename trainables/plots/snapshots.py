"""What a trial leaves behind for pictures, which another process draws (`trainables/plots/draw.py`,
by the file's name).

A file `<kind>-<anything>.npz` in a trial's folder holds plain arrays: no objects, nothing that
could run code.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from trainables.files import atomic_file

Part = Literal["train", "val"]
"""The split that a picture shows."""
MAX_POINTS = 600
"""Images of a split that are embedded for a picture: t-SNE takes seconds, and single points can
still be told apart."""
MAX_CLASSES = 12
"""Classes with a colour of their own; more cannot be told apart."""

MISTAKES = 24
"""Images of the most confident mistakes."""


def snapshot_epochs(epochs: int) -> set[int]:
    """Epochs, counted from 1, after which a trial is looked at: the first, the middle and the
    last."""
    return {1, (epochs + 1) // 2, epochs}


def coloured_classes(labels: np.ndarray) -> np.ndarray:
    """The `MAX_CLASSES` most frequent classes, sorted; labels below 0 are none."""
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    return np.sort(classes[np.argsort(-counts, kind="stable")][:MAX_CLASSES])


def shown_rows(
    labels: np.ndarray,  # (n,) int, -1 = unlabelled
) -> np.ndarray:  # (m,) int, sorted, m <= MAX_POINTS
    """Rows that stand for all, the same at every epoch: two thirds of them of coloured classes,
    where there are as many."""
    shuffled = np.random.default_rng(0).permutation(len(labels))
    coloured = np.isin(labels, coloured_classes(labels))[shuffled]
    front, back = shuffled[coloured], shuffled[~coloured]
    front = front[: max(MAX_POINTS - len(back), MAX_POINTS * 2 // 3)]
    return np.sort(np.concatenate([front, back[: MAX_POINTS - len(front)]]))


def confident_mistakes(
    labels: np.ndarray, predicted: np.ndarray, confidence: np.ndarray
) -> np.ndarray:
    """Rows (m,) of at most `MISTAKES` wrong predictions, the most confident first."""
    wrong = np.flatnonzero(labels != predicted)
    return wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]


def write_arrays(path: Path, **arrays: Any) -> None:
    """`numpy.savez`, but after a kill the path holds the old file or the new one."""
    with atomic_file(path) as file:
        np.savez(file, **arrays)
