"""Build an experiment from a function, so that existing training code becomes a study.

    from vistune import function_experiment

    def train(config, run):
        model = build(config["opt"], config["lr"])
        for epoch in run.epochs(10):
            ...
            run.report(accuracy=evaluate(model))

    EXPERIMENT = function_experiment(
        train,
        objective="accuracy",
        space={"lr": (1e-5, 1e-1, "log"), "opt": ["sgd", "adamw"]},
        default={"lr": 1e-3, "opt": "sgd"},
    )

`vistune mine.py` runs it from any folder. docs/functions.md has the rules for such studies.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from trainables.errors import UserError
from tune.experiments import Experiment, Model
from tune.function import PRESET, Function, objective_name
from tune.function_settings import Comparisons, comparisons_of
from tune.function_space import complete, config_class, ranges_in, read_space
from tune.search.own_space import as_space


def function_experiment(
    train: Callable[..., Any],
    *,
    objective: str,
    space: Mapping[str, Any] | Callable[[Any], Any],
    default: Mapping[str, Any] | None = None,
    name: str | None = None,
    about: str | None = None,
    threads: int = 1,
    data: str = "",
    compare: Comparisons | None = None,
) -> Experiment:
    """Build an experiment from `train(config, run)`.

    Args:
        train: called once per trial and repeat, with `config`, a dictionary of plain values by
            dotted name, and `run` (`tune.execution.function_run.FunctionRun`).
        objective: reported metric that selects trials. Larger is better; with a leading minus, as
            in "-loss", smaller is better.
        space: name -> range: `(low, high)`, `(low, high, "log")`, integers if both ends are
            integers, a list of choices, `bool`, or a string as for `--space`. Alternatively, a
            function that asks an Optuna trial for values.
        default: name -> value of trial 0. It may also contain values that are not searched, which
            `--set` can change. Missing searched values default to the middle of the range or the
            first choice.
        name: one word, also the name of the study; default: the name of the function's file.
        about: one line for `--plan`; default: the first line of the function's docstring.
        threads: CPU threads per trial.
        data: name of the images and their split, such as "digits v2". Studies with the same name
            use the same test images and may be compared.
        compare: name in `--compare` -> setting -> values that it fixes, as in
            `{"mixup": {"without": {"mixup": 0.0}, "with": {"mixup": 0.2}}}`. Each setting is
            searched with the same budget, and the others are compared with the first.
    Raises:
        UserError: a name, a range or a value is invalid.
    """
    if not callable(train):
        raise UserError(f"function_experiment needs a function train(config, run), got {train!r}")
    _check_arguments(train)

    if not isinstance(objective, str):
        raise UserError(f"objective must be the name of a metric, got {objective!r}")
    if not callable(space) and not isinstance(space, Mapping):
        raise UserError(
            f'space must be a dictionary of ranges, as in {{"lr": (0.1, 1.0)}}, got {space!r}'
        )
    if callable(space):
        asks, ranges = ranges_in(space)
    else:
        ranges = read_space(space)
        asks = as_space(ranges)
    values = complete(ranges, default or {})
    config = config_class(ranges, values, threads)
    function = Function(train, objective_name(objective), data)
    first_line = (getattr(train, "__doc__", None) or "").strip().partition("\n")[0].rstrip(".")
    return Experiment(
        name=name or _name_of(train, function),
        about=about or first_line or "a function of its own",
        model=lambda: cast(Model, (None, config)),
        space=asks,
        presets={PRESET: values | {"train.threads": threads}},
        function=function,
        comparisons=comparisons_of(compare or {}, [*ranges, *values]),
    )


def _check_arguments(train: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(train)
    except ValueError:  # compiled code may have none
        return
    try:
        signature.bind("config", "run")
    except TypeError:
        name = getattr(train, "__name__", "train")
        raise UserError(
            f"{name}{signature} must take two arguments, as in {name}(config, run)"
        ) from None


def _name_of(train: Callable[..., Any], function: Function) -> str:
    """Return the stem of the function's file, or the function's own name if there is no file, as in
    a notebook."""
    stem = Path(function.path).stem
    if function.path.endswith(".py") and re.fullmatch(r"[A-Za-z][\w-]*", stem):
        return stem
    return getattr(train, "__name__", "function")
