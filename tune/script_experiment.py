"""Build an experiment from a command, so that an unchanged script becomes a study.

    from vistune import script_experiment

    EXPERIMENT = script_experiment(
        ["python", "train.py", "--lr", "{lr}", "--metrics", "{metrics}"],
        objective="accuracy",
        space={"lr": (1e-4, 1e-2, "log")},
        name="train",
    )

`vistune script` generates such a file from its options. docs/functions.md has the details.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainables.config import nearest
from trainables.errors import UserError
from tune.execution.script import GIVEN, METRICS, Script
from tune.experiments import Experiment
from tune.function_experiment import function_experiment
from tune.function_settings import Comparisons


def script_experiment(
    command: Sequence[str],
    *,
    objective: str,
    space: Mapping[str, Any],
    default: Mapping[str, Any] | None = None,
    name: str,
    folder: str | None = None,
    metrics: str = METRICS,
    patterns: Sequence[str] = (),
    checkpoint: str = "last.pt",
    epochs: int | str | None = None,
    threads: int = 1,
    files: Mapping[str, str] | None = None,
    data: str = "",
    compare: Comparisons | None = None,
) -> Experiment:
    """Build an experiment from a command.

    Args:
        command: words of the command. `{lr}` is replaced by the value of `lr`; `{seed}`,
            `{threads}`, `{directory}`, `{metrics}`, `{device}` and `{resume_from}` by those of the
            trial.
        objective, space, default, threads, data, compare: as in `function_experiment`.
        name: one word, also the name of the study.
        folder: working directory of the command; default: the current one.
        metrics: file of JSON lines that the command writes in the trial's folder; `-`: standard
            output.
        patterns: regular expressions for output lines; their named groups are metrics.
        checkpoint: file in the trial's folder from which it resumes; a pattern means the newest
            match.
        epochs: number of epochs of a trial, or the name of the config value with that number.
            Without it, and without `epochs` in the output lines, no trial is stopped early.
        files: name -> SHA-256 of the files that it runs; if they change, the study counts as
            changed.
    Raises:
        UserError: a name or a value is invalid.
    """
    if not command:
        raise UserError("the command is empty: give its words, such as python train.py --lr {lr}")
    for pattern in patterns:
        _check_pattern(pattern)
    script = Script(
        words=tuple(command),
        folder=folder or str(Path.cwd()),
        objective=objective.removeprefix("val/").removeprefix("-"),
        metrics=metrics,
        patterns=tuple(patterns),
        checkpoint=checkpoint,
        epochs=epochs,
    )
    experiment = function_experiment(
        script,
        objective=objective,
        space=space,
        default=default,
        name=name,
        about=" ".join(command),
        threads=threads,
        data=data,
        compare=compare,
    )
    _check_names(script, [*space, *(default or {})])
    return experiment


def _check_pattern(pattern: str) -> None:
    try:
        groups = re.compile(pattern).groupindex
    except re.error as error:
        raise UserError(f"pattern {pattern!r} is not a regular expression: {error}") from None
    if not groups:
        raise UserError(
            f"pattern {pattern!r} has no named group, which would be a metric: write "
            r"(?P<accuracy>[\d.]+) where its number stands"
        )


def _check_names(script: Script, known: Sequence[str]) -> None:
    used = script.names
    for name in script.doubtful_names:
        if name not in known and name not in GIVEN:
            raise UserError(
                f"the command has {{{name}}}, which has no value{nearest(name, [*known, *GIVEN])}"
            )
    for name in known:
        if name not in used and name != script.epochs and "directory" not in used:
            raise UserError(
                f"nothing in the command takes {name}: write {{{name}}} where its value belongs "
                "(or {directory}, whose config.json has all values)"
            )
    if isinstance(script.epochs, str) and script.epochs not in known:
        hint = nearest(script.epochs, known)
        raise UserError(f"epochs: there is no value {script.epochs!r}{hint}")
