"""Search spaces and configs written as literals, for functions and scripts.

    space = {
        "lr": (1e-5, 1e-1, "log"),
        "layers": (1, 4),
        "opt": ["sgd", "adamw"],
        "flip": bool,
        "momentum": "0..0.99 when opt=sgd",
    }
    default = {"lr": 1e-3, "epochs": 10}

Two floats are a range, two integers an integer range, and "log" makes either logarithmic. A list
contains choices, `bool` is a choice of False and True, and a string is read as by `--space`. A
tuple of strings gives ranges under several conditions. The default is trial 0; a missing value
defaults to the middle of its range or the first choice. Names may contain dots.
"""

import keyword
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from operator import or_
from typing import Annotated, Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import BeforeValidator, Field

from trainables.config import MOST_THREADS, config_without_source
from trainables.errors import UserError
from tune.experiments import SearchSpace
from tune.function import PRESET, RESERVED
from tune.search.native import native, native_literal
from tune.search.ranges import (
    Range,
    Ranges,
    choices,
    numbers,
    parse_range,
    range_for,
    together,
    write_distribution,
)
from tune.search.space import ranges_of, within

Scalar = str | int | float | bool | None
_SCALARS = (str, int, float, bool, type(None))


def read_space(space: Mapping[str, Any]) -> Ranges:
    """Read the literals of a space.

    Raises:
        UserError: a name or a literal is invalid.
    """
    _check_names(space)
    found = {}
    for name, literal in space.items():
        try:
            found[name] = together(name, _variants(native_literal(literal)))
        except ValueError as error:
            raise UserError(f"space of {name}: {error}; got {literal!r}") from None
    return found


def ranges_in(suggest: Callable[[Any], Any]) -> tuple[SearchSpace, Ranges]:
    """Return the space and the ranges of a function written as for Optuna, which asks a trial for
    values. The ranges cover all its branches.

    Raises:
        UserError: it asks for an invalid name.
    """
    space = partial(_asked, suggest)
    ranges = {name: tuple(found) for name, found in ranges_of(space, PRESET, {}).items()}
    _check_names(ranges)
    return space, ranges


def complete(ranges: Ranges, default: Mapping[str, Any]) -> dict[str, Any]:
    """Return the complete default: all searched values, then the others.

    Raises:
        UserError: a value is not a plain one, or is outside its range.
    """
    _check_names({**ranges, **default})
    default = {name: native(value) for name, value in default.items()}
    for name, value in default.items():
        if not isinstance(value, _SCALARS):
            raise UserError(
                f"default of {name} must be a number, a text, True, False or None, got {value!r}"
            )

    values = dict(default)
    for name, variants in ranges.items():
        range_ = range_for(variants, values)
        applies = range_ is not None
        distribution = (range_ or variants[0]).distribution
        value = values.get(name, _middle(distribution))
        if isinstance(distribution, FloatDistribution) and type(value) is int:
            value = float(value)
        if applies and not _admits(distribution, value):
            raise UserError(
                f"default of {name} must be among what is searched "
                f"({write_distribution(distribution)}), got {value!r}"
            )
        values[name] = value
    return {name: values[name] for name in [*ranges, *default]}


def config_class(ranges: Ranges, default: Mapping[str, Any], threads: int) -> type:
    """Create a function's config: a dataclass whose flat form has these names.

    Args:
        ranges: the searched ranges.
        default: the complete default.
        threads: default number of CPU threads per trial.
    """
    tree: dict[str, Any] = {}
    for name, value in default.items():
        variants = ranges.get(name)
        _put(tree, name, (_type_of(value) if variants is None else _searched(variants), value))
    _put(tree, "train.threads", (Annotated[int, Field(ge=1, le=MOST_THREADS)], threads))
    _put(tree, "seed", (Annotated[int, Field(ge=0)], 0))
    return _block("FunctionConfig", tree)


def plain(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values to pass to a function: a flat config without reserved names, as Python's
    own types. Samplers draw NumPy numbers, which a checkpoint must not contain."""
    return {name: native(value) for name, value in flat.items() if name not in RESERVED}


def _asked(suggest: Callable[[Any], Any], trial: Any, preset: str) -> None:
    suggest(trial)


def _variants(literal: Any) -> Sequence[Range]:
    """Return the ranges of one parameter.

    Raises:
        ValueError: the literal has none of the valid forms.
    """
    if isinstance(literal, str):
        return [parse_range(literal)]
    if isinstance(literal, tuple) and all(isinstance(part, str) for part in literal):
        return [parse_range(part) for part in literal]
    if literal is bool:
        return [Range(choices([False, True]))]
    if isinstance(literal, list) and all(isinstance(value, _SCALARS) for value in literal):
        return [Range(choices(literal))]
    if isinstance(literal, tuple):
        return [Range(_numbers(literal))]
    raise ValueError('it must be (low, high), (low, high, "log"), a list of choices, bool or text')


def _numbers(literal: tuple[Any, ...]) -> BaseDistribution:
    ends, scale = literal[:2], literal[2:]
    real = all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends)
    if len(ends) != 2 or not real or scale not in ((), ("log",)):
        raise ValueError('a range must be (low, high) or (low, high, "log")')
    low, high = ends
    return numbers(low, high, log=bool(scale))


def _middle(distribution: BaseDistribution) -> Scalar:
    """Return the middle of a range on its own scale, or the first choice."""
    if isinstance(distribution, CategoricalDistribution):
        first: Scalar = distribution.choices[0]
        return first
    assert isinstance(distribution, FloatDistribution | IntDistribution)

    low, high, step = distribution.low, distribution.high, distribution.step
    value = math.sqrt(low * high) if distribution.log else (low + high) / 2
    if step is not None:
        value = low + round((value - low) / step) * step
    if isinstance(distribution, IntDistribution):
        return round(value)
    return min(max(float(f"{value:.3g}"), low), high)


def _admits(distribution: BaseDistribution, value: Scalar) -> bool:
    """True if a value has the right type and is in the range or among the choices."""
    if isinstance(distribution, CategoricalDistribution):
        return any(value == each and type(value) is type(each) for each in distribution.choices)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if isinstance(distribution, IntDistribution) and not isinstance(value, int):
        return False
    return within(distribution, value)


def _searched(variants: Sequence[Range]) -> Any:
    """Return the type of a searched config value. It converts text from the command line to the
    matching choice."""
    distributions = [variant.distribution for variant in variants]
    if all(isinstance(each, IntDistribution) for each in distributions):
        return int
    values: list[Scalar] = []
    types: dict[type, None] = {}
    for each in distributions:
        if isinstance(each, CategoricalDistribution):
            values += each.choices
            types |= dict.fromkeys(type(value) for value in each.choices)
        else:
            types[float] = None
    union: Any = reduce(or_, types)
    return Annotated[union, BeforeValidator(partial(_written, tuple(values)))]


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
    """Build a config dataclass from a tree, in which blocks are dicts and leaves are pairs of type
    and default."""
    types: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    for key, node in tree.items():
        if isinstance(node, dict):
            block = _block(key.title(), node)
            types[key], defaults[key] = block, block()
        else:
            types[key], defaults[key] = node
    body = {"__annotations__": types, "__module__": __name__, **defaults}
    return config_without_source(type(name, (), body))


def _written(choices: tuple[Scalar, ...], value: Any) -> Any:
    """Return the choice that a text stands for; return anything else unchanged."""
    if not isinstance(value, str) or value in choices:
        return value
    same = [choice for choice in choices if str(choice).lower() == value.lower()]
    return same[0] if same else value
