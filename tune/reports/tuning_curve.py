"""Tuning curves: the expected best result of a search of n trials, with a band that holds for all n
at once.

If one draw has the distribution F, the best of n independent draws has the distribution F^n. Its
median is therefore the quantile 0.5^(1/n) of F (Dodge et al. 2019, "Show your work"). A band around
the empirical distribution gives a band around every quantile (Lourie, He and Cho 2024, "Show your
work with confidence"). The band is that of their package opda: pointwise intervals of the order
statistics, widened until all hold at once (Learned-Miller and DeStefano 2008). At the ends, where
the best of many trials lies, it is far narrower than that of Kolmogorov and Smirnov. Draws of an
adaptive sampler are not independent, so for such a sampler median and band are approximate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from tune.reports.statistics import LEVEL

NARROW_UP_TO = 250
"""Largest number of draws with opda's own band, which takes 8 CPU seconds for them (docs/notes/
evidence.md). With more, the band of Kolmogorov and Smirnov is narrow enough."""

_ROUNDING = 1e-9  # of a level times the number of draws
_SEED = 0  # the critical value is simulated: the same record gives the same page


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

    The band is exact for independent draws from any continuous distribution, and conservative for
    other distributions.

    Args:
        values: result of each trial; for a pruned trial its best value.
        trials: the largest n of the curve.
    Raises:
        ValueError: there are no values, or one is not in [0, 1].
    """
    drawn = np.sort(np.asarray(values, dtype=np.float64))
    if len(drawn) == 0 or not (drawn[0] >= 0 and drawn[-1] <= 1):
        raise ValueError(f"`values` must be in [0, 1] and at least one, but got {list(values)}")

    low, median, high = _ranks(len(drawn), trials)
    bounded = np.concatenate([[0.0], drawn, [1.0]])
    return TuningCurve(
        trials=list(range(1, trials + 1)),
        median=bounded[median].tolist(),
        low=bounded[low].tolist(),
        high=bounded[high].tolist(),
    )


@cache
def _ranks(
    draws: int, trials: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # (trials,) int each, 0 to `draws` + 1
    """Return the ranks of lower bound, median and upper bound among the draws, which do not depend
    on their values. 0 and `draws` + 1 stand for the ends of the range."""
    from opda.nonparametric import EmpiricalDistribution  # imports scipy.stats: a second

    below, _, above = EmpiricalDistribution.confidence_bands(
        np.arange(1, draws + 1),
        confidence=LEVEL,
        a=0,
        b=draws + 1,
        generator=np.random.default_rng(_SEED),
        method="ld_equal_tailed" if draws <= NARROW_UP_TO else "ks",
        n_jobs=1,
    )
    numbers = np.arange(1, trials + 1)
    # the upper band of the distribution is the lower one of its quantiles
    low, high = (band.quantile_tuning_curve(numbers).astype(int) for band in (above, below))
    median = np.ceil(0.5 ** (1 / numbers) * draws - _ROUNDING).astype(int)
    return low, median, high
