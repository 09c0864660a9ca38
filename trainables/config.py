"""Configs are frozen dataclasses, checked by pydantic; a config is spelled outside as a flat dict
of dotted paths.

>>> @config
... class Optim:
...     lr: Annotated[float, Field(gt=0)] = 0.1
...     '''Learning rate, > 0.'''
>>> @config
... class Config:
...     optim: Optim = Optim()
>>> flatten(build(Config, {"optim.lr": "0.3"}))
{'optim.lr': 0.3}
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Annotated, Any, TypeVar, dataclass_transform, get_args, get_type_hints

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as _pydantic_dataclass

from trainables.errors import UserError

__all__ = ["Annotated", "Field", "build", "config", "flatten", "nearest"]

Scalar = str | int | float | bool | None
C = TypeVar("C")

_RULES = ConfigDict(
    extra="forbid", validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False
)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
def config(cls: type[C]) -> type[C]:
    """Frozen, keyword-only dataclass whose annotations (`Literal`, `Annotated[float, Field(gt=0)]`)
    are enforced."""
    return _pydantic_dataclass(frozen=True, kw_only=True, config=_RULES)(cls)  # type: ignore[return-value]


def flatten(cfg: Any, prefix: str = "") -> dict[str, Scalar]:
    """Nested config -> {"optim.lr": 0.1, ...}, in the order of declaration."""
    flat: dict[str, Scalar] = {}
    for field in fields(cfg):
        value = getattr(cfg, field.name)
        if is_dataclass(value):
            flat |= flatten(value, f"{prefix}{field.name}.")
        else:
            flat[prefix + field.name] = value
    return flat


def build(cls: type[C], flat: Mapping[str, Any]) -> C:
    """Flat dict of dotted paths -> config. Missing keys keep their defaults; strings are converted.

    Raises:
        UserError: unknown key (the nearest one is suggested) or a value that is out of range.
    """
    known = flatten(cls())
    for key in flat:
        if key not in known:
            raise UserError(f"unknown config key {key!r}{nearest(key, known)}")
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, leaf = key.split(".")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[leaf] = None if value == "none" and _admits_none(cls, key) else value
    try:
        return cls(**tree)
    except ValidationError as error:
        raise UserError("; ".join(_one_line(e) for e in error.errors())) from None


def _admits_none(cls: type, key: str) -> bool:
    """Whether the word `none` stands for None here; elsewhere it may be a name."""
    *parents, leaf = key.split(".")
    for name in parents:
        cls = get_type_hints(cls)[name]
    return NoneType in get_args(get_type_hints(cls)[leaf])


def nearest(word: str, known: Iterable[str]) -> str:
    """ "; did you mean 'optim.lr'?", or the valid names where nothing is near."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; valid: {', '.join(known)}"


def _one_line(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if error["type"] == "value_error":  # raised by a __post_init__, which names its own values
        return f"{key}: {message}" if key else message
    return f"{key}={error['input']!r} is not valid: must be {message}"
