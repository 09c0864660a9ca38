"""`--space` and `--no-search`: the user's own ranges, checked before any trial."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from trainables.config import build, convert, nearest, number_type
from trainables.errors import UserError, first_line
from tune.cli.options import OWN_OPTION, Options
from tune.experiments import Experiment
from tune.search.own_space import own_space, unused
from tune.search.ranges import Range, Ranges, When, choices, numbers, write_range, write_scalar
from tune.search.small_space import Chance
from tune.search.space import Pinned, asked_for, ranges_of, within
from tune.search.space_files import read_ranges

ALL = "all"
"""`--no-search all`: every parameter that `--space` does not name."""
_DRAWS = 32
"""Number of configurations to draw when checking that they are valid."""
_DATA = "data."
_SEARCHED_DATA = ("data.image_size", "data.limit")
_NEVER = (*OWN_OPTION, "train.rules")


def typed_ranges(options: Options, experiment: Experiment) -> Ranges:
    """Read `--space`, converting every value to the type of its config key.

    Raises:
        UserError: a text is not a range, a key is unknown, or the key does not accept a value.
    """
    typed = read_ranges(options.space or [])
    return {
        key: tuple(_checked(key, one, experiment.config) for one in variants)
        for key, variants in typed.items()
    }


def with_ranges(experiment: Experiment, preset: str, ranges: Ranges) -> Experiment:
    """Return the experiment whose space has these ranges.

    Raises:
        UserError: a new choice lacks the ranges that depend on it, or a condition names a parameter
            without choices.
    """
    if not ranges:
        return experiment
    try:
        space = own_space(experiment.space, preset, ranges)
    except ValueError as error:
        raise UserError(f"--space {error}") from None

    _check_conditions(ranges, ranges_of(space, preset, {}))
    return replace(experiment, space=space)


def left_out(options: Options, experiment: Experiment, preset: str, ranges: Ranges) -> list[str]:
    """Return the searched parameters that `--no-search` takes out of the search.

    Args:
        experiment: experiment with the user's ranges in its space.
    Raises:
        UserError: one is not searched, or `--space` gives it a range.
    """
    typed = options.no_search or []
    if not typed:
        return []

    searched = ranges_of(experiment.space, preset, {})
    if ALL in typed:
        return [key for key in searched if key not in ranges]
    for key in typed:
        if key in ranges:
            raise UserError(f"--no-search {key}: --space gives it a range; leave one of them out")
        if key not in searched:
            raise UserError(f"--no-search {key}: it is not searched{nearest(key, searched)}")
    return list(typed)


def check_default(
    experiment: Experiment,
    preset: str,
    base: Mapping[str, Any],
    pinned: Mapping[str, Any],
    ranges: Ranges,
) -> None:
    """Refuse ranges that exclude the default, because trials could then not be compared with trial
    0.

    Raises:
        UserError: a range excludes the default; the message says how to give another default.
    """
    asked = asked_for(experiment.space, preset, base, pinned)
    outside = [key for key in ranges if key in asked and not within(asked[key], base[key])]
    if not outside:
        return

    shown = "; ".join(
        f"{key}={write_range(Range(asked[key]))} leaves out the default, {write_scalar(base[key])}"
        for key in outside
    )
    raise UserError(
        f"--space {shown}. Include it, or give another default within: --set {outside[0]}=VALUE"
    )


def check_drawn(
    experiment: Experiment, preset: str, base: Mapping[str, Any], pinned: Mapping[str, Any]
) -> None:
    """Refuse a space in which some combinations of values are not valid configs.

    Raises:
        UserError: one of a few randomly drawn configurations is invalid.
    """
    rng = np.random.default_rng(0)
    for _ in range(_DRAWS):
        chance = Chance(rng)
        try:
            experiment.space(Pinned(chance, pinned), preset)
            build(experiment.config, {**base, **chance.said})
        except UserError as error:
            raise UserError(
                f"--space has combinations that are not valid: {error}; narrow its ranges"
            ) from None
        except Exception as error:
            raise UserError(
                f"--space: the search space of {experiment.name} fails with these ranges "
                f"({type(error).__name__}: {first_line(error)}); leave out the one it decides by"
            ) from None


def notes_on(
    experiment: Experiment, preset: str, pinned: Mapping[str, Any], ranges: Ranges
) -> tuple[str, ...]:
    """Return a note for every range that no trial will use."""
    idle = unused(experiment.space, preset, pinned, ranges) if ranges else []
    return tuple(
        f"note: --space {key}: no trial uses it, or not under each of its conditions"
        for key in idle
    )


def as_record(ranges: Ranges) -> dict[str, list[str]] | None:
    """Return the ranges in the form that a manifest stores, as texts for `--space`; None if there
    are none."""
    return {key: [write_range(one) for one in found] for key, found in ranges.items()} or None


def _checked(key: str, range_: Range, config: type) -> Range:
    _check_key(key)
    text = f"--space {key}={write_range(range_)}: "
    try:
        distribution = _typed(key, range_.distribution, config)
        when = range_.when
        if when is not None:
            values = tuple(convert(config, when.switch, choice) for choice in when.choices)
            when = When(when.switch, values)
    except (ValueError, UserError) as error:
        raise UserError(f"{text}{error}") from None
    return Range(distribution, when)


def _check_key(key: str) -> None:
    is_data = key.startswith(_DATA) and key not in _SEARCHED_DATA
    if is_data or key in _NEVER:
        raise UserError(
            f"--space {key}: it is not part of a search, which compares trials on the same data "
            "and by the same rules; leave it out"
        )


def _typed(key: str, distribution: BaseDistribution, config: type) -> BaseDistribution:
    """Return the distribution with bounds or choices in the key's type."""
    if isinstance(distribution, CategoricalDistribution):
        return choices([convert(config, key, choice) for choice in distribution.choices])

    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low = convert(config, key, distribution.low)
    high = convert(config, key, distribution.high)
    kind = number_type(config, key)
    if kind is None:
        raise ValueError(f"it takes no range of numbers; name choices, such as {key}=a,b")
    step: float | None = distribution.step
    if step is not None:
        step = kind(step) if kind is float or float(step).is_integer() else step
    if kind is float and step == 1 and isinstance(distribution, IntDistribution):
        step = None  # the bounds were typed as integers, but no step was meant
    return numbers(kind(low), kind(high), log=distribution.log, step=step)


def _check_conditions(ranges: Ranges, described: Mapping[str, Iterable[Range]]) -> None:
    """Refuse conditions on parameters without choices."""
    with_choices = [
        key
        for key, variants in described.items()
        if any(isinstance(one.distribution, CategoricalDistribution) for one in variants)
    ]
    for key, variants in ranges.items():
        for one in variants:
            if one.when is None or one.when.switch in with_choices:
                continue
            raise UserError(
                f"--space {key}={write_range(one)}: {one.when.switch} has no choices in this "
                f"space; a condition is on one of {', '.join(with_choices)}"
            )
