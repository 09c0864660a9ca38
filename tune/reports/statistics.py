"""Confidence intervals over configurations that were trained again under the same few seeds.

A table of scores, one row per configuration and one column per seed, is a randomised block design:

    score = configuration + seed + noise

(Montgomery, Design and Analysis of Experiments, chapter 4). All rows together estimate the noise.
With two rows this is the paired t test; each further row adds degrees of freedom at no cost, as it
was trained anyway. The method assumes that the noise of all rows is about equally large.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

# Student's t distribution; `scipy.stats` has it too, but takes a second to import.
from scipy.special import stdtr, stdtrit

LEVEL = 0.95
"""Confidence level of all intervals."""

_ROUNDING = 1e-12  # a spread below this share of the largest score is a rounding error


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
    scores: np.ndarray,  # (configurations, seeds)
    row: int,
) -> Interval:
    """Estimate the mean of one configuration.

    The variance over seeds is pooled over all configurations: with R of them and S seeds the
    interval has R * (S - 1) degrees of freedom.

    Raises:
        ValueError: fewer than two seeds.
    """
    _check(scores)
    rows, seeds = scores.shape
    variance = scores.var(axis=1, ddof=1).mean()
    standard_error = math.sqrt(variance / seeds)
    freedom = rows * (seeds - 1)
    return _interval(float(scores[row].mean()), standard_error, freedom)


def difference(
    scores: np.ndarray,  # (configurations, seeds)
    row: int,
    other: int,
) -> Interval:
    """Estimate the mean of configuration `row` minus that of `other`, paired by seed.

    The residuals of the two-way model estimate the noise: with R configurations and S seeds the
    interval has (R - 1) * (S - 1) degrees of freedom.

    Where two configurations differ by the same amount under every seed, as can happen with few test
    images, nothing is known about the noise: the interval is infinite instead of having width 0.

    Raises:
        ValueError: fewer than two seeds, or the same row twice.
    """
    _check(scores)
    if row == other:
        raise ValueError(f"`row != other` must hold, but got {row=}, {other=}")

    rows, seeds = scores.shape
    row_means = scores.mean(axis=1, keepdims=True)
    seed_means = scores.mean(axis=0, keepdims=True)
    residuals = scores - row_means - seed_means + scores.mean()

    freedom = (rows - 1) * (seeds - 1)
    variance = float((residuals**2).sum()) / freedom
    mean = float((scores[row] - scores[other]).mean())

    no_spread = math.sqrt(variance) <= _ROUNDING * abs(scores).max()
    if mean and no_spread:
        return Interval(mean, -math.inf, math.inf, p=1.0)
    return _interval(mean, math.sqrt(2 * variance / seeds), freedom)


def holm(p_values: list[float]) -> list[float]:
    """Adjust p-values so that they hold for all comparisons at once (Holm 1979).

    The smallest of m p-values is multiplied by m, the next by m - 1, and so on. The results never
    fall along the way, and never exceed 1.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(np.argsort(p_values)):
        remaining = len(p_values) - rank
        corrected = min(1.0, remaining * p_values[index])
        largest = max(largest, corrected)
        adjusted[index] = largest
    return adjusted


def _interval(mean: float, standard_error: float, freedom: int) -> Interval:
    """Student's t interval, and the p-value of mean 0."""
    quantile = float(stdtrit(freedom, 0.5 + LEVEL / 2))
    half = quantile * standard_error
    if standard_error > 0:
        p = float(2 * stdtr(freedom, -abs(mean) / standard_error))
    else:
        p = float(mean == 0)
    return Interval(mean, mean - half, mean + half, p)


def _check(scores: np.ndarray) -> None:
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise ValueError(
            f"scores must be (configurations, seeds) with seeds >= 2, but got {scores.shape}"
        )
