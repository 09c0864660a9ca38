"""The command line: python tune/run.py EXPERIMENT [options]. See README.md."""

import sys
from pathlib import Path

# Python puts this file's folder first on the path, where `tune/execution/ray_tune.py` would be a
# module `search`.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import os  # noqa: E402
from typing import Annotated  # noqa: E402

import typer  # noqa: E402

from trainables.errors import UserError  # noqa: E402
from tune.cli.options import Options, parse_duration, prepare  # noqa: E402
from tune.cli.session import DONE, FAILED, INTERRUPTED, WRONG_USE, Session  # noqa: E402
from tune.experiments import EXPERIMENTS, Experiment, named  # noqa: E402
from tune.object_store.s3 import local_folder  # noqa: E402
from tune.object_store.study_sync import pull  # noqa: E402
from tune.study.manifest import resume_command  # noqa: E402

DEFAULT_TRIALS = 16


def main(
    experiment: Annotated[
        str, typer.Argument(help="; ".join(f"{e.name}: {e.about}" for e in EXPERIMENTS.values()))
    ],
    data: Annotated[
        str | None, typer.Option(help="Embedded name (glyphs, digits) or a folder.")
    ] = None,
    trials: Annotated[
        int, typer.Option(min=1, help="Trials in total; a larger number extends a finished study.")
    ] = DEFAULT_TRIALS,
    study: Annotated[
        str | None, typer.Option(help="Name of the study; default: the experiment's.")
    ] = None,
    storage: Annotated[
        str, typer.Option(help="Where studies are kept: a folder, or s3://bucket/prefix.")
    ] = "runs",
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Seed of the search and of its trials.")
    ] = 0,
    time_budget: Annotated[
        str | None, typer.Option(help="Stop after e.g. 90s, 30m, 2h; the same command goes on.")
    ] = None,
    set: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE pins a config value, which is then not searched. Repeatable."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="tiny or full. Default: tiny on embedded data, full on a folder."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Workers of one trial.")] = 1,
    gpus_per_worker: Annotated[
        float | None, typer.Option(min=0, help="GPUs of one worker; 0.5 packs two trials on one.")
    ] = None,
    concurrent: Annotated[
        int | None, typer.Option(min=1, help="Trials at a time. Default: what fits.")
    ] = None,
    repeats: Annotated[
        int,
        typer.Option(
            min=0, help="Fresh seeds for the best trial and the default, on the test split."
        ),
    ] = 3,
    skip_corrupt: Annotated[
        bool, typer.Option("--skip-corrupt", help="Leave unreadable images out, on record.")
    ] = False,
    setting: Annotated[
        str | None,
        typer.Option(help="classify: A to E (README.md); fewshot: K1, K5, K10, euclidean, ..."),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(help="PATH, STUDY, STUDY/TRIAL, torchvision, models:/..., runs:/..."),
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="In this process, without Ray: breakpoint() works.")
    ] = False,
    trial: Annotated[
        str | None, typer.Option(help="STUDY/N, with --local: run that trial again and compare.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what would run, with estimates; run nothing.")
    ] = False,
    warm_start: Annotated[
        str | None,
        typer.Option(help="Earlier study whose best configurations come after the default."),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(help="fewshot: shots or distance; its settings in turn, and a table."),
    ] = None,
) -> None:
    """Search an experiment's hyperparameters. The same command again goes on where the last one
    ended, however it ended."""
    options = Options(
        experiment,
        data,
        trials,
        study,
        storage,
        seed,
        time_budget,
        set or [],
        preset,
        workers,
        gpus_per_worker,
        concurrent,
        repeats,
        skip_corrupt,
        setting,
        backbone,
        local,
        trial,
        plan,
        warm_start,
        compare,
    )
    try:
        code = execute(options)
    except UserError as error:
        print(f"vistune: {error}", file=sys.stderr)
        code = WRONG_USE
    except KeyboardInterrupt:
        print(f"vistune: interrupted; go on with: {resume_command()}", file=sys.stderr)
        code = INTERRUPTED
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a thread that hangs in a dead server's socket must not keep the terminal


def execute(options: Options) -> int:
    """Run what was asked for; returns the exit code.

    Raises:
        UserError: wrong use, before any trial starts.
    """
    for name, value in vars(options).items():
        # such as a variable of the shell that is not set; as a path it would be the folder we are
        # in
        if value == "":
            raise UserError(f"--{name.replace('_', '-')} is empty: give a value, or leave it out")
    experiment = named(options.experiment)
    if options.workers > 1 and options.local:
        raise UserError(
            f"--workers {options.workers} with --local, which is one process: leave one of them out"
        )
    if options.workers > 1 and options.gpus_per_worker and options.gpus_per_worker < 1:
        raise UserError(
            f"--gpus-per-worker {options.gpus_per_worker:g}: each of --workers {options.workers} needs a GPU of its own (NCCL)"
        )
    gpus = options.gpus_per_worker
    if gpus is not None and not (0.0001 <= gpus <= 1 or gpus.is_integer()):
        raise UserError(
            f"--gpus-per-worker {gpus:g} must be 0, a share of one GPU such as 0.5, or a whole number of them"
        )
    budget_s = parse_duration(options.time_budget)
    storage = local_folder(options.storage)
    pull(storage)
    if options.trial is not None:
        return _replay(options, experiment, storage)
    if options.setting is not None or options.compare is not None or "" in experiment.comparisons:
        from tune.cli.compare import run_settings

        return run_settings(options, experiment, storage, budget_s)
    prepared = prepare(options, experiment, storage)
    if options.plan:
        from tune.cli.plan import show_plan

        show_plan(prepared, options)
        return DONE
    with Session(options, budget_s) as session:
        code = session.run(prepared)
    session.say_where(code)
    return code


def _replay(options: Options, experiment: Experiment, storage: Path) -> int:
    if not options.local:
        raise UserError(f"--trial {options.trial} replays a trial in this process: add --local")
    name, _, number = str(options.trial).rpartition("/")
    if not name or not number.isdecimal():
        raise UserError(f"--trial {options.trial!r} must be STUDY/NUMBER, such as --trial ssl/3")
    from tune.execution.local import replay

    equal = replay(storage / name, experiment, int(number), print)
    print("the replay equals the record" if equal else "the replay differs from the record")
    return DONE if equal else FAILED


def command_line() -> None:
    """argv -> `main`. Wrong use is one line, as everything else that goes wrong."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    try:
        sys.exit(app(standalone_mode=False))
    except typer.TyperException as error:
        print(
            f"vistune: {error.format_message().rstrip('.')}; `python tune/run.py --help` lists the options",
            file=sys.stderr,
        )
        sys.exit(WRONG_USE)


if __name__ == "__main__":
    command_line()
