"""The command line: python tune/run.py EXPERIMENT [options]. See README.md."""

import sys
from pathlib import Path

# Python puts this file's folder first on the path, where `tune/execution/ray_tune.py` would be a
# module `search`.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import os  # noqa: E402

import typer  # noqa: E402

from trainables.errors import UserError  # noqa: E402
from tune.cli.options import Options, as_command, check_given, check_workers, parse_duration  # noqa: E402
from tune.cli.prepare import prepare  # noqa: E402
from tune.cli.session import Session  # noqa: E402
from tune.cli.stop import DONE, FAILED, INTERRUPTED, WRONG_USE  # noqa: E402
from tune.experiments import Experiment, named  # noqa: E402
from tune.object_store.restore import pull  # noqa: E402
from tune.object_store.s3 import local_folder  # noqa: E402
from tune.study.manifest import resume_command  # noqa: E402


def main(options: Options) -> None:
    """Search an experiment's hyperparameters. The same command again resumes where the last one
    ended, however it ended."""
    try:
        code = execute(options)
    except UserError as error:
        print(f"vistune: {error}", file=sys.stderr)
        code = WRONG_USE
    except KeyboardInterrupt:
        print(f"vistune: interrupted; resume with: {resume_command()}", file=sys.stderr)
        code = INTERRUPTED

    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # at once: a thread may hang in the socket of a dead server


def execute(options: Options) -> int:
    """Run what was asked for and return the exit code.

    Raises:
        UserError: wrong use, before any trial starts.
    """
    check_given(options)
    experiment = named(options.experiment)
    check_workers(options)
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

    from tune.execution.replay import replay

    equal = replay(storage / name, experiment, int(number), print)
    print("the replay equals the record" if equal else "the replay differs from the record")
    return DONE if equal else FAILED


def command_line() -> None:
    """Parse argv and call `main`; wrong use is reported in one line, like every other error."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(as_command(main))
    try:
        sys.exit(app(standalone_mode=False))
    except typer.TyperException as error:
        message = error.format_message().rstrip(".")
        print(f"vistune: {message}; `python tune/run.py --help` lists the options", file=sys.stderr)
        sys.exit(WRONG_USE)


if __name__ == "__main__":
    command_line()
