"""A define-by-run search space seen from outside: its parameters, their ranges, and the conditions
under which they apply."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, combinations
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from tune.experiments import SearchSpace
from tune.search.asking import Answering, ask
from tune.search.ranges import Range, When

_FEW_NUMBERS = 8
"""A range of at most this many whole numbers, such as a number of layers, may branch at each."""
_FEW_WALKS = 24
"""With at most this many walks, pairs of them are walked too."""


class Pinned(Answering):
    """A trial that answers pinned names from `pins`, without searching them."""

    def __init__(self, trial: Any, pins: Mapping[str, Any]):
        self._trial = trial
        self._pins = pins

    def answer(self, name: str, distribution: BaseDistribution) -> Any:
        if name in self._pins:
            return self._pins[name]
        return ask(self._trial, name, distribution)


class Walk(Answering):
    """A trial that answers with `wanted` if it has the name, else with the first choice or low end.

    Attributes:
        asked: name -> distribution that the space has asked for.
        said: name -> answer.
    """

    def __init__(self, wanted: Mapping[str, Any]):
        self.wanted = wanted
        self.asked: dict[str, BaseDistribution] = {}
        self.said: dict[str, Any] = {}

    def answer(self, name: str, distribution: BaseDistribution) -> Any:
        if isinstance(distribution, CategoricalDistribution):
            otherwise = distribution.choices[0]
        else:
            otherwise = vars(distribution)["low"]
        self.asked[name] = distribution
        self.said[name] = self.wanted.get(name, otherwise)
        return self.said[name]


def asked_for(
    space: SearchSpace, preset: str, config: Mapping[str, Any], pins: Mapping[str, Any]
) -> dict[str, BaseDistribution]:
    """Return the distributions that the space asks for on the way to `config` (a flat config),
    without pinned names."""
    walk = Walk(config)
    space(Pinned(walk, pins), preset)
    return walk.asked


def contains(space: SearchSpace, preset: str, config: Mapping[str, Any]) -> bool:
    """True if the search can reach this flat (partial) config."""
    asked = asked_for(space, preset, config, {})
    return all(
        within(distribution, config[name]) for name, distribution in asked.items() if name in config
    )


def within(distribution: BaseDistribution, value: Any) -> bool:
    """True if `value` is one of the choices, or in the range."""
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except ValueError:  # Optuna raises this for a value that is not a choice
        return False


def fitted(
    nearest: "Nearest", space: SearchSpace, preset: str, pins: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the nearest configuration in this space; `nearest.notes` lists what has changed."""
    space(Pinned(nearest, pins), preset)
    return nearest.said


class Nearest(Answering):
    """A trial that answers with a given configuration, as far as choices and ranges allow it.

    Args:
        config: the flat configuration.
        base: the default, for names that `config` lacks and for values that are not a choice.

    Attributes:
        said: the answers.
        notes: what has changed.
    """

    def __init__(self, config: Mapping[str, Any], base: Mapping[str, Any]):
        self._config = config
        self._base = base
        self.said: dict[str, Any] = {}
        self.notes: list[str] = []

    def answer(self, name: str, distribution: BaseDistribution) -> Any:
        if isinstance(distribution, CategoricalDistribution):
            return self._choice(name, distribution.choices)
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        return self._clipped(name, distribution)

    def _choice(self, name: str, choices: Sequence[Any]) -> Any:
        default = self._base.get(name, choices[0])
        value = self._config.get(name, default)
        if value not in choices:
            instead = default if default in choices else choices[0]
            self.notes.append(
                f"{name}={value} is dropped, because it is not a choice here; "
                f"{instead} takes its place"
            )
            value = instead
        self.said[name] = value
        return value

    def all_notes(self, searched: Iterable[str]) -> list[str]:
        """The notes, and one for each searched parameter that this space did not ask for."""
        dropped = [
            f"{name}={self._config[name]} is dropped, because it is not searched here"
            for name in searched
            if name not in self.said and self._differs(name)
        ]
        return [*self.notes, *dropped]

    def _differs(self, name: str) -> bool:
        """True if the configuration has the name, with another value than the default."""
        return name in self._config and self._config[name] != self._base.get(name)

    def _clipped(self, name: str, range_: FloatDistribution | IntDistribution) -> Any:
        low, high = range_.low, range_.high
        value = self._config.get(name, self._base.get(name, low))
        if not low <= value <= high:
            self.notes.append(f"{name}={value:g} is clipped to {low:g} to {high:g}")
        self.said[name] = min(max(value, low), high)
        return self.said[name]


SOMETIMES = When("sometimes", ())
"""Condition of a range that does not depend on a single choice."""


def describe(
    space: SearchSpace, preset: str, pins: Mapping[str, Any]
) -> dict[str, list[tuple[str, BaseDistribution]]]:
    """Parameter -> [(condition, distribution), ...] over all branches. The condition is "" if the
    parameter always applies, in the same range.
    """
    return {
        name: [("" if one.when is None else str(one.when), one.distribution) for one in variants]
        for name, variants in ranges_of(space, preset, pins).items()
    }


def ranges_of(space: SearchSpace, preset: str, pins: Mapping[str, Any]) -> dict[str, list[Range]]:
    """Parameter -> its ranges over all branches."""
    walks = branches(space, preset, pins)
    variants: dict[str, dict[str, BaseDistribution]] = {}
    for walk in walks:
        for name, distribution in walk.asked.items():
            variants.setdefault(name, {})[repr(distribution)] = distribution
    return {
        name: [Range(d, _condition(walks, name, d)) for d in by_repr.values()]
        for name, by_repr in variants.items()
    }


def branches(space: SearchSpace, preset: str, pins: Mapping[str, Any]) -> list[Walk]:
    """Walk through the space for every value on which it may branch: each choice, each of a few
    whole numbers, the high end of any other range. If these walks are few, also walk through it for
    every pair of such values. Values that only one branch offers are entered from that branch."""
    walks: list[Walk] = []
    queue: list[dict[str, Any]] = [{}]
    entered: set[tuple[str, Any]] = set()

    def enter() -> None:
        while queue:
            forced = queue.pop(0)
            walk = Walk(forced)
            space(Pinned(walk, pins), preset)
            walks.append(walk)
            for name, value in _switches(walk):
                if name not in forced and (name, value) not in entered:
                    entered.add((name, value))
                    queue.append({**forced, name: value})

    enter()
    if len(walks) <= _FEW_WALKS:
        for one, other in combinations([walk.wanted for walk in walks], 2):
            if not one.keys() & other.keys():
                queue.append({**one, **other})
        enter()
    return walks


def _switches(walk: Walk) -> Iterator[tuple[str, Any]]:
    """Yield (parameter, value) for every value that the walk was offered and that may branch."""
    for name, distribution in walk.asked.items():
        if isinstance(distribution, CategoricalDistribution):
            values: Sequence[Any] = distribution.choices
        elif isinstance(distribution, IntDistribution):
            steps = range(distribution.low, distribution.high + 1, distribution.step)
            values = steps if len(steps) <= _FEW_NUMBERS else steps[-1:]
        else:
            values = [vars(distribution)["high"]]
        for value in values:
            yield name, value


def _condition(walks: Sequence[Walk], name: str, distribution: BaseDistribution) -> When | None:
    """Return the choices that distinguish the walks that met this distribution from the others;
    None if all met it."""
    met = [walk for walk in walks if walk.asked.get(name) == distribution]
    missed = [walk for walk in walks if walk.asked.get(name) != distribution]
    if not missed:
        return None
    for switch in met[0].asked:
        offered = [walk.asked.get(switch) for walk in met]
        choices = [d.choices for d in offered if isinstance(d, CategoricalDistribution)]
        if switch == name or len(choices) < len(met):
            continue
        inside = {walk.said[switch] for walk in met}
        outside = {walk.said.get(switch) for walk in missed}
        if not inside & outside:
            known = dict.fromkeys(chain.from_iterable(choices))
            return When(switch, tuple(choice for choice in known if choice in inside))
    return SOMETIMES


def as_json(described: Mapping[str, list[tuple[str, BaseDistribution]]]) -> dict[str, list[str]]:
    """Return the description in a form that a manifest can store and compare."""
    return {
        name: [_with_condition(show(distribution), condition) for condition, distribution in ranges]
        for name, ranges in sorted(described.items())
    }


def _with_condition(text: str, condition: str) -> str:
    return f"{text} when {condition}" if condition else text


def show(distribution: BaseDistribution) -> str:
    """Format a distribution: `0.03 to 1 (log)`, `one of 64, 128`."""
    if isinstance(distribution, CategoricalDistribution):
        choices = [
            choice if isinstance(choice, str) else json.dumps(choice)
            for choice in distribution.choices
        ]
        return "one of " + ", ".join(choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    scale = " (log)" if distribution.log else ""
    if distribution.step not in (None, 1):
        scale = f" in steps of {distribution.step:g}"
    return f"{distribution.low:g} to {distribution.high:g}{scale}"
