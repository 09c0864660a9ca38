"""The only entry to the engine. Only `vistune/engine.py` calls it, for the Python API and for the
command line."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from trainables.errors import UserError
from tune.cli.caller import Caller
from tune.cli.option_checks import check_given, check_workers
from tune.cli.option_values import parse_duration
from tune.cli.options import Options
from tune.cli.prepare import prepare
from tune.cli.searching import check_batched
from tune.cli.session import Session
from tune.cli.stop import DONE, FAILED, Ended
from tune.experiment_file import find_experiment
from tune.experiments import EXPERIMENTS, Experiment
from tune.object_store.restore import pull
from tune.object_store.s3 import local_folder
from tune.tracking.logs import check_logs
from tune.upkeep.kept import remove_deleted


def execute(options: Options, caller: Caller, experiment: Experiment | None = None) -> Ended:
    """Do what was requested: a study, a comparison of settings, a plan or a replay.

    Args:
        experiment: an experiment that exists only in this process; default: the one named by
            `options.experiment`.
    Raises:
        UserError: wrong use, raised before any trial starts.
    """
    check_given(options)
    if experiment is None:
        experiment = find_experiment(options.experiment)
    check_workers(options)
    check_logs(options.log)
    budget_s = parse_duration(options.time_budget)

    storage = local_folder(options.storage)
    pull(storage)
    remove_deleted(storage)

    if options.trial is not None:
        return Ended(_replay(options, experiment, storage))

    if options.setting is not None or options.compare is not None or "" in experiment.comparisons:
        from tune.cli.compare import run_settings

        return run_settings(options, experiment, storage, budget_s, caller)

    if options.plan:
        from tune.cli.plan import show_plan

        show_plan(prepare(options, experiment, storage), options)
        return Ended(DONE)

    with _ray_ahead(options, experiment, caller) as begin:
        prepared = prepare(options, experiment, storage, before_data=begin)
        check_batched([prepared], options)
        with Session(options, budget_s, caller) as session:
            code = session.run(prepared)

    return session.ended(code)


@contextlib.contextmanager
def _ray_ahead(
    options: Options, experiment: Experiment, caller: Caller
) -> Iterator[Callable[[], None]]:
    """Start Ray while the data is being read.

    Yields:
        A function that starts Ray in the background, if the study will need it.
    """
    if options.local or options.batch_trials:
        yield lambda: None
        return

    from tune.execution import ahead

    is_ours = experiment.name in EXPERIMENTS and experiment.function is None
    model = (f"experiment:{experiment.name}",) if is_ours else ("torch",)
    modules = (*model, *experiment.imports)
    try:
        yield lambda: ahead.begin(modules, options.workers, shared=is_ours and caller.is_command)
    finally:
        if caller.is_command:
            ahead.discard()
        else:
            ahead.abandon()


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
