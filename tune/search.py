"""Study -> Ray Tune. The study decides what runs and what stops; Tune brings it to free processes and notices when one dies.

Tune's own snapshots, `Tuner.restore`, checkpoints and loggers are not used: the study's folder holds all that must last.
"""

import contextlib
import json
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
os.environ |= {k: v for k, v in _ENVIRONMENT.items() if k not in os.environ}

import ray  # noqa: E402
import ray.tune  # noqa: E402
from ray.tune.experiment import Trial  # noqa: E402
from ray.tune.schedulers import FIFOScheduler, TrialScheduler  # noqa: E402
from ray.tune.search import ConcurrencyLimiter, Searcher  # noqa: E402

from trainables.errors import UserError  # noqa: E402
from tune.experiments import Experiment  # noqa: E402
from tune.runtimes import TuneRuntime  # noqa: E402
from tune.study import Outcome, Study, Work  # noqa: E402
from tune.trial import StorageFailed, run  # noqa: E402

# Tune reads the log files that it was told not to write, and says at length that there are none.
logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.CRITICAL)

LOST_PROCESSES = 3  # a trial whose process dies goes on in another one, so often


class _Unpickled:
    """Tune pickles what it is given, for a restore that is not used; a study is a live thing of this process."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Storage:
    """Around every call to the study: Tune would take a disk that cannot be written for the fault of a trial, and go on."""

    def __init__(self, study: Study):
        self.study = study
        self.error: UserError | OSError | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        if not isinstance(error, UserError | OSError):
            return False
        self.error = self.error or error
        self.study.stopping = True
        return True


class StudySearcher(_Unpickled, Searcher):
    """Hands out the study's work."""

    def __init__(self, study: Study, storage: _Storage):
        super().__init__(metric=None, mode=None)
        self.study, self.storage = study, storage

    def suggest(self, trial_id: str) -> Any:
        work = None
        with self.storage:
            work = self.study.next_work()
        if work == "wait":
            return None
        return Searcher.FINISHED if work is None else {"work": json.dumps(asdict(work))}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The scheduler has told the study."""

    def get_state(self) -> dict[str, Any]:
        return {}

    def save(self, checkpoint_path: str) -> None:
        """The study is its own storage."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a study is gone on with by opening it again")


class StudyScheduler(_Unpickled, FIFOScheduler):
    """Passes on what processes say, and the study's decision back to them."""

    def __init__(self, study: Study, storage: _Storage):
        super().__init__()
        self.study, self.storage = study, storage

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if self.study.stopping or "message" not in result:
            return TrialScheduler.STOP
        with self.storage:
            return self._on_message(_work(trial.config), json.loads(result["message"]))
        return TrialScheduler.STOP

    def _on_message(self, work: Work, message: dict[str, Any]) -> str:
        kind = message.pop("kind")
        if kind == "storage failed":
            raise StorageFailed(message["error"])
        if kind == "start":
            self.study.started(work)
        elif kind == "end":
            self.study.ended(work, Outcome.from_dict(message))
            return TrialScheduler.STOP
        elif not self.study.reported(work, **message):
            self.study.ended(work, self.study.pruned(work))
            return TrialScheduler.STOP
        return TrialScheduler.CONTINUE

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The first that waits, of the live trials; Tune's own rule looks at all there have ever been, several times a trial."""
        waiting = [t for t in tune_controller.get_live_trials() if t.status == Trial.PENDING]
        return min(waiting, key=lambda t: _work(t.config).number, default=None)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        if self.study.stopping or trial.status == Trial.ERROR:  # Tune has ended this attempt and puts the trial into the queue again
            return
        error = str(trial.get_error() or "")
        with self.storage:
            self.study.ended(_work(trial.config), Outcome("FAIL", reason="process lost", error=error[-4000:]))


class _StopAll(_Unpickled, ray.tune.Stopper):
    """Ends the run when the study is told to stop (Ctrl-C, time budget)."""

    def __init__(self, study: Study):
        self.study = study

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.study.stopping


def search(study: Study, experiment: Experiment, *, concurrent: int | None, gpus_per_worker: float | None) -> None:
    """Run the study to its end, or until `study.stopping`, on the Ray cluster of RAY_ADDRESS or on one of this machine's own.

    Raises:
        UserError: the study's folder cannot be written any more.
    """
    started_here = start_ray()
    cpus = float(study.base.train.threads)
    gpus = _gpus(gpus_per_worker)
    fits = int(ray.cluster_resources().get("GPU", 0) // gpus if gpus else ray.cluster_resources()["CPU"] // cpus)
    limit = max(1, concurrent or fits)
    # All processes start at once. One at a time, the start of the second is called off whenever a short trial frees the first.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(limit)

    def work(config: dict[str, Any]) -> None:
        run_in_tune(experiment, config)

    storage = _Storage(study)
    scratch = Path(tempfile.mkdtemp(prefix="vistune-"))
    try:
        ray.tune.Tuner(
            ray.tune.with_resources(work, {"cpu": cpus, "gpu": gpus}),
            tune_config=ray.tune.TuneConfig(
                search_alg=ConcurrencyLimiter(StudySearcher(study, storage), max_concurrent=limit),
                scheduler=StudyScheduler(study, storage),
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=ray.tune.RunConfig(
                name=study.manifest.name,
                storage_path=str(scratch),
                failure_config=ray.tune.FailureConfig(max_failures=LOST_PROCESSES),
                stop=_StopAll(study),
                verbose=0,
            ),
        ).fit()
    finally:
        if started_here:
            ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)
    if storage.error is not None:
        raise storage.error


@contextlib.contextmanager
def ray_session() -> Iterator[None]:
    """Ray for several searches in a row."""
    started_here = start_ray()
    try:
        yield
    finally:
        if started_here:
            ray.shutdown()


def start_ray(cpus: int | None = None) -> bool:
    """Connect to the cluster of RAY_ADDRESS, or start Ray on this machine alone (127.0.0.1). True: started here.

    Args:
        cpus: of a Ray started here; default: all.
    """
    if ray.is_initialized():
        return False
    if "RAY_ADDRESS" in os.environ:
        with _own_signals():
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        return False
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # one user, this machine only
    with _own_signals():
        ray.init(
            address="local", _node_ip_address="127.0.0.1", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
            object_store_memory=128 * 2**20, configure_logging=False, num_cpus=cpus,
        )  # fmt: skip
    return True


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Ray puts a handler of its own on SIGTERM, which prints a stack and aborts."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def run_in_tune(experiment: Experiment, config: dict[str, Any]) -> None:
    """What a Tune trial does. Everything it has to say goes through messages to `StudyScheduler`."""
    work = _work(config)
    runtime = TuneRuntime(Path(work.directory))
    runtime.send("start")
    try:
        outcome = run(experiment, work, runtime)
    except StorageFailed as error:
        runtime.send("storage failed", error=str(error))
    else:
        runtime.send("end", **asdict(outcome))


def _work(config: dict[str, Any]) -> Work:
    return Work(**json.loads(config["work"]))


def _gpus(gpus_per_worker: float | None) -> float:
    if gpus_per_worker is not None:
        return gpus_per_worker
    return 1.0 if ray.cluster_resources().get("GPU") else 0.0
