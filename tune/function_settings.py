"""Comparisons of settings that a function's experiment defines."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from search_spaces.settings import Comparison, Fixed
from trainables.config import nearest
from trainables.errors import UserError
from tune.formatting import assignments
from tune.search.native import native

Comparisons = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Name in `--compare` -> setting -> config values that the setting fixes."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def comparisons_of(given: Comparisons, known: Iterable[str]) -> dict[str, Comparison]:
    """Return the comparisons of `--compare`. In each of them, the settings are compared with the
    first one.

    Args:
        known: names of the config values.
    Raises:
        UserError: a name is invalid or used twice, there are fewer than two settings, or a value is
            unknown.
    """
    names = set(known)
    seen: set[str] = set()
    for name, settings in given.items():
        _check_name("compare", name)
        if len(settings) < 2:
            raise UserError(f"compare {name!r} needs two settings or more, got {list(settings)}")
        for setting, values in settings.items():
            _check_setting(name, setting, values, names)
            if setting in seen:
                raise UserError(f"compare: two settings have the name {setting!r}; rename one")
            seen.add(setting)
    return {name: _comparison(name, settings) for name, settings in given.items()}


def _comparison(name: str, settings: Mapping[str, Mapping[str, Any]]) -> Comparison:
    first, *others = settings
    fixed = {}
    for setting, values in settings.items():
        plain = {key: native(value) for key, value in values.items()}
        fixed[setting] = Fixed(assignments(plain) or "the default", plain)
    return Comparison(
        title=name,
        settings=fixed,
        questions={f"{other}-{first}": f"does {other} beat {first}" for other in others},
    )


def _check_setting(name: str, setting: str, values: Mapping[str, Any], known: set[str]) -> None:
    _check_name(f"setting of compare {name!r}", setting)
    for key in values:
        if key not in known:
            raise UserError(
                f"setting {setting!r} of compare {name!r}: there is no value {key!r} "
                f"(its usual value belongs in default){nearest(key, sorted(known))}"
            )


def _check_name(what: str, name: str) -> None:
    if not _NAME.fullmatch(str(name)):
        raise UserError(f"{what} {name!r} must be letters, digits and _, beginning with a letter")
