"""Study -> Ray Tune. The study decides what runs and what stops; Tune brings it to free processes
and notices when one dies.

Tune's own snapshots, `Tuner.restore`, checkpoints and loggers are not used: the study's folder
holds all that must last.
"""

import functools
import json
import logging
import math
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import ray.tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from trainables.devices import limit_memory
from trainables.errors import UserError
from tune.execution.capacity import (
    ConcurrencyLimit,
    cluster_resources,
    gpus_of_a_worker,
    refuse_what_never_fits,
)
from tune.execution.left_out import WITHOUT, LeftOut, Request
from tune.execution.lost_ray import stopped_without_ray
from tune.execution.ray_session import keep_logs, ray_session
from tune.execution.runtimes import TuneRuntime
from tune.execution.trial import run
from tune.execution.trials_together import share_gpus
from tune.execution.worker_group import WorkerGroup, run_with_workers
from tune.experiments import Experiment
from tune.study.disk import StorageFailed
from tune.study.study import Study
from tune.study.work import Outcome, Work, WorkId

LOST_PROCESSES = 3
"""A trial whose process dies resumes in another one, at most so often without a new epoch: on
machines that are taken away again and again it ends all the same."""
_PENDING_TRIALS = "1000"
_REPORTED_BY_THE_STUDY = ("Trial task failed", "Trials did not complete")


class _Unpickled:
    """Tune pickles what it is given, for a restore that is not used; a study lives in this process
    alone."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _StorageGuard:
    """Surrounds every call to the study: Tune would take a disk that cannot be written for the
    fault of a trial, and continue. The first such error is kept and stops the study."""

    def __init__(self, study: Study):
        self.study = study
        self.error: UserError | OSError | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, UserError | OSError):
            return False
        self.stop(error)
        return True

    def stop(self, error: UserError | OSError) -> None:
        """Stop the study. The first reason is kept."""
        self.error = self.error or error
        self.study.stopping = True


class StudySearcher(_Unpickled, Searcher):
    """Hands the study's work to Tune, up to `limit()` pieces at a time."""

    def __init__(
        self,
        study: Study,
        guard: _StorageGuard,
        limit: Callable[[], int],
        left_out: LeftOut,
        trial_first: bool = False,
    ):
        super().__init__(metric=None, mode=None)
        self.study = study
        self.guard = guard
        self.limit = limit
        self.left_out = left_out
        self.trial_first = trial_first
        self._handed_out: set[str] = set()

    def suggest(self, trial_id: str) -> Any:
        """The next work as a Tune config; None: ask again later."""
        if len(self._handed_out) >= self.limit() and not self.study.stopping:
            return None
        work = None
        with self.guard:
            work = self.study.next_work(self.trial_first)
        if work == "wait":
            return None
        if work is None:
            return Searcher.FINISHED
        self._handed_out.add(trial_id)
        return {"work": work.to_json(), WITHOUT: list(self.left_out.ids)}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Free a place; the scheduler has told the study."""
        self._handed_out.discard(trial_id)

    def get_state(self) -> dict[str, Any]:
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the study is its own storage."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a study is resumed by opening it again")


class StudyScheduler(_Unpickled, FIFOScheduler):
    """Passes messages of trials to the study, and its decision back to them."""

    def __init__(self, study: Study, guard: _StorageGuard):
        super().__init__()  # type: ignore[no-untyped-call]
        self.study = study
        self.guard = guard
        self._chosen: set[str] = set()
        self._never_begun: Counter[WorkId] = Counter()

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if self.study.stopping or "message" not in result:
            return TrialScheduler.STOP
        with self.guard:
            message = json.loads(result["message"])
            # of several workers: the machines of those that it is about
            nodes = message.pop("nodes", [str(result.get("node_ip"))])
            return self._on_message(trial, message, nodes)
        return TrialScheduler.STOP  # the guard has kept an error

    def _on_message(self, trial: Trial, message: dict[str, Any], nodes: list[str]) -> str:
        work = _work_of(trial)
        kind = message.pop("kind")
        node = nodes[0] if nodes else None
        if kind == "storage failed":
            self.study.put_back(work, StorageFailed(message["error"], message["code"]), node)
            return TrialScheduler.STOP
        if kind == "start":
            self.study.started(work)
        elif kind == "end":
            self.study.ended(work, Outcome.from_dict(message), node)
            return TrialScheduler.STOP
        else:
            if self.study.is_new_epoch(work, message["epoch"]):
                self._forget_losses(trial)
            if self.study.reported(work, message["epoch"], message["metrics"], *nodes):
                return TrialScheduler.CONTINUE
            self.study.ended(work, self.study.pruned(work))
            return TrialScheduler.STOP
        return TrialScheduler.CONTINUE

    def _forget_losses(self, trial: Trial) -> None:
        """The trial makes progress: lost processes are counted from here on."""
        trial.run_metadata.num_failures = 0
        self._never_begun.pop(_work_of(trial).id, None)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The first of the live trials that waits and has not been chosen yet.

        Tune's own rule looks at all trials there have ever been. A trial that has been chosen has a
        process starting: choosing it again would cancel that start whenever a short trial frees
        another process.
        """
        waiting: list[Trial] = [
            trial
            for trial in tune_controller.get_live_trials()
            if trial.status == Trial.PENDING and trial.trial_id not in self._chosen
        ]
        if not waiting:
            return None
        first = min(waiting, key=_order)
        self._chosen.add(first.trial_id)
        return first

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        if self.study.stopping or trial.status == Trial.ERROR:
            return  # Tune has ended this attempt and requeues the trial
        keep_logs()
        work = _work_of(trial)
        if trial.status == Trial.PENDING and self._may_begin_again(work):
            self.study.requeue(work)
            return
        error = str(trial.get_error() or "")[-4000:]
        with self.guard:
            self.study.ended(work, Outcome("FAIL", reason="process lost", error=error))

    def _may_begin_again(self, work: Work) -> bool:
        """Its process died before the trial began, such as a warm one between two trials, and Tune
        gives up at once."""
        self._never_begun[work.id] += 1
        return self._never_begun[work.id] <= LOST_PROCESSES


class _StartCallback(_Unpickled, ray.tune.Callback):
    """Tells the study which trial has a process now. A message from that process would cost the
    driver as much as a report does."""

    def __init__(self, study: Study, guard: _StorageGuard):
        self.study = study
        self.guard = guard

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        with self.guard:
            self.study.started(_work_of(trial))


class _StudyStopper(_Unpickled, ray.tune.Stopper):
    """Ends the run when the study is to stop (Ctrl-C, time budget)."""

    def __init__(self, study: Study):
        self.study = study

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.study.stopping


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
    """Run the study to its end, or until `study.stopping`, on the Ray cluster of RAY_ADDRESS or on
    one that is started on this machine.

    Args:
        concurrent: trials at a time; None: as many as the cluster has the capacity for.
        gpus_per_worker: GPUs of each worker, in [0, ...); None: one where the cluster has any.
        workers: workers of each trial.
        shares_gpus: find out how many trials share a GPU (`--concurrent auto`).
        say: tells what was found.
    Raises:
        UserError: the cluster lacks the capacity for one trial, or the study's folder cannot be
            written any more.
    """
    _quiet_tune()
    guard = _StorageGuard(study)
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
        # The baseline's one process would keep those of the first trial waiting.
        searcher = StudySearcher(study, guard, limit, left_out, trial_first=workers > 1)
        try:
            _tuner(searcher, experiment, group, patience_s, scratch).fit()
        except Exception:
            # Who stops everything on this machine stops Ray first: trials are open, as after a kill
            if not study.stopping:
                raise
    if guard.error is not None:
        raise guard.error


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
            stop=_StudyStopper(study),
            # of several workers, rank 0 reports the start
            callbacks=[_StartCallback(study, guard)] if single else [],
            verbose=0,
            # Tune's own choice in a notebook clears the cell's output, ours with it.
            progress_reporter=ray.tune.CLIReporter(),
        ),
    )


def _trainable(experiment: Experiment, group: WorkerGroup, patience_s: float) -> Any:
    """The function of a Tune trial, with its resources."""
    if group.workers == 1:
        return ray.tune.with_resources(
            functools.partial(run_in_tune, experiment, patience_s, gpus=group.gpus), Request(group)
        )
    # The workers hold processors: a Tune trial that held one could keep it from its own workers.
    return ray.tune.with_resources(
        functools.partial(run_workers_in_tune, experiment, patience_s, group),
        {"cpu": 0, "node:__internal_head__": 0.001},
    )


def run_in_tune(
    experiment: Experiment, patience_s: float, config: dict[str, Any], *, gpus: float = 0.0
) -> None:
    """Run a Tune trial of one worker; all it reports goes to `StudyScheduler` as messages.

    Args:
        gpus: that it has, or its share of one.
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


def _work_of(trial: Trial) -> Work:
    return Work.from_json(trial.config["work"])


def _order(trial: Trial) -> int:
    """The baseline first, then by number."""
    number = _work_of(trial).id.trial
    return -1 if number is None else number


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
    """Silence what Tune logs about files that it does not write, and tracebacks of lost processes,
    which the study reports."""
    analysis = logging.getLogger("ray.tune.analysis.experiment_analysis")
    analysis.setLevel(logging.CRITICAL)
    for name in ("ray.tune.execution.tune_controller", "ray.tune.tune"):
        logging.getLogger(name).addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_REPORTED_BY_THE_STUDY)
