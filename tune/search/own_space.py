"""A search space that contains ranges of the user's own.

A ready space is code: it asks for a choice, and then for what depends on that choice. The user's
ranges take part in it by three rules:

1. A range without a condition replaces those of its parameter wherever the ready space asks for it.
   A warm-up, for example, still applies only to the schedules that have one. A parameter that the
   ready space does not know is asked for in every trial.
2. A range with a condition (`when optim.name=sgd`) applies exactly where the condition holds: it
   replaces the ready range there, or is asked for in addition. Elsewhere the ready ranges stay.
3. A choice that the ready space does not know needs ranges for everything that depends on it: a new
   optimizer needs one for its learning rate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution

from tune.experiments import SearchSpace
from tune.search.asking import Answering, ask
from tune.search.ranges import Range, Ranges, range_for, write_scalar
from tune.search.space import Walk, branches, ranges_of

Choice = tuple[str, Any]
"""A parameter and one of its choices."""


@dataclass(frozen=True)
class OwnSpace:
    """A search space that asks a ready space and replaces some of its ranges."""

    ready: SearchSpace
    ranges: Ranges
    known: frozenset[str] = frozenset()
    """Parameters that the ready space asks for in any branch."""
    stand_ins: Mapping[Choice, Any] = field(default_factory=dict)
    """Choice that the ready space cannot handle -> choice that it is given instead."""

    def __call__(self, trial: Any, preset: str) -> None:
        asking = _Replacing(trial, self)
        self.ready(asking, preset)
        asking.ask_rest()


class _Replacing(Answering):
    """The trial as the ready space sees it.

    Attributes:
        said: name -> answer.
    """

    def __init__(self, trial: Any, space: OwnSpace):
        self._trial = trial
        self._space = space
        self.said: dict[str, Any] = {}

    def answer(self, name: str, distribution: BaseDistribution) -> Any:
        own = range_for(self._space.ranges.get(name, ()), self.said)
        asked = distribution if own is None else own.distribution
        value = ask(self._trial, name, asked)
        self.said[name] = value
        if isinstance(distribution, CategoricalDistribution):
            return self._space.stand_ins.get((name, value), value)
        return value

    def ask_rest(self) -> None:
        """Ask for what the ready space has not asked for, each switch before what depends on it."""
        asked = True
        while asked:
            asked = False
            for name, variants in self._space.ranges.items():
                found = None if name in self.said else self._additional(name, variants)
                if found is not None:
                    self.said[name] = ask(self._trial, name, found.distribution)
                    asked = True

    def _additional(self, name: str, variants: Sequence[Range]) -> Range | None:
        found = range_for(variants, self.said)
        if found is None or found.when is not None:
            return found
        if name in self._space.known or self._may_hold_later(variants):
            return None
        return found

    def _may_hold_later(self, variants: Sequence[Range]) -> bool:
        """True if a condition depends on a parameter that is still to be asked for."""
        waits_for = {one.when.switch for one in variants if one.when is not None}
        open_names = self._space.ranges.keys() - self.said.keys() - self._space.known
        return bool(waits_for & open_names)


def nothing(trial: Any, preset: str) -> None:
    """Ask for nothing: an empty space to which ranges are added."""


def as_space(ranges: Ranges) -> SearchSpace:
    """Return a search space of these ranges only, for any preset."""
    return OwnSpace(nothing, ranges)


def own_space(ready: SearchSpace, preset: str, ranges: Ranges) -> SearchSpace:
    """Return the ready space with these ranges in it.

    Raises:
        ValueError: a choice is new to the ready space, and ranges that depend on it are missing;
            the message names both.
    """
    if not ranges:
        return ready

    described = ranges_of(ready, preset, {})
    stand_ins: dict[Choice, Any] = {}
    for choice in _new_choices(ranges, described):
        known = _ready_choices(described[choice[0]])
        if not _can_do(ready, preset, choice):
            _check_complete(choice, ranges, described)
            stand_ins[choice] = known[0]
    return OwnSpace(ready, ranges, frozenset(described), stand_ins)


def unused(space: SearchSpace, preset: str, pins: Mapping[str, Any], ranges: Ranges) -> list[str]:
    """Parameters with a range that no branch of the space asks for."""
    walks = branches(space, preset, pins)
    missing = []
    for name, variants in ranges.items():
        met = [walk.asked[name] for walk in walks if name in walk.asked]
        if any(variant.distribution not in met for variant in variants):
            missing.append(name)
    return missing


def _new_choices(ranges: Ranges, described: Mapping[str, Sequence[Range]]) -> list[Choice]:
    """Choices that the ready space does not know, for parameters of which it offers other
    choices."""
    found: list[Choice] = []
    for name, variants in ranges.items():
        known = _ready_choices(described.get(name, ()))
        if not known:
            continue
        for variant in variants:
            if isinstance(variant.distribution, CategoricalDistribution):
                new = [value for value in variant.distribution.choices if value not in known]
                found += [(name, value) for value in new if (name, value) not in found]
    return found


def _ready_choices(variants: Sequence[Range]) -> list[Any]:
    return [
        choice
        for variant in variants
        if isinstance(variant.distribution, CategoricalDistribution)
        for choice in variant.distribution.choices
    ]


def _can_do(ready: SearchSpace, preset: str, choice: Choice) -> bool:
    """True if the ready space accepts this choice of a parameter without an error."""
    name, value = choice
    for walk in branches(ready, preset, {}):
        if name not in walk.asked:
            continue
        try:
            ready(Walk({**walk.wanted, name: value}), preset)
        except Exception:
            return False
    return True


def _check_complete(
    choice: Choice, ranges: Ranges, described: Mapping[str, Sequence[Range]]
) -> None:
    """Check that a new choice has a range for everything that depends on it."""
    switch, value = choice
    dependent = [
        name
        for name, variants in described.items()
        if any(one.when is not None and one.when.switch == switch for one in variants)
    ]
    missing = [
        name for name in dependent if range_for(ranges.get(name, ()), dict([choice])) is None
    ]
    if missing:
        shown = write_scalar(value)
        raise ValueError(
            f"{switch}={shown} is new here, and {' and '.join(missing)} depend on it: give each a "
            f"range too, such as --space '{missing[0]}=LOW..HIGH when {switch}={shown}', "
            f"or leave {shown} out"
        )
