"""Confidence intervals of means and of differences, over runs that were trained under fresh seeds.

Only the runs that are compared estimate their noise: an estimate pooled over other configurations
is wrong where their noise differs. The error of the sample of test images adds to that of the
seeds (Bouthillier et al. 2021, "Accounting for variance in machine learning benchmarks").
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

# Student's t distribution; `scipy.stats` has it too, but takes a second to import.

LEVEL = 0.95
"""Confidence level of all intervals."""

FIRST_LOOK = 0.04
"""Significance level of a study's first verdict."""

LATER_LOOKS = 0.004
"""Level that all later looks, at more runs, share. It leaves a part of `1 - LEVEL` unspent: five
accuracies are too few for Student's t where their distribution is skewed, and looks add what each
is wrong by (docs/notes/evidence.md)."""

_ROUNDING = 1e-12  # a spread below this share of the largest score is a rounding error
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
        """True where the interval excludes 0."""
        return self.low > 0 or self.high < 0

    def clipped_to_unit(self) -> "Interval":
        """Cut the interval to [0, 1], the range of an accuracy; it covers the truth as often."""
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
    """Estimate the mean of `first` minus that of `second`, which are not paired and may vary
    unequally (Welch 1947).

    Args:
        sampling_variance: variance of the difference over other samples of test images.
    Raises:
        ValueError: fewer than two values on a side.
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

    The smallest of m p-values is multiplied by m, the next by m - 1, and so on. The results never
    fall along the way, and never exceed 1.

    Args:
        declared: number of questions m, those without an answer so far included; they count as if
            their p-values were the largest. None: there are no others.
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

    The first look has `FIRST_LOOK`, each later one half of what is left of `LATER_LOOKS`. All looks
    together spend no more than their sum, however they depend on each other (Bonferroni).

    Args:
        look: from 1.
    """
    if look == 1:
        return FIRST_LOOK
    return float(LATER_LOOKS / 2 ** (look - 1))


def p_value_text(p: float, level: float) -> str:
    """Name a p-value; where the 95 % interval beside it leaves 0 out and the level is not reached,
    also the level."""
    asked = f", where this look asks for less than {level:.2g}" if level <= p < 0.05 else ""
    return f"p = {p:.2g}{asked}"


def _interval(mean: float, parts: list[tuple[float, int]], sampling_variance: float) -> Interval:
    """An interval that covers both sources of error, and the p-value of mean 0.

    The half-widths of the two add as squares (Zou and Donner 2008): Student's t for the seeds, with
    Satterthwaite's degrees of freedom where there are two sides, and the normal distribution for
    the sample of test images, whose variance is known well. A further source of error never makes
    the interval narrower.

    Without any spread nothing is known about the noise: the interval is infinite instead of having
    width 0.

    Args:
        parts: (variance of a mean over seeds, its degrees of freedom).
    """
    from scipy.special import ndtri, stdtr, stdtrit  # which no start of a study waits for

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
    """The p at which the interval reaches so far, by bisection of its logarithm."""
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
