"""Arrays that a trial writes for pictures. Another process draws them (`trainables/plots/draw.py`,
by the file's name).

A file `<kind>-<anything>.npz` in a trial's folder contains plain arrays: no objects, and nothing
that could run code.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trainables.errors import UserError, first_line
from trainables.files import atomic_file

Part = Literal["train", "val"]
"""The split that a picture shows."""
MAX_POINTS = 600
"""Largest number of a split's images that are embedded for a picture: t-SNE takes seconds, and
single points can still be distinguished."""
MAX_CLASSES = 12
"""Largest number of classes with their own colour; more could not be distinguished."""
MISTAKES = 24
"""Largest number of confident mistakes that are shown."""
NO_IMAGE = 254
"""Mask value outside an image that is smaller than its panel."""


def snapshot_epochs(epochs: int) -> set[int]:
    """Epochs, counted from 1, after which a trial writes snapshots: the first, the middle and the
    last."""
    return {1, (epochs + 1) // 2, epochs}


def coloured_classes(labels: np.ndarray) -> np.ndarray:
    """The `MAX_CLASSES` most frequent classes, sorted; negative labels are not a class."""
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    most_frequent = classes[np.argsort(-counts, kind="stable")]
    return np.sort(most_frequent[:MAX_CLASSES])


def shown_rows(
    labels: np.ndarray,  # (n,) int, -1 = unlabelled
) -> np.ndarray:  # (m,) int, sorted, m <= MAX_POINTS
    """Choose representative rows, the same at every epoch.

    Two thirds of them are from coloured classes, if there are enough.
    """
    shuffled = np.random.default_rng(0).permutation(len(labels))
    is_coloured = np.isin(labels, coloured_classes(labels))[shuffled]
    coloured = shuffled[is_coloured]
    others = shuffled[~is_coloured]

    coloured = coloured[: max(MAX_POINTS - len(others), MAX_POINTS * 2 // 3)]
    others = others[: MAX_POINTS - len(coloured)]
    return np.sort(np.concatenate([coloured, others]))


def confident_mistakes(
    labels: np.ndarray,  # (n,) int
    predicted: np.ndarray,  # (n,) int
    confidence: np.ndarray,  # (n,) probability of the predicted class
) -> np.ndarray:  # (m,) rows, m <= MISTAKES
    """Rows of wrong predictions, most confident first."""
    wrong = np.flatnonzero(labels != predicted)
    by_confidence = np.argsort(-confidence[wrong], kind="stable")
    return wrong[by_confidence][:MISTAKES]


def write_arrays(path: Path, **arrays: Any) -> None:
    """Write arrays as `numpy.savez` does; after a kill, the path holds the old file or the new
    one."""
    with atomic_file(path) as file:
        np.savez(file, **arrays)


def read_arrays(
    path: Path, kind: str, needed: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Read a file of `write_arrays`, and check that it contains the arrays in `needed`, which
    include `epoch`, a number.

    Raises:
        UserError: the file is missing, unreadable, or lacks an array.
    """
    try:
        with np.load(path) as file:
            names = [*needed, *(name for name in optional if name in file.files)]
            arrays = {name: file[name] for name in names}
    except FileNotFoundError:
        raise UserError(
            f"no {kind} file {str(path)!r}; a trial writes it into its folder"
        ) from None
    except KeyError as error:
        raise UserError(
            f"{str(path)!r} lacks an array: {error.args[0]}; it needs {', '.join(needed)}"
        ) from None
    except (OSError, ValueError, TypeError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(
            f"cannot read {kind} {str(path)!r}: {first_line(error)}; a trial writes such a file"
        ) from None

    if arrays["epoch"].ndim:
        raise UserError(f"{str(path)!r}: epoch must be a number; a trial writes such a file")
    return arrays
