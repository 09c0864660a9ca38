"""`--try KEY=VALUE,KEY=VALUE`: the user's own configurations, tried before any that the search
draws."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from trainables.config import build, flatten
from trainables.errors import UserError
from tune.experiments import Experiment
from tune.formatting import read_assignment
from tune.search.own_configuration import check_described, own_configuration
from tune.search.space import as_json, describe

_NEXT = re.compile(r",\s*(?=[\w.]+\s*=)")
"""A comma that is followed by another KEY=; other commas belong to a value."""


def parse_try(text: str) -> dict[str, str]:
    """Read `optim.lr=0.1,optim.name=sgd`.

    Raises:
        UserError: it is not KEY=VALUE,KEY=VALUE.
    """
    values = {}
    for word in _NEXT.split(text):
        key, value = read_assignment(word) or ("", "")
        if not value:
            raise UserError(
                f"--try {text!r} must be KEY=VALUE,KEY=VALUE, such as "
                "--try optim.lr=0.1,optim.name=sgd"
            )
        values[key] = value
    return values


def own_configurations(
    words: Sequence[str] | None,
    experiment: Experiment,
    preset: str,
    base: Mapping[str, Any],
    pins: Mapping[str, Any],
) -> tuple[dict[str, Any], ...]:
    """Read and check the typed configurations, before any trial starts.

    Returns:
        Searched parameter -> value in its type, for each configuration.
    Raises:
        UserError: a key is not searched, or a value is invalid or out of range.
    """
    found = []
    for text in words or []:
        try:
            found.append(_checked(parse_try(text), experiment, preset, base, pins))
        except UserError as error:
            said = str(error)
            raise UserError(said if said.startswith("--try") else f"--try {text}: {said}") from None
    return tuple(found)


def _checked(
    typed: Mapping[str, str],
    experiment: Experiment,
    preset: str,
    base: Mapping[str, Any],
    pins: Mapping[str, Any],
) -> dict[str, Any]:
    described = as_json(describe(experiment.space, preset, pins))
    given = in_types(typed, experiment, base)
    check_described(described, base, pins, given)
    own_configuration(experiment.space, preset, base, pins, given)
    return given


def in_types(
    typed: Mapping[str, Any], experiment: Experiment, base: Mapping[str, Any]
) -> dict[str, Any]:
    """Convert values to the types of the config.

    Raises:
        UserError: a key is unknown, or a value is invalid.
    """
    config = flatten(build(experiment.config, {**base, **typed}))
    return {key: config[key] for key in typed}
