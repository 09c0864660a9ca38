"""Spaces, or parts of them, with few configurations: a search would draw the same ones again and
again, with the same seed and so with the same result."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from tune.experiments import SearchSpace
from tune.search.asking import Answering
from tune.search.positions import values_of
from tune.search.space import Pinned, Walk

Parameters = dict[str, Any]
_DRAWS = 100  # before the search for a new configuration gives up


@dataclass(frozen=True)
class Countable:
    """The configurations of those branches of a space that have no range of real numbers."""

    configurations: list[Parameters]
    is_all: bool
    """True if there is no other branch: these are all configurations of the space."""


def countable(
    space: SearchSpace, preset: str, pins: Mapping[str, Any], most: int
) -> Countable | None:
    """Return the configurations that a search may draw twice, as searched parameter -> value; None
    if there are none, or more than `most`."""
    found: list[Parameters] = []
    is_all = True
    queue: list[Parameters] = [{}]
    while queue:
        if len(found) + len(queue) > most:
            return None
        forced = queue.pop()
        walk = Walk(forced)
        space(Pinned(walk, pins), preset)

        open_names = [name for name in walk.asked if name not in forced]
        if not open_names:
            found.append({name: forced[name] for name in walk.asked})
            continue
        first = open_names[0]
        values = _values(walk.asked[first], most)
        if values is None:
            is_all = False
        else:
            queue += [{**forced, first: value} for value in values]
    return Countable(found, is_all) if found else None


def draw_new(
    space: SearchSpace,
    preset: str,
    pins: Mapping[str, Any],
    tried: Sequence[Parameters],
    seed: int,
) -> Parameters | None:
    """Draw a random configuration that has not been tried; None if none was found."""
    rng = np.random.default_rng(seed)
    for _ in range(_DRAWS):
        chance = Chance(rng)
        space(Pinned(chance, pins), preset)
        if chance.said not in tried:
            return chance.said
    return None


class Chance(Answering):
    """A trial that answers at random.

    Attributes:
        said: name -> answer.
    """

    def __init__(self, rng: np.random.Generator):
        self._rng = rng
        self.said: Parameters = {}

    def answer(self, name: str, distribution: BaseDistribution) -> Any:
        if isinstance(distribution, CategoricalDistribution):
            choices = distribution.choices
            self.said[name] = choices[int(self._rng.integers(len(choices)))]
        else:
            assert isinstance(distribution, FloatDistribution | IntDistribution)
            self.said[name] = self._number(distribution)
        return self.said[name]

    def _number(self, range_: FloatDistribution | IntDistribution) -> float:
        low, step = range_.low, range_.step
        high = range_.high if step is None else range_.high + step
        position = self._rng.random()
        value = low * (high / low) ** position if range_.log else low + position * (high - low)
        if step is not None:
            value = low + math.floor((value - low) / step) * step
        return min(max(value, low), range_.high)


def _values(distribution: BaseDistribution, most: int) -> list[Any] | None:
    """All values of a distribution; None for a range of real numbers, or one of more than
    `most`."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, step = distribution.low, distribution.step
    if distribution.single():
        return [low]
    if step is None:
        return None
    number = values_of(distribution)
    return [low + place * step for place in range(number)] if number <= most else None
