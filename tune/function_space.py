"""Search spaces and configs written as literals, for functions and scripts.

    space = {"lr": (1e-5, 1e-1, "log"), "layers": (1, 4), "opt": ["sgd", "adamw"], "flip": bool}
    default = {"lr": 1e-3, "epochs": 10}

Two real numbers are a range, two integers a range of integers, "log" makes either logarithmic, a
list holds choices, and `bool` is a choice of False and True. The default is trial 0; a value that
it lacks is the middle of its range or the first of its choices. Names may have dots.
"""

import keyword
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial, reduce
from operator import or_
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from trainables.config import config
from trainables.errors import UserError
from tune.function import RESERVED

Scalar = str | int | float | bool | None
_SCALARS = (str, int, float, bool, type(None))
_FORMS = '(low, high), (low, high, "log"), a list of choices, or bool'


@dataclass(frozen=True)
class Range:
    """A range of real numbers, or of integers where both ends are integers."""

    low: float
    high: float
    log: bool = False

    @property
    def is_whole(self) -> bool:
        """True for a range of integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"

    @property
    def middle(self) -> float:
        """The middle, on the range's own scale."""
        if self.log:
            value = math.sqrt(self.low * self.high)
        else:
            value = (self.low + self.high) / 2
        return round(value) if self.is_whole else float(f"{value:.3g}")

    @property
    def type(self) -> Any:
        """Type of a config value that is searched here."""
        return int if self.is_whole else float

    def suggest(self, trial: Any, name: str) -> Any:
        """Ask an Optuna trial for a value."""
        if self.is_whole:
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, float(self.low), float(self.high), log=self.log)


@dataclass(frozen=True)
class Choices:
    """A few values without an order."""

    values: tuple[Scalar, ...]

    def __contains__(self, value: object) -> bool:
        return any(value == each and type(value) is type(each) for each in self.values)

    def __str__(self) -> str:
        return ", ".join(str(value) for value in self.values)

    @property
    def middle(self) -> Scalar:
        """The first choice."""
        return self.values[0]

    @property
    def type(self) -> Any:
        """Type of a config value that is searched here; text of the command line becomes the choice
        that is written so."""
        types = dict.fromkeys(type(value) for value in self.values)
        union: Any = reduce(or_, types)
        return Annotated[union, BeforeValidator(partial(_written, self.values))]

    def suggest(self, trial: Any, name: str) -> Any:
        """Ask an Optuna trial for a choice."""
        return trial.suggest_categorical(name, list(self.values))


Domain = Range | Choices


def domains(space: Mapping[str, Any]) -> dict[str, Domain]:
    """Read the literals of a space.

    Raises:
        UserError: a name or a literal that cannot be searched.
    """
    _check_names(space)
    return {name: _domain(name, literal) for name, literal in space.items()}


def complete(found: Mapping[str, Domain], default: Mapping[str, Any]) -> dict[str, Any]:
    """Return the whole default: every value that is searched, then the others.

    Raises:
        UserError: a value that is no plain one, or outside its range.
    """
    _check_names({**found, **default})
    for name, value in default.items():
        if not isinstance(value, _SCALARS):
            raise UserError(
                f"default of {name} must be a number, a text, True, False or None, got {value!r}"
            )

    values = {}
    for name, domain in found.items():
        value = default.get(name, domain.middle)
        if isinstance(domain, Range) and not domain.is_whole and type(value) is int:
            value = float(value)
        if value not in domain:
            raise UserError(
                f"default of {name} must be among what is searched ({domain}), got {value!r}"
            )
        values[name] = value
    return {**values, **default, **values}


def as_space(found: Mapping[str, Domain]) -> Callable[[Any, str], None]:
    """Return a search space that asks for every name in turn."""
    return partial(_ask, dict(found))


def config_class(found: Mapping[str, Domain], default: Mapping[str, Any], threads: int) -> type:
    """Make the config of a function: a dataclass whose flat form has these names.

    Args:
        found: what is searched.
        default: the whole default.
        threads: default number of CPU threads of a trial.
    """
    tree: dict[str, Any] = {}
    for name, value in default.items():
        domain = found.get(name)
        _put(tree, name, (_type_of(value) if domain is None else domain.type, value))
    _put(tree, "train.threads", (Annotated[int, Field(ge=1)], threads))
    _put(tree, "seed", (Annotated[int, Field(ge=0)], 0))
    return _block("FunctionConfig", tree)


def plain(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that a function is given: a flat config without what is reserved, in
    Python's own types (samplers draw numbers of NumPy, which no checkpoint may hold)."""
    return {
        name: value.item() if hasattr(value, "item") else value
        for name, value in flat.items()
        if name not in RESERVED
    }


def _ask(found: Mapping[str, Domain], trial: Any, preset: str) -> None:
    for name, domain in found.items():
        domain.suggest(trial, name)


def _domain(name: str, literal: Any) -> Domain:
    if literal is bool:
        return Choices((False, True))
    if isinstance(literal, list):
        return _choices(name, literal)
    if isinstance(literal, tuple):
        return _range(name, literal)
    raise UserError(f"space of {name} must be {_FORMS}; got {literal!r}")


def _choices(name: str, literal: list[Any]) -> Choices:
    if not literal or not all(isinstance(value, _SCALARS) for value in literal):
        raise UserError(f"choices of {name} must be numbers, texts, True, False or None: {literal}")
    return Choices(tuple(literal))


def _range(name: str, literal: tuple[Any, ...]) -> Range:
    ends, scale = literal[:2], literal[2:]
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends)
    if len(ends) != 2 or not numbers or scale not in ((), ("log",)):
        raise UserError(f"space of {name} must be {_FORMS}; got {literal!r}")

    low, high = ends
    if not low < high or not math.isfinite(low) or not math.isfinite(high):
        raise UserError(f"range of {name}: low < high must hold, but got low={low}, high={high}")
    if scale and low <= 0:
        raise UserError(f"range of {name}: a logarithmic one begins above 0, but got low={low}")
    return Range(low, high, bool(scale))


def _check_names(names: Mapping[str, Any]) -> None:
    for name in names:
        parts = str(name).split(".")
        usable = all(part.isidentifier() and not keyword.iskeyword(part) for part in parts)
        if not usable or any(part.startswith("_") for part in parts):
            raise UserError(
                f"{name!r} must be a name of letters, digits and _ (with dots between parts), "
                "such as lr or optim.lr"
            )
        if name in RESERVED:
            where = "run.seed has it" if name == "seed" else "threads=... sets it"
            raise UserError(f"{name!r} is a name of vistune's own: {where}")
        for end in range(1, len(parts)):
            if ".".join(parts[:end]) in names:
                raise UserError(f"{'.'.join(parts[:end])!r} cannot be a value beside {name!r}")


def _type_of(value: Any) -> Any:
    if value is None:
        return str | None
    return type(value)


def _put(tree: dict[str, Any], name: str, leaf: tuple[Any, Any]) -> None:
    *parents, last = name.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[last] = leaf


def _block(name: str, tree: Mapping[str, Any]) -> type:
    """A config dataclass of a tree: blocks are dicts, values pairs of type and default."""
    types: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    for key, node in tree.items():
        if isinstance(node, dict):
            block = _block(key.title(), node)
            types[key], defaults[key] = block, block()
        else:
            types[key], defaults[key] = node
    body = {"__annotations__": types, "__module__": __name__, **defaults}
    return config(type(name, (), body))


def _written(choices: tuple[Scalar, ...], value: Any) -> Any:
    """The choice that a text stands for; anything else as it is."""
    if not isinstance(value, str) or value in choices:
        return value
    same = [choice for choice in choices if str(choice).lower() == value.lower()]
    return same[0] if same else value
