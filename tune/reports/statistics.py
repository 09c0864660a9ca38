"""Confidence intervals of means and differences, over runs trained under fresh seeds.

The noise is estimated only from the runs that are compared. An estimate pooled over other
configurations would be wrong if their noise differs. The sampling error of the test images adds to
the variance between seeds (Bouthillier et al. 2021, "Accounting for variance in machine learning
benchmarks").
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

# Student's t distribution comes from `scipy.special`; importing `scipy.stats` takes a second.

LEVEL = 0.95
"""Confidence level of all intervals."""

FIRST_LOOK = 0.04
"""Significance level of a study's first verdict."""

LATER_LOOKS = 0.004
"""Significance level shared by all later looks, which have more runs. Part of `1 - LEVEL` stays
unspent: with five accuracies from a skewed distribution, Student's t is slightly wrong, and every
look adds its error (docs/notes/evidence.md)."""

_ROUNDING = 1e-12  # a spread below this fraction of the largest score is a rounding error
_SMALLEST_P = 1e-15
_HALVINGS = 60


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % confidence interval by Student's t."""

    mean: float
    low: float
    high: float

    p: float = math.nan
    """Two-sided p-value of the hypothesis that the true value is 0."""

    @property
    def decided(self) -> bool:
        """True if the interval excludes 0."""
        return self.low > 0 or self.high < 0

    def clipped_to_unit(self) -> "Interval":
        """Clip the interval to [0, 1], the range of an accuracy. Its coverage stays the same."""
        return replace(self, low=max(0.0, self.low), high=min(1.0, self.high))

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def mean_of(
    values: ArrayLike,  # (n,) one per run
    sampling_variance: float = 0.0,
) -> Interval:
    """Estimate the mean of independent runs.

    Args:
        sampling_variance: variance of the mean over other samples of test images.
    Raises:
        ValueError: fewer than two runs.
    """
    x = _checked(values)
    variance = float(x.var(ddof=1)) / len(x)
    if _is_rounding(math.sqrt(variance), x):
        variance = 0.0
    return _interval(float(x.mean()), [(variance, len(x) - 1)], sampling_variance)


def paired(
    first: ArrayLike,  # (n,)
    second: ArrayLike,  # (n,) in the same order
    sampling_variance: float = 0.0,
) -> Interval:
    """Estimate the mean of `first` minus that of `second`, pair by pair (paired t test).

    Args:
        sampling_variance: variance of the difference over other samples of test images.
    Raises:
        ValueError: fewer than two pairs.
    """
    x, y = _checked(first), _checked(second)
    if len(x) != len(y):
        raise ValueError(f"pairs must have two sides, but got {len(x)} and {len(y)} values")
    differences = x - y
    variance = float(differences.var(ddof=1)) / len(x)
    if _is_rounding(math.sqrt(variance), np.concatenate([x, y])):
        variance = 0.0
    return _interval(float(differences.mean()), [(variance, len(x) - 1)], sampling_variance)


def welch(
    first: ArrayLike,  # (n,)
    second: ArrayLike,  # (m,)
    sampling_variance: float = 0.0,
) -> Interval:
    """Estimate the mean of `first` minus that of `second`, which are unpaired and may have unequal
    variances (Welch 1947).

    Args:
        sampling_variance: variance of the difference over other samples of test images.
    Raises:
        ValueError: fewer than two values in `first` or `second`.
    """
    x, y = _checked(first), _checked(second)
    parts = []
    for side in (x, y):
        variance = float(side.var(ddof=1)) / len(side)
        if _is_rounding(math.sqrt(variance), side):
            variance = 0.0
        parts.append((variance, len(side) - 1))
    return _interval(float(x.mean() - y.mean()), parts, sampling_variance)


def holm(p_values: list[float], declared: int | None = None) -> list[float]:
    """Adjust p-values so that they hold for all questions at once (Holm 1979).

    The smallest of m p-values is multiplied by m, the next by m - 1, and so on. The adjusted values
    never decrease in this order, and never exceed 1.

    Args:
        declared: number of questions m, including those without a p-value yet, which count as if
            theirs were the largest. None if there are no others.
    """
    questions = len(p_values) if declared is None else max(declared, len(p_values))
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        remaining = questions - rank
        corrected = min(1.0, remaining * p_values[index])
        largest = max(largest, corrected)
        adjusted[index] = largest
    return adjusted


def significance(look: int) -> float:
    """Significance level of the n-th look at a growing study.

    The first look gets `FIRST_LOOK`, and each later one gets half of what is left of `LATER_LOOKS`.
    The total error is at most the sum of the levels, however the looks depend on each other
    (Bonferroni).

    Args:
        look: number of the look, from 1.
    """
    if look == 1:
        return FIRST_LOOK
    return float(LATER_LOOKS / 2 ** (look - 1))


def p_value_text(p: float, level: float) -> str:
    """Format a p-value. Add the level if p misses it although the 95 % interval beside it excludes
    0."""
    asked = f", where this look asks for less than {level:.2g}" if level <= p < 0.05 else ""
    return f"p = {p:.2g}{asked}"


def _interval(mean: float, parts: list[tuple[float, int]], sampling_variance: float) -> Interval:
    """Build an interval that covers both sources of error, and the p-value of a mean of 0.

    The squares of the two half-widths add (Zou and Donner 2008). The seeds use Student's t, with
    Satterthwaite's degrees of freedom for two configurations. The test images use the normal
    distribution, because their variance is known well. A further source of error never makes the
    interval narrower.

    Without any spread the noise is unknown, so the interval is infinite instead of having width 0.

    Args:
        parts: (variance of a mean over seeds, its degrees of freedom) of each configuration.
    """
    from scipy.special import ndtri, stdtr, stdtrit  # imported late: starting a study need not wait

    of_seeds = sum(variance for variance, _ in parts)
    if of_seeds == 0 and sampling_variance == 0:
        return Interval(mean, -math.inf, math.inf, p=1.0)

    weights = sum(variance**2 / freedom for variance, freedom in parts)
    freedom = of_seeds**2 / weights if weights else 1.0

    def half_width(p: float) -> float:
        seeds = float(stdtrit(freedom, 1 - p / 2)) * math.sqrt(of_seeds)
        images = float(ndtri(1 - p / 2)) * math.sqrt(sampling_variance)
        return math.hypot(seeds, images)

    half = half_width(1 - LEVEL)
    if sampling_variance == 0:
        p = float(2 * stdtr(freedom, -abs(mean) / math.sqrt(of_seeds)))
    else:
        p = _level_of(abs(mean), half_width)
    return Interval(mean, mean - half, mean + half, p)


def _level_of(distance: float, half_width: Callable[[float], float]) -> float:
    """Find the p at which the half-width equals `distance`, by bisection of its logarithm."""
    low, high = _SMALLEST_P, 1.0
    if half_width(low) < distance:
        return low
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        if half_width(middle) < distance:
            high = middle
        else:
            low = middle
    return high


def _is_rounding(spread: float, values: np.ndarray) -> bool:
    return spread <= _ROUNDING * float(abs(values).max())


def _checked(values: ArrayLike) -> np.ndarray:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) < 2:
        raise ValueError(f"`values` must be (n,) with n >= 2, but got {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"`values` must be finite, but got {x.tolist()}")
    return x
