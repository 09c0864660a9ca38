"""Study -> Ray Tune. The study decides what runs and what stops (`tune_callbacks.py`). Tune assigns
the work to free processes, and notices when one dies.

Tune's own snapshots, `Tuner.restore`, checkpoints and loggers are not used: the study's folder
holds everything that must last.
"""

import functools
import logging
import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray.air._internal.usage
import ray.cloudpickle
import ray.tune

from trainables.devices import limit_memory
from trainables.errors import UserError, first_line
from tune.execution.capacity import (
    ConcurrencyLimit,
    cluster_resources,
    gpus_of_a_worker,
    refuse_what_never_fits,
)
from tune.execution.left_out import LeftOut
from tune.execution.lost_ray import stopped_without_ray
from tune.execution.placement import WITHOUT, Request
from tune.execution.ray_session import ray_session
from tune.execution.runtimes import TuneRuntime
from tune.execution.trial import run
from tune.execution.trials_together import share_gpus
from tune.execution.tune_callbacks import (
    LOST_PROCESSES,
    StartCallback,
    StorageGuard,
    StudyScheduler,
    StudySearcher,
    StudyStopper,
)
from tune.execution.worker_group import WorkerGroup, run_with_workers
from tune.experiments import Experiment
from tune.study.disk import StorageFailed
from tune.study.study import Study
from tune.study.work import Work

_PENDING_TRIALS = "1000"
_REPORTED_BY_THE_STUDY = ("Trial task failed", "Trials did not complete")


def search(
    study: Study,
    experiment: Experiment,
    *,
    concurrent: int | None,
    gpus_per_worker: float | None,
    workers: int = 1,
    shares_gpus: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Run the study to its end, or until `study.stopping`, on the Ray cluster at RAY_ADDRESS or on
    one that is started on this machine.

    Args:
        concurrent: number of concurrent trials; None: as many as the cluster has the capacity for.
        gpus_per_worker: GPUs of each worker, in [0, ...); None: one if the cluster has any.
        workers: workers of each trial.
        shares_gpus: find out how many trials share a GPU (`--concurrent auto`).
        say: called with a line about what was found.
    Raises:
        UserError: the cluster lacks the capacity for one trial, the function cannot be sent to
            other processes, or the study's folder cannot be written any more.
    """
    check_can_be_sent(experiment)
    _quiet_tune()
    _count_no_callbacks()
    guard = StorageGuard(study)
    temporary = tempfile.TemporaryDirectory(prefix="vistune-", ignore_cleanup_errors=True)
    with temporary as scratch, ray_session(workers), stopped_without_ray(guard.stop):
        patience_s = _patience_seconds()
        threads = float(study.manifest.base["train.threads"])
        device = str(study.manifest.base.get("train.device", "auto"))
        group = WorkerGroup(workers, threads, gpus_of_a_worker(gpus_per_worker, device))
        refuse_what_never_fits(group)
        if shares_gpus:
            base = study.manifest.base
            group = share_gpus(experiment, base, group, cluster_resources(), say)
        limit = ConcurrencyLimit(group, concurrent)
        left_out = LeftOut(group, limit)
        study.leave_out = left_out.add
        # The baseline's one process would keep the processes of the first trial waiting.
        searcher = StudySearcher(study, guard, limit, left_out, trial_first=workers > 1)
        try:
            _tuner(searcher, experiment, group, patience_s, scratch).fit()
        except Exception:
            # A shutdown of the machine stops Ray first: trials stay open, as after a kill
            if not study.stopping:
                raise
    if guard.error is not None:
        raise guard.error


def check_can_be_sent(experiment: Experiment) -> None:
    """Check that a function can be sent to the processes of trials.

    Raises:
        UserError: it holds something that cannot be sent, such as a lock or an open file.
    """
    if experiment.function is None:
        return
    try:
        ray.cloudpickle.dumps(experiment)
    except Exception as error:
        raise UserError(
            f"the function of {experiment.name} cannot be sent to the processes of trials: "
            f"{first_line(error)}; create what it needs inside the function, or search with "
            "local=True"
        ) from None


def _tuner(
    searcher: StudySearcher,
    experiment: Experiment,
    group: WorkerGroup,
    patience_s: float,
    scratch: str,
) -> ray.tune.Tuner:
    study, guard = searcher.study, searcher.guard
    # All processes start at once. One at a time, the start of the second is cancelled whenever a
    # short trial frees the first.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = _PENDING_TRIALS
    single = group.workers == 1
    return ray.tune.Tuner(
        _trainable(experiment, group, patience_s),
        tune_config=ray.tune.TuneConfig(
            search_alg=searcher,
            scheduler=StudyScheduler(study, guard),
            num_samples=-1,
            reuse_actors=single,  # a process that has run a trainer hangs in the next trial
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=ray.tune.RunConfig(
            name=study.manifest.name,
            storage_path=scratch,
            failure_config=ray.tune.FailureConfig(max_failures=LOST_PROCESSES),
            stop=StudyStopper(study),
            # with several workers, rank 0 reports the start
            callbacks=[StartCallback(study, guard)] if single else [],
            verbose=0,
            # In a notebook, Tune's own choice clears the cell's output, including ours.
            progress_reporter=ray.tune.CLIReporter(),
        ),
    )


def _trainable(experiment: Experiment, group: WorkerGroup, patience_s: float) -> Any:
    """The function of a Tune trial, with its resources."""
    if group.workers == 1:
        return ray.tune.with_resources(
            functools.partial(run_in_tune, experiment, patience_s, gpus=group.gpus),
            Request(group.cpus, group.gpus),
        )
    # The workers hold processors: a Tune trial with one of its own could keep it from them.
    return ray.tune.with_resources(
        functools.partial(run_workers_in_tune, experiment, patience_s, group),
        {"cpu": 0, "node:__internal_head__": 0.001},
    )


def run_in_tune(
    experiment: Experiment, patience_s: float, config: dict[str, Any], *, gpus: float = 0.0
) -> None:
    """Run a Tune trial of one worker. All that it reports goes to `StudyScheduler` as messages.

    Args:
        gpus: number of its GPUs, or its share of one.
    """
    if 0 < gpus < 1:
        limit_memory(gpus)
    work = Work.from_json(config["work"])
    runtime = TuneRuntime(Path(work.directory))
    try:
        outcome = run(experiment, work, runtime, patience_s)
    except StorageFailed as error:
        runtime.send("storage failed", error=str(error), code=error.code)
    else:
        runtime.send("end", **asdict(outcome))


def run_workers_in_tune(
    experiment: Experiment, patience_s: float, group: WorkerGroup, config: dict[str, Any]
) -> None:
    """Run a Tune trial of several workers."""
    work = Work.from_json(config["work"])
    without = config.get(WITHOUT, [])
    run_with_workers(experiment, work, group, LOST_PROCESSES, patience_s, without)


def _patience_seconds() -> float:
    """Time without progress after which a trial's process counts as hung, in s."""
    text = os.environ.get("VISTUNE_HANG_MINUTES", "30")
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    if not minutes > 0:
        raise UserError(
            f"VISTUNE_HANG_MINUTES={text!r} must be a number of minutes above 0, such as 30"
        )
    return 60 * minutes


def _quiet_tune() -> None:
    """Silence Tune's messages about files that it does not write and about tracebacks of lost
    processes, which the study reports."""
    analysis = logging.getLogger("ray.tune.analysis.experiment_analysis")
    analysis.setLevel(logging.CRITICAL)
    for name in ("ray.tune.execution.tune_controller", "ray.tune.tune"):
        logging.getLogger(name).addFilter(_is_news)


def _count_no_callbacks() -> None:
    """Skip a count for Ray's usage statistics, which are off. It imports MLflow and other trackers
    before the first trial starts, which takes .6 s."""
    ray.air._internal.usage.tag_callbacks = lambda callbacks: False


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_REPORTED_BY_THE_STUDY)
