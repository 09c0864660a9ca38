"""Parts of the variance of a search's accuracy: they say where the next hour is best spent.

The method of moments of a nested design (Searle, Casella, McCulloch 1992, Variance Components,
section 3.2): final trainings vary within a search, searches vary with their draws, and every
accuracy has the luck of its test images.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Components:
    """Variances of one search's accuracy, which is the mean of its final trainings."""

    search: float
    """By another search: its trials, choice, split and backbone."""
    training: float
    """By other seeds of the final trainings."""
    images: float
    """By another draw of test images."""

    @property
    def deviations(self) -> dict[str, float]:
        """Part -> the standard deviation that it would give alone."""
        return {part: variance**0.5 for part, variance in asdict(self).items()}

    @property
    def shares(self) -> dict[str, float]:
        """Part -> its share of the whole, in [0, 1]; empty where nothing varies."""
        parts = asdict(self)
        whole = sum(parts.values())
        if whole == 0:
            return {}
        return {part: variance / whole for part, variance in parts.items()}


def components(scores: Sequence[Sequence[float]], images: float) -> Components | None:
    """Split the variance of the searches' accuracies into its parts.

    Args:
        scores: accuracies of the final trainings, one sequence for each search, in [0, 1].
        images: variance of a search's accuracy over draws of test images.

    Returns:
        None for fewer than two searches, or where no search has two final trainings.
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
"""Part of the variance -> the work that lessens it."""


def advice(found: Sequence[Components]) -> str:
    """Name the part that is largest on average over settings, and the work that lessens it; ""
    where nothing varies."""
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
