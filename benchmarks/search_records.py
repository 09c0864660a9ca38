"""Recorded searches on tables of finished trainings, and ratios between them.

Imports no torch, so that documents are rendered quickly.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.figure_text import without_zeros
from benchmarks.search_tables import DATA

MISLED = DATA / "search_misled.csv"
"""Trials and epochs of searches with and without a warm start (`search_misled.py`)."""
PRIORS = DATA / "search_priors.csv"
"""Regrets of searches with and without a prior (`search_priors.py`)."""
REGRET = DATA / "search_regret.csv"
"""Regrets of our study and of other searches (`search_regret.py`)."""
COLD, PRIOR, BETTER = "cold", "prior", "better default"
LEAST = 1e-3
"""Smallest mean regret that a ratio counts."""
RESAMPLES = 2000


class Ratio(NamedTuple):
    """A ratio of means with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return without_zeros(f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]")

    @property
    def is_below(self) -> bool:
        """True if the interval, as it is printed, lies below 1."""
        return round(self.high, 2) < 1

    @property
    def is_above(self) -> bool:
        """True if the interval, as it is printed, lies above 1."""
        return round(self.low, 2) > 1


def ratio(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> np.ndarray:
    """Return the geometric mean over tables of mean(ours) / mean(theirs), for each column.

    Args:
        ours, theirs: an array (seeds, columns) for each table.
    """
    logs = [np.log(_mean(one) / _mean(other)) for one, other in zip(ours, theirs, strict=True)]
    return np.exp(np.mean(logs, 0))


def interval(
    ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], *, paired: bool = False
) -> np.ndarray:  # (2, columns)
    """Return the 95 % interval of `ratio` over resampled seeds. `paired`: both share the seeds."""
    rng = np.random.default_rng(0)
    logs = []
    for one, other in zip(ours, theirs, strict=True):
        mine = _drawn(rng, len(one))
        drawn = mine if paired else _drawn(rng, len(other))
        logs.append(np.log(_mean(one[mine], 1) / _mean(other[drawn], 1)))
    return np.quantile(np.exp(np.mean(logs, 0)), [0.025, 0.975], axis=0)


def ratios(
    ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], *, paired: bool = False
) -> list[Ratio]:
    """Return `ratio` and `interval` of each column."""
    bounds = interval(ours, theirs, paired=paired)
    return [Ratio(*map(float, one)) for one in zip(ratio(ours, theirs), *bounds, strict=True)]


def ratios_over_tables(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> list[Ratio]:
    """Return `ratio` of each column with an interval over tables and seeds, both resampled."""
    rng = np.random.default_rng(0)
    tables = len(ours)
    which = rng.integers(tables, size=(RESAMPLES, tables))
    logs = np.empty((*which.shape, ours[0].shape[1]))
    for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        here = which == index
        mine, others = (_drawn(rng, len(side), int(here.sum())) for side in (one, other))
        logs[here] = np.log(_mean(one[mine], 1) / _mean(other[others], 1))
    bounds = np.quantile(np.exp(logs.mean(1)), [0.025, 0.975], axis=0)
    return [Ratio(*map(float, one)) for one in zip(ratio(ours, theirs), *bounds, strict=True)]


def differences(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:  # (2, columns)
    """Return the 95 % interval of mean(ours) - mean(theirs) over resampled seeds."""
    rng = np.random.default_rng(0)
    drawn = ours[_drawn(rng, len(ours))].mean(1) - theirs[_drawn(rng, len(theirs))].mean(1)
    return np.quantile(drawn, [0.025, 0.975], axis=0)


def read_misled(path: Path = MISLED) -> list[tuple[str, ...]]:
    """Return (start, source, table, seed, trials, epochs) of every recorded search."""
    if not path.exists():
        return []
    with path.open() as file:
        return [tuple(row) for row in csv.reader(file)][1:]


def _mean(values: np.ndarray, axis: int = 0) -> np.ndarray:
    return np.maximum(values.mean(axis), LEAST)


def _drawn(rng: np.random.Generator, seeds: int, times: int = RESAMPLES) -> np.ndarray:
    """Return seeds drawn with replacement, (times, seeds)."""
    return rng.integers(seeds, size=(times, seeds))
