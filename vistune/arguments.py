"""Arguments of `search` and `search_settings`, and their conversion to command-line options for the
engine."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from trainables.errors import UserError
from tune.cli.caller import Progress
from tune.cli.options import Options
from tune.experiments import Experiment
from tune.reports.drawing_process import Drawn
from tune.search.native import native_literal
from tune.search.ranges import choices, numbers, write_distribution
from tune.study.rules import Keep

Ranges = Mapping[str, str | tuple[Any, ...] | list[Any]] | Sequence[str]
"""Config path -> (low, high), (low, high, "log"), [choices] or text; or a list of strings as
`--space` takes them."""
Values = Mapping[str, Any]
"""Config path -> value, such as {"optim.lr": 0.1}."""


class SearchArguments(TypedDict, total=False):
    """Arguments of `vistune.search` that `vistune.search_settings` takes too."""

    data: str | Path | None
    layout: str | None
    trials: int | None
    study: str | None
    storage: str | Path
    seed: int
    time_budget: str | None
    set: Values | None
    space: Ranges | None
    no_search: Sequence[str]
    sampler: str | None
    pruner: str | None
    preset: str | None
    workers: int
    gpus_per_worker: float | None
    concurrent: int | Literal["auto"] | None
    batch_trials: int | None
    repeats: int | None
    pictures: Drawn
    keep: Keep | None
    skip_corrupt: bool
    backbone: str | Path | None
    allow_seen: bool
    transductive: bool
    objective: str | None
    balance: bool
    accept_code: bool
    retry_failed: bool
    hung_after: float | None
    local: bool
    warm_start: str | None
    log: Sequence[str]
    progress: Progress


def as_options(experiment: str | Path | Experiment, **given: Any) -> Options:
    """Convert arguments to command-line options; None means not given.

    Raises:
        UserError: a range is invalid, or an argument is of another kind.
    """
    if callable(experiment):
        name = getattr(experiment, "__name__", experiment)
        raise UserError(
            f"{name} is a function: make it an experiment by vistune.function_experiment({name}, "
            "objective=..., space=...)"
        )
    named = experiment.name if isinstance(experiment, Experiment) else str(experiment)
    typed = {
        name: _SPELLED[name](value) if name in _SPELLED else value
        for name, value in given.items()
        if value is not None
    }
    return Options(experiment=named, **typed)


def assignments_of(values: Values) -> list[str]:
    """Format config values as the command line takes them: {"optim.lr": 0.1} ->
    ["optim.lr=0.1"].

    Raises:
        UserError: they are no dictionary.
    """
    if not isinstance(values, Mapping):
        raise UserError(f'values must be a dictionary, as in {{"optim.lr": 0.1}}: {values!r}')
    return [f"{key}={_value(value)}" for key, value in values.items()]


def ranges_of(space: Ranges) -> list[str]:
    """Format ranges as the command line takes them: {"optim.lr": (0.1, 1, "log")} ->
    ["optim.lr=0.1..1:log"].

    Raises:
        UserError: a range is invalid.
    """
    if not isinstance(space, Mapping):
        return list(space)
    return [f"{key}={_range(key, given)}" for key, given in space.items()]


def _range(key: str, given: str | tuple[Any, ...] | list[Any]) -> str:
    given = native_literal(given)
    if isinstance(given, str):
        return given
    try:
        if isinstance(given, list):
            return write_distribution(choices(given))
        low, high, *scale = given
        if scale not in ([], ["log"]):
            raise ValueError('it must be (low, high) or (low, high, "log")')
        return write_distribution(numbers(low, high, log=bool(scale)))
    except (TypeError, ValueError) as error:
        raise UserError(f"space {key}={given!r}: {error}") from None


def _value(value: Any) -> str:
    return "none" if value is None else str(value)


def _objectives(value: str | Sequence[str]) -> list[str]:
    """Return one or several objectives as `--objective` takes them."""
    return [value] if isinstance(value, str) else list(value)


def _tries(configurations: Sequence[Values]) -> list[str]:
    return [",".join(assignments_of(values)) for values in configurations]


_SPELLED: dict[str, Callable[[Any], Any]] = {
    "data": str,
    "storage": str,
    "backbone": str,
    "set": assignments_of,
    "space": ranges_of,
    "no_search": list,
    "concurrent": str,
    "enqueue": _tries,
    "objective": _objectives,
    "log": list,
}
"""Argument -> function that converts it to an option."""
