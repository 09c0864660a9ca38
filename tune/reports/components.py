"""Variance components of a search's accuracy, which show what would reduce its variance most.

Uses the method of moments for a nested design (Searle, Casella, McCulloch 1992, Variance
Components, section 3.2). Final trainings vary within a search, searches vary with their random
draws, and every accuracy depends on the sample of test images. `backbone_part.py` estimates which
part of the searches' component the backbone makes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Components:
    """Variance components of one search's accuracy, the mean over its final trainings."""

    search: float
    """Variance between searches, which differ in trials, choice, split and backbone."""
    training: float | None
    """Variance between seeds of the final trainings; None if each search has only one, whose seed
    then counts as part of the search."""
    images: float
    """Variance between draws of test images."""

    shared: float = 0.0
    """Part of `images` that all searches share, because their test sets overlap. More searches do
    not reduce it."""
    searches: int = 1
    """Number of searches R."""

    @property
    def deviations(self) -> dict[str, float]:
        """Component -> standard deviation of a search's accuracy if it were the only one."""
        parts = {"search": self.search, "training": self.training, "images": self.images}
        return {part: variance**0.5 for part, variance in parts.items() if variance is not None}

    @property
    def shares(self) -> dict[str, float]:
        """Component -> its share of the variance of the mean over searches, in [0, 1]; empty if
        nothing varies."""
        parts = {
            "search": self.search / self.searches,
            "training": (self.training or 0.0) / self.searches,
            "images": (self.images - self.shared) / self.searches + self.shared,
        }
        whole = sum(parts.values())
        if whole == 0:
            return {}
        return {part: variance / whole for part, variance in parts.items()}


def components(
    scores: Sequence[Sequence[float]], images: float, shared: float = 0.0
) -> Components | None:
    """Split the variance of the searches' accuracies into its components.

    Args:
        scores: accuracies of the final trainings, one sequence for each search, in [0, 1].
        images: variance of a search's accuracy over draws of test images.
        shared: covariance of two searches' accuracies over draws of test images. It is no part of
            the spread over searches.

    Returns:
        None for fewer than two searches.
    """
    if len(scores) < 2:
        return None

    repeated = [np.var(runs, ddof=1) / len(runs) for runs in scores if len(runs) > 1]
    training = float(np.mean(repeated)) if repeated else None
    shared = min(shared, images)
    means = [float(np.mean(runs)) for runs in scores]
    search = float(np.var(means, ddof=1)) - (training or 0.0) - (images - shared)
    return Components(max(0.0, search), training, images, shared, len(scores))


ADVICE = {
    "search": "further searches, or longer ones,",
    "training": "more final trainings of each choice (--repeats)",
    "images": "more test images",
}
"""Component -> the work that reduces it."""


def advice(found: Sequence[Components]) -> str:
    """Name the component that is largest on average over settings, and how to reduce it; "" if
    nothing varies."""
    shares = [one.shares for one in found if one.shares]
    if not shares:
        return ""
    averages = {part: float(np.mean([one[part] for one in shares])) for part in ADVICE}
    largest = max(averages, key=lambda part: averages[part])
    of_training = f", {averages['training']:.0%} from the final trainings"
    if all(one.training is None for one in found):
        of_training = " and its final training"
    return (
        f"On average over the settings, {averages['search']:.0%} of the variance of the mean comes "
        f"from the search{of_training}, {averages['images']:.0%} from the test images: "
        f"{ADVICE[largest]} would help most."
    )
