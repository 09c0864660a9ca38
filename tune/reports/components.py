"""Variance components of a search's accuracy, which show what would reduce its variance most.

Uses the method of moments for a nested design (Searle, Casella, McCulloch 1992, Variance
Components, section 3.2). Final trainings vary within a search, searches vary with their random
draws, and every accuracy depends on the sample of test images.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Components:
    """Variance components of one search's accuracy, the mean over its final trainings."""

    search: float
    """Variance between searches, which differ in trials, choice, split and backbone."""
    training: float
    """Variance between seeds of the final trainings."""
    images: float
    """Variance between draws of test images."""

    @property
    def deviations(self) -> dict[str, float]:
        """Component -> standard deviation if it were the only one."""
        return {part: variance**0.5 for part, variance in asdict(self).items()}

    @property
    def shares(self) -> dict[str, float]:
        """Component -> its share of the total variance, in [0, 1]; empty if nothing varies."""
        parts = asdict(self)
        whole = sum(parts.values())
        if whole == 0:
            return {}
        return {part: variance / whole for part, variance in parts.items()}


def components(scores: Sequence[Sequence[float]], images: float) -> Components | None:
    """Split the variance of the searches' accuracies into its components.

    Args:
        scores: accuracies of the final trainings, one sequence for each search, in [0, 1].
        images: variance of a search's accuracy over draws of test images.

    Returns:
        None for fewer than two searches, or if no search has two final trainings.
    """
    repeated = [np.var(runs, ddof=1) / len(runs) for runs in scores if len(runs) > 1]
    if len(scores) < 2 or not repeated:
        return None

    means = [float(np.mean(runs)) for runs in scores]
    training = float(np.mean(repeated))
    search = float(np.var(means, ddof=1)) - training - images
    return Components(max(0.0, search), training, images)


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
    return (
        f"On average over the settings, {averages['search']:.0%} of the variance comes from the "
        f"search, {averages['training']:.0%} from the final trainings, {averages['images']:.0%} "
        f"from the test images: {ADVICE[largest]} would help most."
    )
