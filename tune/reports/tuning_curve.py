"""Tuning curves: the best result that a search of n trials can expect, with a band for all n at
once.

The best of n independent draws has the distribution F^n, if F is that of one draw, so its median is
the quantile 0.5^(1/n) of F (Dodge et al. 2019, "Show your work"). A band around the empirical
distribution is a band around every quantile (Lourie, He and Cho 2024, "Show your work with
confidence"; their package opda has narrower bands). An adaptive sampler does not draw
independently: then both are approximate.
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
    """Lower end of the 95 % band."""

    high: list[float]
    """Upper end; 1 where so few draws do not bound it."""


def tuning_curve(
    values: Sequence[float],  # (m,) in [0, 1], one per trial
    trials: int,
) -> TuningCurve:
    """Estimate the curve of a search from the results of its trials.

    The band inverts the Kolmogorov-Smirnov test: it is exact for independent draws of a continuous
    distribution, whatever that is, and wider than necessary for others.

    Args:
        values: result of each trial; one that was stopped has its best so far.
        trials: the curve's last n.
    Raises:
        ValueError: no value, or one that is not in [0, 1].
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
    """The distance that the empirical distribution of so many draws keeps with 95 %."""
    from scipy.stats import kstwo  # takes a second to import

    return float(kstwo.ppf(LEVEL, draws))


def _quantile(drawn: np.ndarray, level: float) -> float:
    """The smallest draw that at least this share does not exceed; 0 and 1 beyond the draws."""
    if level <= 0:
        return 0.0
    rank = math.ceil(level * len(drawn) - 1e-9)
    if rank > len(drawn):
        return 1.0
    return float(drawn[rank - 1])
