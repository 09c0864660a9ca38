"""`--local`: run the study in this process, one trial after the other. Imports no Ray."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from trainables.base import Metrics
from tune.execution.runtimes import LocalRuntime
from tune.execution.trial import run
from tune.experiments import Experiment
from tune.study.disk import StorageFailed
from tune.study.study import Study
from tune.study.work import Work


def search_locally(study: Study, experiment: Experiment) -> None:
    """Run the study to its end, or until `study.stopping`, which is read after every epoch.

    Raises:
        UserError: the study's folder cannot be written any more.
    """
    while (work := _next(study)) is not None:
        assert work != "wait"  # nothing else runs that could end
        study.started(work)
        runtime = LocalRuntime(Path(work.directory), _reporter(study, work))
        try:
            outcome = run(experiment, work, runtime)
        except StorageFailed as failure:
            study.requeue_after_failure(work, failure)
            continue

        stopped_by_the_pruner = outcome.state == "PRUNED" and outcome.reason is None
        if study.stopping:
            study.requeue(work)
        elif stopped_by_the_pruner:
            study.ended(work, study.pruned(work))
        else:
            study.ended(work, outcome)


def _next(study: Study) -> Work | Literal["wait"] | None:
    study.await_disk()
    return study.next_work(trial_first=True)


def _reporter(study: Study, work: Work) -> Callable[[int, Metrics], bool]:
    def report(epoch: int, metrics: Metrics) -> bool:
        if study.stopping:
            return False
        continues = study.reported(work, epoch, metrics)
        return continues and not study.stopping

    return report
