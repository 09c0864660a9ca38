"""A scrambled Sobol sequence over a search space with conditions."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from tune.search.positions import draw_key, is_range, value_at, values_of


class SobolSampler(BaseSampler):
    """Scrambled Sobol sequence: trial n is point n - 1, with one coordinate for each parameter
    (Sobol 1967, scrambled after Owen 1998 by SciPy); trial 0 is the default.

    Optuna's own `QMCSampler` counts its draws in the storage; a kill between count and trial puts
    the two out of step. It also draws conditional parameters at random. Here a point depends only
    on seed and trial.

    Args:
        parameters: all parameters that the space may ask for.
    """

    def __init__(self, seed: int, parameters: Sequence[str]) -> None:
        self._seed = seed
        self._places = {name: place for place, name in enumerate(sorted(parameters))}

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return no parameters: the point as a whole already is a joint draw."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return the value at the trial's coordinate for this parameter."""
        place = self._places.get(param_name)
        if place is None:  # the space asks for a parameter that its description lacks
            key = draw_key(self._seed, trial.number, param_name)
            coordinate = np.random.default_rng(key).random()
        else:
            index = max(0, trial.number - 1)
            coordinate = sobol_point(len(self._places), self._seed, index)[place]
        return at_coordinate(coordinate, param_distribution)


@lru_cache(maxsize=4)
def sobol_point(dimensions: int, seed: int, index: int) -> tuple[float, ...]:
    """Return a point of the sequence, with each coordinate in [0, 1)."""
    from scipy.stats import qmc  # the import takes half a second

    sequence = qmc.Sobol(dimensions, scramble=True, rng=np.random.default_rng(seed))
    if index:
        sequence.fast_forward(index)
    return tuple(float(coordinate) for coordinate in sequence.random(1)[0])


def at_coordinate(coordinate: float, distribution: BaseDistribution) -> Any:
    """Return the value at a coordinate in [0, 1); the coordinate is a cumulative probability."""
    if isinstance(distribution, CategoricalDistribution):
        choices = distribution.choices
        return choices[math.floor(coordinate * len(choices))]
    if is_range(distribution):
        return value_at(coordinate, distribution)

    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    if step is None:  # a range of one value
        return low
    if distribution.log:
        ends = FloatDistribution(low - 0.5, high + 0.5, log=True)
        return min(max(round(value_at(coordinate, ends)), low), high)
    place = math.floor(coordinate * values_of(distribution))
    return low + place * step
