"""Tuning curves: the expected best result of a search of n trials, with a band that holds for all n
at once.

If one draw has the distribution F, the best of n independent draws has the distribution F^n. Its
median is therefore the quantile 0.5^(1/n) of F (Dodge et al. 2019, "Show your work"). A band around
the empirical distribution gives a band around every quantile (Lourie, He and Cho 2024, "Show your
work with confidence"; their package opda has narrower bands). Draws of an adaptive sampler are not
independent, so for such a sampler median and band are approximate.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tune.reports.statistics import LEVEL


@dataclass(frozen=True)
class TuningCurve:
    """Median of the best of n trials, n = 1, 2, ...; all values lie in [0, 1]."""

    trials: list[int]
    median: list[float]

    low: list[float]
    """Lower bound of the 95 % band."""

    high: list[float]
    """Upper bound of the 95 % band; 1 if there are too few draws to bound it."""


def tuning_curve(
    values: Sequence[float],  # (m,) in [0, 1], one per trial
    trials: int,
) -> TuningCurve:
    """Estimate the tuning curve of a search from the results of its trials.

    The band inverts the Kolmogorov-Smirnov test. It is exact for independent draws from any
    continuous distribution, and conservative for other distributions.

    Args:
        values: result of each trial; for a pruned trial its best value.
        trials: the largest n of the curve.
    Raises:
        ValueError: there are no values, or one is not in [0, 1].
    """
    drawn = np.sort(np.asarray(values, dtype=np.float64))
    if len(drawn) == 0 or not (drawn[0] >= 0 and drawn[-1] <= 1):
        raise ValueError(f"`values` must be in [0, 1] and at least one, but got {list(values)}")

    distance = _ks_distance(len(drawn))
    numbers = list(range(1, trials + 1))
    levels = [0.5 ** (1 / number) for number in numbers]
    return TuningCurve(
        trials=numbers,
        median=[_quantile(drawn, level) for level in levels],
        low=[_quantile(drawn, level - distance) for level in levels],
        high=[_quantile(drawn, level + distance) for level in levels],
    )


def _ks_distance(draws: int) -> float:
    """Return the distance from the true distribution that the empirical distribution of `draws`
    draws exceeds with 5 % probability."""
    from scipy.stats import kstwo  # takes a second to import

    return float(kstwo.ppf(LEVEL, draws))


def _quantile(drawn: np.ndarray, level: float) -> float:
    """Return the smallest draw that is at or above a share `level` of the draws; 0 and 1 beyond the
    draws."""
    if level <= 0:
        return 0.0
    rank = math.ceil(level * len(drawn) - 1e-9)
    if rank > len(drawn):
        return 1.0
    return float(drawn[rank - 1])
