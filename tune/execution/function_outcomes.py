"""Scores of test images from a function, in the form that verdicts are based on."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainables.outcomes import ImageOutcomes

_STEPS = 1_000_000
"""Number of steps in [0, 1] to which scores other than 0 and 1 are rounded."""
_TOLERANCE = 1e-4  # between a metric and the mean of its scores


def outcomes_per_image(
    metrics: Mapping[str, float],
    per_image: Mapping[str, Sequence[float]],
    groups: Sequence[Any] | None,
) -> ImageOutcomes:
    """Return the outcome of every test image.

    Args:
        metrics: full names, `test/...`.
        per_image: metric -> (n,) scores in [0, 1].
        groups: (n,) labels; images with the same label belong together.
    Raises:
        ValueError: scores outside [0, 1] or of different numbers, or a metric that is not the mean
            of its scores.
    """
    scores = {name: _scores(name, values) for name, values in per_image.items()}
    counts = {len(values) for values in scores.values()}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"per_image must have one score for each test image, got {sorted(counts)}")
    (count,) = counts
    if groups is not None and len(groups) != count:
        raise ValueError(f"groups must have a label for each of {count} images, got {len(groups)}")

    for name, values in scores.items():
        _check_mean(name, values, metrics)

    whole = all(np.isin(values, (0.0, 1.0)).all() for values in scores.values())
    steps = 1 if whole else _STEPS
    right = {
        f"test/{name}": np.rint(values * steps).astype(np.int64) for name, values in scores.items()
    }
    return ImageOutcomes(
        test_set=_digest(count, groups), right=right, answers=steps, clusters=_clusters(groups)
    )


def _scores(name: str, values: Sequence[float]) -> np.ndarray:  # (n,) float64
    """Convert the scores to an array."""
    array = np.asarray([float(value) for value in values], np.float64)
    if not ((array >= 0) & (array <= 1)).all():
        raise ValueError(f"per_image scores of {name} must be in [0, 1]")
    return array


def _check_mean(name: str, values: np.ndarray, metrics: Mapping[str, float]) -> None:
    given = metrics.get(f"test/{name}")
    if given is None:
        raise ValueError(f"per_image has scores of {name}, which run.test is not given")
    mean = float(values.mean())
    if not math.isclose(given, mean, rel_tol=0.0, abs_tol=_TOLERANCE):
        raise ValueError(
            f"{name}={given:g} is not the mean of its per_image scores, {mean:g}: the error of a "
            "finite test set is known only of a mean over images"
        )


def _digest(count: int, groups: Sequence[Any] | None) -> str:
    """Digest of a test set of which only size and groups are known."""
    text = f"{count} {None if groups is None else [str(group) for group in groups]}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _clusters(groups: Sequence[Any] | None) -> np.ndarray | None:  # (n,) int
    if groups is None:
        return None
    _, numbers = np.unique([str(group) for group in groups], return_inverse=True)
    return numbers
