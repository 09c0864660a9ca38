"""Search spaces in files, for `--space FILE`: vistune's own YAML, a W&B sweep, Optuna's JSON."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    json_to_distribution,
)

from trainables.errors import UserError
from tune.search.ranges import (
    Range,
    choices,
    is_range_text,
    numbers,
    parse_assignment,
    parse_range,
    together,
    with_range,
)

SUFFIXES = (".yaml", ".yml", ".json")
Entry = tuple[str, tuple[Range, ...]]

_NO_RANGE = "normal", "q_normal", "log_normal", "q_log_normal", "beta", "q_beta"


def read_ranges(typed: list[str]) -> dict[str, tuple[Range, ...]]:
    """Read the values of all `--space` options; a later one replaces an earlier one.

    Args:
        typed: `KEY=RANGE` (`tune/search/ranges.py`) or the path of a file.
    Raises:
        UserError: a text or a file is not a space; the message names it and the problem.
    """
    found: dict[str, tuple[Range, ...]] = {}
    for text in typed:
        if text.strip().lower().endswith(SUFFIXES):
            found |= read_file(Path(text.strip()).expanduser())
            continue
        try:
            key, added = parse_assignment(text)
            found = with_range(found, key, added)
        except ValueError as error:
            raise UserError(f"--space {text}: {error}") from None
    return found


def read_file(path: Path) -> dict[str, tuple[Range, ...]]:
    """Read a file: `parameters` (a W&B sweep), distributions as Optuna writes them, or a range for
    each key.

    Raises:
        UserError: it cannot be read, or is not a space.
    """
    content = _content(path)
    if isinstance(content.get("parameters"), dict):
        entries = _sweep_entries(content["parameters"])
    elif any(_is_optunas(value) for value in content.values()):
        entries = _optuna_entries(content)
    else:
        entries = _own_entries(content)

    found: dict[str, tuple[Range, ...]] = {}
    try:
        for key, variants in entries:
            found[key] = together(key, variants)
    except ValueError as error:
        raise UserError(f"--space {path}: {error}") from None
    return found


def _content(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UserError(f"--space {path} cannot be read: {reason}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f" (line {mark.line + 1})"
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        raise UserError(f"--space {path} is not YAML{line}: {problem}") from None
    except ValueError as error:
        raise UserError(f"--space {path} is not JSON: {error}") from None

    if not isinstance(content, dict) or not content:
        raise UserError(
            f"--space {path} contains no space: it must have lines such as optim.lr: 1e-4..1e-2:log"
        )
    return content


def _named(key: str, read: Callable[[Any], BaseDistribution], value: Any) -> tuple[Range, ...]:
    """Return the distribution that is read from a value; an error names its key."""
    try:
        return (Range(read(value)),)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{key}: {error}") from None


# -- our own


def _own_entries(content: Mapping[Any, Any], prefix: str = "") -> Iterator[Entry]:
    """Yield ranges from text, from lists of choices, or from blocks nested by dotted keys."""
    for name, value in content.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _own_entries(value, f"{key}.")
        else:
            yield key, own_variants(key, value)


def own_variants(key: str, value: Any) -> tuple[Range, ...]:
    """Return the ranges of a key in vistune's own form: a text, a list of choices, or a list of
    texts with conditions.

    Raises:
        ValueError: the value is not of this form; the message names the key.
    """
    is_list = isinstance(value, list)
    texts = value if is_list else [value]
    are_ranges = any(isinstance(text, str) and is_range_text(text) for text in texts)
    try:
        if is_list and not are_ranges:
            return (Range(choices([_scalar(one) for one in value])),)
        return tuple(
            parse_range(text) if isinstance(text, str) else Range(choices([text])) for text in texts
        )
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _scalar(value: Any) -> Any:
    """Return a choice of a list. YAML reads 1e-4, without a point, as text."""
    if not isinstance(value, str | int | float | bool | None):
        raise ValueError(f"a choice must be a number, a word, true, false or null, not {value!r}")
    number = _number(value)
    return value if number is None or not isinstance(value, str) else number


def _number(value: Any) -> int | float | None:
    """Return a number, also for text such as 1e-4; None for anything else."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return value
    try:
        return float(value)
    except ValueError:
        return None


# -- Weights & Biases


def _sweep_entries(parameters: Mapping[str, Any], prefix: str = "") -> Iterator[Entry]:
    """Yield the `parameters` of a sweep (https://docs.wandb.ai/models/sweeps/sweep-config-keys)."""
    for name, about in parameters.items():
        key = f"{prefix}{name}"
        if not isinstance(about, dict):
            raise ValueError(f"{key}: a parameter of a sweep has values, value, or min and max")
        if isinstance(about.get("parameters"), dict):
            yield from _sweep_entries(about["parameters"], f"{key}.")
            continue
        yield key, _named(key, _of_sweep, about)


def _of_sweep(about: Mapping[str, Any]) -> BaseDistribution:
    if "probabilities" in about:
        raise ValueError("choices of different probability are not supported: leave them out")
    if "values" in about:
        return choices([_scalar(value) for value in about["values"]])
    if "value" in about:
        return choices([_scalar(about["value"])])

    low, high = _end(about, "min"), _end(about, "max")
    whole = isinstance(low, int) and isinstance(high, int)
    kind = str(about.get("distribution", "int_uniform" if whole else "uniform"))
    if kind.startswith("inv_"):
        raise ValueError(f"{kind} is not supported: use log_uniform_values")
    if kind in ("log_uniform", "q_log_uniform"):  # their ends are exponents
        low, high = math.exp(low), math.exp(high)
        kind += "_values"

    step = _number(about.get("q", 1)) if kind.startswith("q_") else None
    return _of_kind(kind.removeprefix("q_"), low, high, step)


def _of_kind(kind: str, low: float, high: float, step: float | None) -> BaseDistribution:
    if kind == "int_uniform":
        return numbers(int(low), int(high))
    if kind == "uniform":
        if step is not None and all(float(value).is_integer() for value in (low, high, step)):
            return numbers(int(low), int(high), step=int(step))
        return numbers(float(low), float(high), step=step)
    if kind == "log_uniform_values":
        if step is None:
            return numbers(float(low), float(high), log=True)
        if step == 1:
            return numbers(round(low), round(high), log=True)
        raise ValueError("a log scale has no steps other than 1: leave q out")
    raise ValueError(
        f"distribution {kind} is not supported; there are uniform, int_uniform, q_uniform, "
        "log_uniform_values, q_log_uniform_values, log_uniform, q_log_uniform, categorical "
        "and constant"
    )


def _end(about: Mapping[str, Any], name: str) -> int | float:
    kind = str(about.get("distribution", ""))
    if kind in _NO_RANGE:
        raise ValueError(f"distribution {kind} has no ends: give min and max of a uniform one")
    if name not in about:
        raise ValueError(f"it lacks {name}: a parameter has values, value, or min and max")
    value = _number(about[name])
    if value is None:
        raise ValueError(f"{name}={about[name]!r} must be a number")
    return value


# -- Optuna


def _is_optunas(value: Any) -> bool:
    if isinstance(value, str):
        return value.startswith("{") and '"attributes"' in value
    return isinstance(value, dict) and {"name", "attributes"} <= value.keys()


def _optuna_entries(content: Mapping[str, Any]) -> Iterator[Entry]:
    """Yield distributions as `optuna.distributions.distribution_to_json` writes them, either as
    JSON within the file or as a string of it."""
    for key, value in content.items():
        if not _is_optunas(value):
            raise ValueError(f"{key} is not a distribution in Optuna's form, but others here are")
        text = value if isinstance(value, str) else json.dumps(value)
        yield key, _named(key, _of_optuna, text)


def _of_optuna(text: str) -> BaseDistribution:
    distribution = json_to_distribution(text)
    if isinstance(distribution, CategoricalDistribution):
        return choices(list(distribution.choices))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    whole = isinstance(distribution, IntDistribution) and distribution.step == 1
    step = None if whole else distribution.step
    return numbers(distribution.low, distribution.high, log=distribution.log, step=step)
