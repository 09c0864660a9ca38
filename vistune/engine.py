"""The engine's only caller: `vistune.search`, `vistune.search_settings` and the command `vistune`
run studies through it."""

from trainables.errors import UserError
from tune.cli.caller import Caller, in_notebook
from tune.cli.execute import execute
from tune.cli.options import Options
from tune.cli.stop import INTERRUPTED, Ended
from tune.experiments import Experiment
from tune.surroundings import bypass_proxy
from tune.tracking.address import quieten


def ask_engine(options: Options, caller: Caller, experiment: Experiment | None = None) -> Ended:
    """Run what the options ask for.

    Args:
        caller: a command, which leaves with the exit code of what is returned, or a program, which
            gets exceptions.
        experiment: one that exists in this process alone; None: the one that the options name.
    Raises:
        UserError: wrong use; for a program also a study's folder that cannot be written.
        KeyboardInterrupt: a program was interrupted.
    """
    bypass_proxy()
    quieten()  # Ray Tune imports MLflow before a study is sent there
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
