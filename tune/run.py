"""The command line: python tune/run.py EXPERIMENT [options]. See README.md."""

import sys
from pathlib import Path

if not __package__:
    # Python puts the folder of a script first on the path, where `tune/search` would be `search`.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from tune.startup import check_python, end_on_interrupt

if __name__ == "__main__":
    end_on_interrupt()
check_python()

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from trainables.errors import UserError
from tune.cli.app import new_app, run_app, told_os_error, with_version
from tune.cli.caller import COMMAND_LINE
from tune.cli.options import Options, as_command
from tune.cli.stop import INTERRUPTED, WRONG_USE, Ended
from tune.command_line import resume_command
from tune.surroundings import prepare_process
from vistune.engine import ask_engine

if TYPE_CHECKING:
    from tune.cli.script import ScriptOptions

_SCRIPT = "script"  # typed instead of an experiment


def main(options: Options) -> None:
    """Search an experiment's hyperparameters. The same command again resumes where the last one
    ended, however it ended."""
    _leave(lambda: ask_engine(options, COMMAND_LINE))


def script(options: "ScriptOptions", shared: Options) -> None:
    """Search the options of a command that trains; the same command again resumes."""
    from tune.cli.script import generated_experiment

    def asked() -> Ended:
        return ask_engine(shared, COMMAND_LINE, generated_experiment(options, shared))

    _leave(asked)


def _leave(run: Callable[[], Ended]) -> NoReturn:
    """Exit with the exit code of a run; report wrong use in one line."""
    try:
        code = run().code
    except UserError as error:
        print(f"vistune: {error}", file=sys.stderr)
        code = WRONG_USE
    except (OSError, RuntimeError) as error:
        print(f"vistune: {told_os_error(error)}", file=sys.stderr)
        code = WRONG_USE
    except KeyboardInterrupt:
        print(f"vistune: interrupted; resume with: {resume_command()}", file=sys.stderr)
        code = INTERRUPTED

    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # immediately, because a thread may hang on the socket of a dead server


def command_line() -> NoReturn:
    """Parse argv and call `main`; wrong use is reported in one line, like every other error."""
    prepare_process()
    if sys.argv[1:2] == [_SCRIPT]:
        from tune.cli.script import script_command_line  # brings torch

        script_command_line(script)

    app = new_app()
    app.command()(with_version(as_command(main)))
    run_app(app, "run")


if __name__ == "__main__":
    command_line()
