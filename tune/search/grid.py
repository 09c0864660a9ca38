"""Grids: a search space with a few values of each range."""

from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from tune.experiments import SearchSpace
from tune.search.asking import Answering, ask
from tune.search.positions import is_range, value_at

POINTS = 5
"""Number of values of a range, including its ends."""
LARGEST = 2000
"""Maximum number of configurations of a grid."""


def gridded(space: SearchSpace) -> SearchSpace:
    """Return the space with at most `POINTS` values of each range."""

    def on_grid(trial: Any, preset: str) -> None:
        space(_OnGrid(trial), preset)

    return on_grid


class _OnGrid(Answering):
    def __init__(self, trial: Any):
        self._trial = trial

    def answer(self, name: str, distribution: BaseDistribution) -> Any:
        if isinstance(distribution, CategoricalDistribution):
            return ask(self._trial, name, distribution)
        return ask(self._trial, name, CategoricalDistribution(points(distribution)))


def points(distribution: BaseDistribution) -> list[float]:
    """Values of a range at equal distances on its scale, in ascending order."""
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    places = [float(place) for place in np.linspace(0, 1, POINTS)]
    if is_range(distribution):
        # 0.3, not 0.30000000000000004
        rounded = [float(f"{value_at(place, distribution):.12g}") for place in places]
        return [min(max(value, low), high) for value in rounded]
    if step is None:  # a range of one value
        return [low]
    if distribution.log:
        scale = FloatDistribution(low, high, log=True)
        wanted = [value_at(place, scale) for place in places]
    else:
        wanted = [low + place * (high - low) for place in places]
    return sorted({low + round((value - low) / step) * step for value in wanted})
