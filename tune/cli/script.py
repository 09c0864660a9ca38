"""`vistune script [options] -- COMMAND`: an unchanged command becomes a study.

The options are turned into the text of a file with a `script_experiment`. The study keeps it like
any experiment file, as `experiment.py` in its folder.
"""

import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from pprint import pformat
from typing import Annotated, Any, NoReturn

import typer
from optuna.distributions import CategoricalDistribution

from trainables.errors import UserError
from tune.cli.app import new_app, run_app, with_version
from tune.cli.options import Options, option_parameters
from tune.experiment_file import Code, OwnExperiment, from_code
from tune.formatting import read_assignment
from tune.object_store.s3 import local_folder
from tune.search.ranges import Range, parse_scalar, write_range
from tune.search.space_files import read_ranges

SCRIPT = "script"
"""Word typed instead of an experiment."""
FILE = "experiment.py"
"""Name of the generated file in the study's folder."""

_SHARED = (
    "trials",
    "study",
    "storage",
    "seed",
    "time_budget",
    "set",
    "no_search",
    "sampler",
    "pruner",
    "gpus_per_worker",
    "concurrent",
    "repeats",
    "log",
    "accept_code",
    "hung_after",
    "local",
    "trial",
    "plan",
    "warm_start",
    "enqueue",
)
"""Options of all experiments that a script has too."""
# It contains no path, so a renamed or moved study has the same code.
_HEAD = '''"""Written by `vistune script`; `vistune experiment.py` in this folder runs it too."""

from vistune import script_experiment

EXPERIMENT = script_experiment(
'''


@dataclass(frozen=True, kw_only=True)
class ScriptOptions:
    """Everything that was typed about a command, in the order in which `--help` lists it."""

    command: Annotated[
        list[str],
        typer.Argument(
            help="The command, after --. {lr} is the value of lr; {seed}, {threads}, {directory}, "
            "{metrics}, {device} and {resume_from} belong to the trial."
        ),
    ]
    objective: Annotated[
        str, typer.Option(help="Metric that the command writes; -METRIC asks for small values.")
    ]
    space: Annotated[
        list[str],
        typer.Option(
            help="What is searched: lr=1e-4..1e-2:log, opt=sgd,adamw, or a file. Repeatable."
        ),
    ]
    default: Annotated[
        list[str] | None,
        typer.Option(
            help="KEY=VALUE of trial 0. Default: the middle of a range, the first choice. "
            "Repeatable."
        ),
    ] = None
    metrics: Annotated[
        str, typer.Option(help="File of JSON lines in {directory}; - reads the command's output.")
    ] = "metrics.jsonl"
    pattern: Annotated[
        list[str] | None,
        typer.Option(
            help="Regular expression for lines of output; its named groups are metrics. Repeatable."
        ),
    ] = None
    epochs: Annotated[
        str | None,
        typer.Option(
            help="Epochs of a trial, or the KEY that has them. Without it nothing is pruned."
        ),
    ] = None
    checkpoint: Annotated[
        str,
        typer.Option(
            help="Checkpoint in {directory} for {resume_from}; a pattern takes the newest."
        ),
    ] = "last.pt"
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of a trial.")] = 1
    data: Annotated[
        str, typer.Option(help="Name of images and split. Studies with one name can be compared.")
    ] = ""
    name: Annotated[
        str | None, typer.Option(help="Name of the experiment. Default: the script's.")
    ] = None


def script_command_line(run: Callable[[ScriptOptions, Options], None]) -> NoReturn:
    """Parse the words after `script`, and run the command.

    Args:
        run: takes the options of the command and those of the study, and exits.
    """
    ours = inspect.signature(ScriptOptions).parameters
    known = option_parameters()

    def script(**values: Any) -> None:
        own = ScriptOptions(**{name: values.pop(name) for name in ours})
        run(own, Options(experiment=SCRIPT, **values))

    script.__doc__ = run.__doc__
    shared = [known[name] for name in _SHARED if name in known]
    signature = inspect.Signature([*ours.values(), *shared])
    script.__signature__ = signature  # type: ignore[attr-defined]

    app = new_app()
    settings = {"allow_interspersed_args": False}
    app.command(context_settings=settings)(with_version(script))
    run_app(app, "run", first=SCRIPT)


def generated_experiment(script: ScriptOptions, shared: Options) -> OwnExperiment:
    """Return the experiment of a command, as the file that the study will keep.

    Raises:
        UserError: a range, a value or a name is invalid.
    """
    from tune.script_experiment import script_experiment  # it imports torch

    arguments = _arguments(script)
    script_experiment(script.command, **arguments)  # errors raised here name no file

    study = local_folder(shared.storage) / (shared.study or arguments["name"])
    lines = [f"    {_written(script.command)},"]
    lines += [f"    {key}={_written(value)}," for key, value in arguments.items() if value]
    text = _HEAD + "\n".join(lines) + "\n)\n"
    return from_code(Code(str(study / FILE), "EXPERIMENT", text))


def _arguments(script: ScriptOptions) -> dict[str, Any]:
    """Return the arguments of `script_experiment` other than the command."""
    ranges = read_ranges(script.space)
    for key, found in ranges.items():
        _check_search(key, found)
    texts = {key: tuple(write_range(one) for one in found) for key, found in ranges.items()}
    return {
        "objective": script.objective,
        "space": {key: found[0] if len(found) == 1 else found for key, found in texts.items()},
        "default": _defaults(script.default or []),
        "name": script.name or _name_of(script.command),
        "folder": str(Path.cwd()),
        "metrics": script.metrics,
        "patterns": script.pattern or [],
        "checkpoint": script.checkpoint,
        "epochs": _epochs(script.epochs),
        "threads": script.threads,
        "data": script.data,
        "files": _hashes(script.command),
    }


def _check_search(key: str, found: Sequence[Range]) -> None:
    """Refuse a single choice, which is mostly a range with a typo in it."""
    distribution = found[0].distribution
    if len(found) > 1 or found[0].when is not None:
        return
    if isinstance(distribution, CategoricalDistribution) and len(distribution.choices) == 1:
        raise UserError(
            f"--space {key}={distribution.choices[0]} is one value, so there is nothing to search: "
            f"write {key}=LOW..HIGH or {key}=A,B; what is fixed belongs in the command"
        )


def _name_of(command: list[str]) -> str:
    """Return the stem of the first Python file among the words, or else of the program."""
    files = [word for word in command if word.endswith(".py")]
    return Path((files or command)[0]).stem


def _written(value: Any) -> str:
    return pformat(value, width=90, sort_dicts=False).replace("\n", "\n    ")


def _defaults(typed: list[str]) -> dict[str, Any]:
    found = {}
    for text in typed:
        default = read_assignment(text)
        if default is None:
            raise UserError(f"--default {text!r} must be KEY=VALUE, such as --default lr=0.1")
        key, value = default
        found[key] = parse_scalar(value)
    return found


def _epochs(typed: str | None) -> int | str | None:
    if typed is None or not typed.isdecimal():
        return typed
    return int(typed)


def _hashes(command: list[str]) -> dict[str, str]:
    """Return the SHA-256 of the Python and shell files among the words of a command."""
    found = {}
    for word in command:
        path = Path(word)
        if path.suffix in (".py", ".sh") and path.is_file():
            found[word] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found
