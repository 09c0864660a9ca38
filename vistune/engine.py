"""The only entry to the engine: `vistune.search`, `vistune.search_settings` and the command
`vistune` run studies through it."""

from trainables.errors import UserError
from tune.cli.caller import Caller, in_notebook
from tune.cli.execute import execute
from tune.cli.options import Options
from tune.cli.stop import INTERRUPTED, Ended
from tune.experiments import Experiment
from tune.surroundings import bypass_proxy
from tune.tracking.address import quieten


def ask_engine(options: Options, caller: Caller, experiment: Experiment | None = None) -> Ended:
    """Run what the options request.

    Args:
        caller: a command, which exits with the returned exit code, or a program, which gets
            exceptions.
        experiment: an experiment that exists only in this process; None: the one named by the
            options.
    Raises:
        UserError: wrong use; for a program also if a study's folder is not writable.
        KeyboardInterrupt: a program was interrupted.
    """
    bypass_proxy()
    quieten()  # Ray Tune imports MLflow before we send a study to it
    if in_notebook():
        from tune.cli.notebook import quieten_widgets

        quieten_widgets()

    ended = execute(options, caller, experiment)
    if caller.is_command:
        return ended
    if ended.problem:
        raise UserError(ended.problem)
    if ended.code == INTERRUPTED:
        raise KeyboardInterrupt
    return ended
