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
from tune.cli.execute import execute
from tune.cli.options import Options, as_command
from tune.cli.stop import INTERRUPTED, WRONG_USE
from tune.command_line import resume_command
from tune.surroundings import prepare_process


def main(options: Options) -> None:
    """Search an experiment's hyperparameters. The same command again resumes where the last one
    ended, however it ended."""
    try:
        code = execute(options).code
    except UserError as error:
        print(f"vistune: {error}", file=sys.stderr)
        code = WRONG_USE
    except KeyboardInterrupt:
        print(f"vistune: interrupted; resume with: {resume_command()}", file=sys.stderr)
        code = INTERRUPTED

    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # at once: a thread may hang in the socket of a dead server


def command_line() -> NoReturn:
    """Parse argv and call `main`; wrong use is reported in one line, like every other error."""
    prepare_process()
    app = new_app()
    app.command()(with_version(as_command(main)))
    run_app(app, "run")


if __name__ == "__main__":
    command_line()
