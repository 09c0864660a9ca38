"""A define-by-run search space, looked at from outside: which parameters there are, in which
ranges, and when they apply."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from tune.experiments import SearchSpace


class Pinned:
    """A trial whose pinned names are answered from `pins` and are not searched."""

    def __init__(self, trial: Any, pins: Mapping[str, Any]):
        self._trial, self._pins = trial, pins

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return (
            self._pins[name]
            if name in self._pins
            else self._trial.suggest_float(name, low, high, log=log)
        )

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return (
            self._pins[name]
            if name in self._pins
            else self._trial.suggest_int(name, low, high, log=log)
        )

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return (
            self._pins[name]
            if name in self._pins
            else self._trial.suggest_categorical(name, choices)
        )


class _Walk:
    """Answers with `wanted` where it can, else with the first choice or the low end, and keeps what
    it was asked and what it said."""

    def __init__(self, wanted: Mapping[str, Any]):
        self.wanted = wanted
        self.asked: dict[str, BaseDistribution] = {}
        self.said: dict[str, Any] = {}

    def _answer(self, name: str, distribution: BaseDistribution, otherwise: Any) -> Any:
        self.asked[name] = distribution
        self.said[name] = self.wanted.get(name, otherwise)
        return self.said[name]

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return self._answer(name, FloatDistribution(low, high, log=log), low)

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return self._answer(name, IntDistribution(low, high, log=log), low)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._answer(name, CategoricalDistribution(choices), choices[0])


def asked_for(
    space: SearchSpace, preset: str, config: Mapping[str, Any], pins: Mapping[str, Any]
) -> dict[str, BaseDistribution]:
    """The distributions that the space asks for on the way to `config` (a flat config), pinned
    names left out."""
    walk = _Walk(config)
    space(Pinned(walk, pins), preset)
    return walk.asked


def contains(space: SearchSpace, preset: str, config: Mapping[str, Any]) -> bool:
    """Whether the search can reach this flat (partial) config."""
    asked = asked_for(space, preset, config, {})
    return all(
        within(distribution, config[name]) for name, distribution in asked.items() if name in config
    )


def within(distribution: BaseDistribution, value: Any) -> bool:
    """Whether `value` is one of the choices, or in the range."""
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except ValueError:  # Optuna's word for a value that is no choice
        return False


def fitted(
    nearest: "Nearest", space: SearchSpace, preset: str, pins: Mapping[str, Any]
) -> dict[str, Any]:
    """A configuration as this space admits it; `nearest.notes` say what had to give way."""
    space(Pinned(nearest, pins), preset)
    return nearest.said


class Nearest:
    """Answers a search space with a configuration, as far as the ranges admit it.

    Attributes:
        said: the answers.
        notes: what had to give way.
    """

    def __init__(self, config: Mapping[str, Any], base: Mapping[str, Any]):
        self._config, self._base = config, base
        self.said: dict[str, Any] = {}
        self.notes: list[str] = []

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return self._clipped(name, low, high)

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return self._clipped(name, low, high)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        value = self._config.get(name, self._base[name])
        if value not in choices:
            instead = self._base[name] if self._base[name] in choices else choices[0]
            self.notes.append(
                f"{name}={value} is dropped, as it is no choice here; {instead} takes its place"
            )
            value = instead
        self.said[name] = value
        return value

    def all_notes(self, searched: Iterable[str]) -> list[str]:
        """The notes and, of the parameters that were searched, those that this space did not ask
        for."""
        config, base = self._config, self._base
        lost = [
            name
            for name in searched
            if name not in self.said and name in config and config[name] != base.get(name)
        ]
        return [
            *self.notes,
            *(f"{name}={config[name]} is dropped, as it is not searched here" for name in lost),
        ]

    def _clipped(self, name: str, low: Any, high: Any) -> Any:
        value = self._config.get(name, self._base[name])
        if not low <= value <= high:
            self.notes.append(f"{name}={value:g} is clipped to {low:g} to {high:g}")
        self.said[name] = min(max(value, low), high)
        return self.said[name]


def describe(
    space: SearchSpace, preset: str, pins: Mapping[str, Any]
) -> dict[str, list[tuple[str, BaseDistribution]]]:
    """Parameter -> [(condition, distribution), ...] over every branch; the condition is "" where
    the parameter always applies the same way.

    A branch is entered by one categorical choice at a time, and by its sub-choices within.
    """
    walks = _branches(space, preset, pins)
    variants: dict[str, dict[str, BaseDistribution]] = {}
    for walk in walks:
        for name, distribution in walk.asked.items():
            variants.setdefault(name, {})[repr(distribution)] = distribution
    return {
        name: [(_condition(walks, name, d), d) for d in by_repr.values()]
        for name, by_repr in variants.items()
    }


def _branches(space: SearchSpace, preset: str, pins: Mapping[str, Any]) -> list[_Walk]:
    walks, queue, entered = [], [dict[str, Any]()], set()
    while queue:
        forced = queue.pop(0)
        walk = _Walk(forced)
        space(Pinned(walk, pins), preset)
        walks.append(walk)
        for name, distribution in walk.asked.items():
            if isinstance(distribution, CategoricalDistribution) and name not in forced:
                for choice in distribution.choices:
                    if (name, choice) not in entered:
                        entered.add((name, choice))
                        queue.append({**forced, name: choice})
    return walks


def _condition(walks: Sequence[_Walk], name: str, distribution: BaseDistribution) -> str:
    """The categorical parameter whose choices tell the walks that met this distribution from those
    that did not."""
    met = [w for w in walks if w.asked.get(name) == distribution]
    missed = [w for w in walks if w.asked.get(name) != distribution]
    if not missed:
        return ""
    for switch, d in met[0].asked.items():
        if isinstance(d, CategoricalDistribution) and switch != name:
            inside, outside = ({w.said.get(switch) for w in group} for group in (met, missed))
            if not inside & outside:
                return f"{switch}={'|'.join(str(c) for c in d.choices if c in inside)}"
    return "sometimes"


def as_json(described: Mapping[str, list[tuple[str, BaseDistribution]]]) -> dict[str, list[str]]:
    """The description in a form that a manifest can hold and compare."""
    return {
        name: [f"{show(d)}{f' when {c}' if c else ''}" for c, d in variants]
        for name, variants in sorted(described.items())
    }


def show(distribution: BaseDistribution) -> str:
    """`0.03 to 1 (log)`, `one of 64, 128`."""
    if isinstance(distribution, CategoricalDistribution):
        return "one of " + ", ".join(
            json.dumps(c) if not isinstance(c, str) else c for c in distribution.choices
        )
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return f"{distribution.low:g} to {distribution.high:g}{' (log)' if distribution.log else ''}"
