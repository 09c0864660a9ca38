"""An experiment from a command: a script becomes a study as it is.

    from vistune import script_experiment

    EXPERIMENT = script_experiment(
        ["python", "train.py", "--lr", "{lr}", "--metrics", "{metrics}"],
        objective="accuracy",
        space={"lr": (1e-4, 1e-2, "log")},
        name="train",
    )

`vistune script` writes such a file of what was typed. docs/functions.md has the details.
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
    """Make an experiment from a command.

    Args:
        command: its words, with `{lr}` for the value of `lr`, and `{seed}`, `{threads}`,
            `{directory}`, `{metrics}`, `{device}` and `{resume_from}` of a trial.
        objective, space, default, threads, data, compare: as in `function_experiment`.
        name: one word, also the name of the study.
        folder: folder that the command runs in; default: the current one.
        metrics: file of JSON lines that it writes in the trial's folder; `-`: standard output.
        patterns: regular expressions for lines of output; their named groups are metrics.
        checkpoint: file in the trial's folder that it resumes from; a pattern means the newest.
        epochs: epochs of a trial, or the name of the config value that has them. Without it, and
            without `epochs` in its lines, no trial is stopped early.
        files: name -> SHA-256 of files that it runs; when they change, the study has changed.
    Raises:
        UserError: a name or a value that cannot be used.
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
    _check_names(script, [*space, *(default or {})], space)
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


def _check_names(script: Script, known: Sequence[str], space: Mapping[str, Any]) -> None:
    used = script.names
    for name in script.doubtful_names:
        if name not in known and name not in GIVEN:
            raise UserError(
                f"the command has {{{name}}}, which has no value{nearest(name, [*known, *GIVEN])}"
            )
    for name in space:
        if name not in used and "directory" not in used:
            raise UserError(
                f"nothing in the command takes {name}: write {{{name}}} where its value belongs "
                "(or {directory}, whose config.json has all values)"
            )
    if isinstance(script.epochs, str) and script.epochs not in known:
        hint = nearest(script.epochs, known)
        raise UserError(f"epochs: there is no value {script.epochs!r}{hint}")
