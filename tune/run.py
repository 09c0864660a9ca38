"""The command line: python tune/run.py EXPERIMENT [options]. See README.md."""

import sys
from pathlib import Path

if not __package__:
    # Python puts the folder of a script first on the path, where `tune/search` would be `search`.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from tune.startup import check_python

check_python()

import os
from typing import NoReturn

from trainables.errors import UserError
from tune.cli.app import new_app, run_app, with_version
from tune.cli.options import Options, as_command, check_given, check_workers, parse_duration
from tune.cli.prepare import prepare
from tune.cli.session import Session
from tune.cli.stop import DONE, FAILED, INTERRUPTED, WRONG_USE
from tune.command_line import resume_command
from tune.experiment_file import find_experiment
from tune.experiments import Experiment
from tune.object_store.restore import pull
from tune.object_store.s3 import local_folder
from tune.surroundings import prepare_process
from tune.tracking.logs import check_logs


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
    experiment = find_experiment(options.experiment)
    check_workers(options)
    check_logs(options.log)
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


def command_line() -> NoReturn:
    """Parse argv and call `main`; wrong use is reported in one line, like every other error."""
    prepare_process()
    app = new_app()
    app.command()(with_version(as_command(main)))
    run_app(app, "run")


if __name__ == "__main__":
    command_line()
