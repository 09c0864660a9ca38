"""A configuration that the user names: the given values, and the default for the rest."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from trainables.config import nearest
from trainables.errors import UserError
from tune.experiments import SearchSpace
from tune.search.asking import Answering
from tune.search.space import Pinned, show, within

Described = Mapping[str, Sequence[str]]
"""Searched parameter -> its ranges in words, as in a manifest."""

_CHOICES = re.compile(r"one of (?P<choices>.*)")
_NUMBERS = re.compile(r"(?P<low>\S+) to (?P<high>\S+)(?: \(log\)| in steps of \S+)?")
_WHEN = " when "


def own_configuration(
    space: SearchSpace,
    preset: str,
    base: Mapping[str, Any],
    pins: Mapping[str, Any],
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """Complete a configuration: searched parameter -> value.

    A value of the default may lie outside the range that the given values leave, such as Adam's
    rate for SGD. The nearest value in the range takes its place.

    Args:
        base: the default, a flat config.
        pins: values that are not searched.
        given: searched parameter -> value.
    Raises:
        UserError: a value lies outside its range, or does not apply beside the others.
    """
    answers = _Given(given, base)
    space(Pinned(answers, pins), preset)

    unused = [name for name in given if name not in answers.said]
    if unused:
        raise UserError(_does_not_apply(unused[0], given))
    return answers.said


class _Given(Answering):
    """A trial that answers with the given values, and with the default for the rest."""

    def __init__(self, given: Mapping[str, Any], base: Mapping[str, Any]):
        self._given = given
        self._base = base
        self.said: dict[str, Any] = {}

    def answer(self, name: str, distribution: BaseDistribution) -> Any:
        if name not in self._given:
            value = _nearest_in(distribution, self._base[name])
        elif within(distribution, self._given[name]):
            value = self._given[name]
        else:
            raise UserError(_outside(name, self._given[name], show(distribution)))
        self.said[name] = value
        return value


def _nearest_in(distribution: BaseDistribution, value: Any) -> Any:
    if within(distribution, value):
        return value
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]

    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return min(max(value, distribution.low), distribution.high)


def check_described(
    described: Described, base: Mapping[str, Any], pins: Mapping[str, Any], given: Mapping[str, Any]
) -> None:
    """Check a configuration against the words with which a manifest describes the space. Ranges in
    words that are unknown here allow everything.

    Raises:
        UserError: as for `own_configuration`, or a parameter is not searched.
    """
    if not given:
        raise UserError("the configuration is empty: give a value, such as optim.lr=0.1")

    config = {**base, **given}
    for name, value in given.items():
        if name in pins:
            raise UserError(f"{name} is fixed to {pins[name]} in this study and cannot be chosen")
        if name not in described:
            raise UserError(f"{name} is not searched{nearest(name, described)}")

        ranges = [text.partition(_WHEN) for text in described[name]]
        applying = [text for text, _, when in ranges if _holds(when, config)]
        if not applying:
            raise UserError(_does_not_apply(name, given))
        if not any(_admits(text, value) for text in applying):
            raise UserError(_outside(name, value, "; or ".join(applying)))


def _holds(when: str, config: Mapping[str, Any]) -> bool:
    switch, equals, choices = when.partition("=")
    if not equals or switch not in config:
        return True
    return str(config[switch]) in choices.split("|")


def _admits(text: str, value: Any) -> bool:
    choices = _CHOICES.fullmatch(text)
    if choices is not None:
        words = choices["choices"].split(", ")
        return str(value) in words or any(_is_written(word, value) for word in words)

    numbers = _NUMBERS.fullmatch(text)
    if numbers is None or isinstance(value, str):
        return numbers is None
    # The words round numbers to six digits.
    low, high = float(numbers["low"]), float(numbers["high"])
    slack = 1e-5 * abs(high)
    return bool(low - slack <= value <= high + slack)


def _is_written(word: str, value: Any) -> bool:
    """True if the word is this value in JSON; text is described without quotes."""
    try:
        return bool(json.loads(word) == value)
    except ValueError:
        return False


def _outside(name: str, value: Any, ranges: str) -> str:
    return f"{name}={value} is outside of the search, which is {ranges}"


def _does_not_apply(name: str, given: Mapping[str, Any]) -> str:
    others = ", ".join(f"{key}={value}" for key, value in given.items() if key != name)
    beside = f" beside {others}" if others else " beside the values of the default"
    return f"{name} does not apply{beside}; leave it out, or choose what it belongs to"
