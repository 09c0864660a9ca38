"""Configs: frozen dataclasses validated by pydantic, and their flat form, a dict of dotted paths.

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
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as _pydantic_dataclass

from trainables.errors import UserError

__all__ = [
    "MOST_EPOCHS",
    "MOST_IMAGES",
    "MOST_THREADS",
    "Annotated",
    "Field",
    "build",
    "config",
    "config_without_source",
    "convert",
    "flatten",
    "nearest",
    "number_type",
]

MOST_EPOCHS = 1_000_000
"""Most epochs of a trial. Each of them is a line of the event log."""
MOST_IMAGES = 2**17
"""Most images in a batch: four times the largest batch that anybody trains with. A larger number
is a typing mistake, and would end the process for lack of memory."""
MOST_THREADS = 1024
"""Most CPU threads of a trial: more than any machine has cores."""

Scalar = str | int | float | bool | None
C = TypeVar("C")

_RULES = ConfigDict(
    extra="forbid", validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False
)
_RULES_WITHOUT_SOURCE = ConfigDict(**{**_RULES, "use_attribute_docstrings": False})
_FIELD_RULES = ConfigDict(allow_inf_nan=False)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
def config(cls: type[C]) -> type[C]:
    """Make a frozen, keyword-only dataclass that enforces its annotations (`Literal`,
    `Annotated[float, Field(gt=0)]`)."""
    decorate = _pydantic_dataclass(frozen=True, kw_only=True, config=_RULES)
    return decorate(cls)  # type: ignore[return-value]


def config_without_source(cls: type[C]) -> type[C]:
    """Make such a dataclass from a class that is not in any file. pydantic would search every
    module of the process for its docstrings, which takes a third of a second."""
    decorate = _pydantic_dataclass(frozen=True, kw_only=True, config=_RULES_WITHOUT_SOURCE)
    return decorate(cls)  # type: ignore[return-value]


def flatten(cfg: Any, prefix: str = "") -> dict[str, Scalar]:
    """Turn a nested config into {"optim.lr": 0.1, ...}, in the order of declaration."""
    flat: dict[str, Scalar] = {}
    for field in fields(cfg):
        value = getattr(cfg, field.name)
        if is_dataclass(value):
            flat |= flatten(value, f"{prefix}{field.name}.")
        else:
            flat[prefix + field.name] = value
    return flat


def build(cls: type[C], flat: Mapping[str, Any]) -> C:
    """Build a config from a flat dict of dotted paths.

    Missing keys keep their defaults; strings are converted.

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
        if value == "none" and _admits_none(cls, key):
            value = None
        node[leaf] = value

    try:
        return cls(**tree)
    except ValidationError as error:
        problems = [_one_line(problem) for problem in error.errors()]
        raise UserError("; ".join(problems)) from None


def convert(cls: type, key: str, value: Any) -> Any:
    """Convert a value to the type of one field of a config, independently of the other fields.

    Args:
        key: dotted path of the field.
    Raises:
        UserError: unknown key, or a value of another type or out of range.
    """
    known = flatten(cls())
    if key not in known:
        raise UserError(f"unknown config key {key!r}{nearest(key, known)}")

    annotation = _annotation(cls, key)
    kinds = _kinds(annotation)
    takes_text = any(kind is str or isinstance(kind, str) for kind in kinds)
    if value is None and not {NoneType, None} & kinds:
        value = "none"
    if takes_text and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    try:
        return TypeAdapter(annotation, config=_FIELD_RULES).validate_python(value)
    except ValidationError as error:
        problem = dict(error.errors()[0])
        problem["loc"] = (key,)
        raise UserError(_one_line(problem)) from None


def number_type(cls: type, key: str) -> type[int] | type[float] | None:
    """Return the number type of a known field; None if the field takes no number."""
    kinds = _kinds(_annotation(cls, key))
    if float in kinds:
        return float
    return int if int in kinds else None


def _admits_none(cls: type, key: str) -> bool:
    """Return True if the word `none` means None for this field; elsewhere it may be a name."""
    return NoneType in _kinds(_annotation(cls, key))


def _annotation(cls: type, key: str) -> Any:
    """Return the annotation of a field, with its constraints."""
    *parents, leaf = key.split(".")
    for name in parents:
        cls = get_type_hints(cls)[name]
    return get_type_hints(cls, include_extras=True)[leaf]


def _kinds(annotation: Any) -> set[Any]:
    """Return the types in an annotation's union, without constraints; for a `Literal`, its
    values."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return set(get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return set().union(*(_kinds(one) for one in get_args(annotation)))
    return {annotation}


def nearest(word: str, known: Iterable[str]) -> str:
    """End of an error message: "; did you mean 'optim.lr'?", or all valid names if none is
    close."""
    names = sorted(known)
    ends = [name for name in names if name.endswith(f".{word}")]
    if ends:
        return f"; did you mean {' or '.join(repr(name) for name in ends)}?"

    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; valid: {', '.join(names)}"


def rule_of(message: str) -> str:
    """The rule in a message of pydantic, such as "a valid integer"."""
    return message.removeprefix("Input should be ").partition(", unable to parse")[0]


def _one_line(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    message = rule_of(error["msg"].removeprefix("Value error, "))
    if error["type"] == "value_error":  # raised by a __post_init__, which names its own values
        return f"{key}: {message}" if key else message
    return f"{key}={error['input']!r} is not valid: must be {message}"
