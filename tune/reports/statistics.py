"""Confidence intervals over configurations that were trained again under the same few seeds.

A table of scores, one row a configuration and one column a seed, is a randomised block design:
score = configuration + seed + noise (Montgomery, Design and Analysis of Experiments, chapter 4).
The noise is estimated from all rows together: with two rows this is the paired t test; every
further row that is trained anyway makes the same three seeds say more. It supposes that the noise
of the rows compared is about equally large.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

# Student's t; `scipy.stats` has it too, and takes a second to import
from scipy.special import stdtr, stdtrit

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % confidence interval (Student t) and, of a difference, the two-sided
    p-value for "none"."""

    mean: float
    low: float
    high: float
    p: float = math.nan

    @property
    def decided(self) -> bool:
        """Whether 0 lies outside."""
        return self.low > 0 or self.high < 0

    def clipped_to_unit(self) -> "Interval":
        """What of it lies in [0, 1], where an accuracy lies; it covers the truth as often."""
        return replace(self, low=max(0.0, self.low), high=min(1.0, self.high))

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def mean_of(scores: np.ndarray, row: int) -> Interval:  # (configurations, seeds)
    """Mean of one configuration, with the variance over seeds of all of them.

    Raises:
        ValueError: fewer than two seeds.
    """
    _check(scores)
    rows, seeds = scores.shape
    variance = scores.var(axis=1, ddof=1).mean()
    return _interval(float(scores[row].mean()), math.sqrt(variance / seeds), rows * (seeds - 1))


def difference(scores: np.ndarray, row: int, other: int) -> Interval:  # (configurations, seeds)
    """Mean of configuration `row` minus that of `other`, paired by seed. Scores that differ by the
    same under every seed, as those of few test images may, say nothing of the noise: the interval
    is then infinite, and not of width 0.

    Raises:
        ValueError: fewer than two seeds, or the same row twice.
    """
    _check(scores)
    if row == other:
        raise ValueError(f"`row != other` must hold, but got {row=}, {other=}")
    rows, seeds = scores.shape
    residuals = (
        scores
        - scores.mean(axis=1, keepdims=True)
        - scores.mean(axis=0, keepdims=True)
        + scores.mean()
    )
    freedom = (rows - 1) * (seeds - 1)
    variance = float((residuals**2).sum()) / freedom
    mean = float((scores[row] - scores[other]).mean())
    if mean and math.sqrt(variance) <= 1e-12 * abs(scores).max():  # what rounding leaves of 0
        return Interval(mean, -math.inf, math.inf, p=1.0)
    return _interval(mean, math.sqrt(2 * variance / seeds), freedom)


def holm(p_values: list[float]) -> list[float]:
    """P-values that hold for all comparisons at once (Holm 1979)."""
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def _interval(mean: float, error: float, freedom: int) -> Interval:
    half = float(stdtrit(freedom, 0.5 + LEVEL / 2)) * error
    p = float(2 * stdtr(freedom, -abs(mean) / error)) if error > 0 else float(mean == 0)
    return Interval(mean, mean - half, mean + half, p)


def _check(scores: np.ndarray) -> None:
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise ValueError(
            f"scores must be (configurations, seeds) with seeds >= 2, but got {scores.shape}"
        )
