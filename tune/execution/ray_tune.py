"""Study -> Ray Tune. The study decides what runs and what stops; Tune brings it to free processes
and notices when one dies.

Tune's own snapshots, `Tuner.restore`, checkpoints and loggers are not used: the study's folder
holds all that must last.
"""

import contextlib
import functools
import json
import logging
import math
import os
import shutil
import signal
import socket
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
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
import ray.util.state  # noqa: E402
from ray._private import services  # noqa: E402
from ray.tune.experiment import Trial  # noqa: E402
from ray.tune.schedulers import FIFOScheduler, TrialScheduler  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402

from trainables.errors import UserError  # noqa: E402
from tune.execution.capacity import (  # noqa: E402
    ConcurrencyLimit,
    gpus_of_a_worker,
    on_a_cluster,
    refuse_what_never_fits,
)
from tune.execution.runtimes import TuneRuntime  # noqa: E402
from tune.execution.trial import run  # noqa: E402
from tune.execution.worker_group import WorkerGroup, run_with_workers  # noqa: E402
from tune.experiments import Experiment  # noqa: E402
from tune.study.events import StorageFailed  # noqa: E402
from tune.study.study import Outcome, Study, Work  # noqa: E402

# Tune reads the log files that it was told not to write, and says at length that there are none.
logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.CRITICAL)
# Of a lost process the study tells, and whether its trial goes on; Tune would print a traceback of
# its own.
_TOLD = ("Trial task failed", "Trials did not complete")
for _name in ("ray.tune.execution.tune_controller", "ray.tune.tune"):
    logging.getLogger(_name).addFilter(lambda record: not record.getMessage().startswith(_TOLD))

_ANSWER_S = 10.0
LOST_PROCESSES = 3  # a trial whose process dies goes on in another one, so often


class _Unpickled:
    """Tune pickles what it is given, for a restore that is not used; a study is a live thing of
    this process."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Storage:
    """Around every call to the study: Tune would take a disk that cannot be written for the fault
    of a trial, and go on."""

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
        self.error = self.error or error
        self.study.stopping = True
        return True


class StudySearcher(_Unpickled, Searcher):
    """Hands out the study's work, as much at a time as `limit` says at that moment."""

    def __init__(self, study: Study, storage: _Storage, limit: Callable[[], int]):
        super().__init__(metric=None, mode=None)
        self.study, self.storage, self.limit = study, storage, limit
        self._out: set[str] = set()

    def suggest(self, trial_id: str) -> Any:
        work = None
        if len(self._out) >= self.limit() and not self.study.stopping:
            return None
        with self.storage:
            work = self.study.next_work()
        if work == "wait":
            return None
        if work is None:
            return Searcher.FINISHED
        self._out.add(trial_id)
        return {"work": json.dumps(asdict(work))}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The scheduler has told the study."""
        self._out.discard(trial_id)

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
        self._chosen: set[str] = set()
        self._never_begun: Counter[tuple[int, int | None]] = Counter()

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
        """The first of the live trials that waits and has not been chosen yet; Tune's own rule
        looks at all there have ever been. A trial that has been chosen has a process starting: to
        choose it again would call that off whenever a short trial frees another process."""
        waiting = [
            t
            for t in tune_controller.get_live_trials()
            if t.status == Trial.PENDING and t.trial_id not in self._chosen
        ]
        if not waiting:
            return None
        first = min(waiting, key=lambda t: _work(t.config).number)
        self._chosen.add(first.trial_id)
        return first

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        # Tune has ended this attempt and puts the trial into the queue again
        if self.study.stopping or trial.status == Trial.ERROR:
            return
        work = _work(trial.config)
        # its process died before it began, such as a warm one between two trials: Tune gives up at
        # once
        if trial.status == Trial.PENDING:
            self._never_begun[work.key] += 1
            if self._never_begun[work.key] <= LOST_PROCESSES:
                self.study.requeue(work)
                return
        error = str(trial.get_error() or "")
        with self.storage:
            self.study.ended(work, Outcome("FAIL", reason="process lost", error=error[-4000:]))


class _Starts(_Unpickled, ray.tune.Callback):
    """Tells the study which trial has a process now; a message from there would cost the driver as
    much as a report does."""

    def __init__(self, study: Study, storage: _Storage):
        self.study, self.storage = study, storage

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        with self.storage:
            self.study.started(_work(trial.config))


class _StopAll(_Unpickled, ray.tune.Stopper):
    """Ends the run when the study is told to stop (Ctrl-C, time budget)."""

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
) -> None:
    """Run the study to its end, or until `study.stopping`, on the Ray cluster of RAY_ADDRESS or on
    one of this machine's own.

    Raises:
        UserError: the cluster has no room for one trial; the study's folder cannot be written any
            more.
    """
    started_here = start_ray(dashboard=workers > 1)
    patience_s = _patience_s()
    group = WorkerGroup(workers, float(study.base.train.threads), gpus_of_a_worker(gpus_per_worker))
    refuse_what_never_fits(group)
    # All processes start at once. One at a time, the start of the second is called off whenever a
    # short trial frees the first.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "1000"

    if workers == 1:
        trial = functools.partial(run_in_tune, experiment, patience_s)
        resources = {"cpu": group.cpus, "gpu": group.gpus}
    else:
        # it is the workers who hold processors: a Tune trial that held one could keep it from its
        # own
        trial = functools.partial(run_workers_in_tune, experiment, patience_s, group)
        resources = {"cpu": 0, "node:__internal_head__": 0.001}
    storage = _Storage(study)
    scratch = Path(tempfile.mkdtemp(prefix="vistune-"))
    try:
        ray.tune.Tuner(
            ray.tune.with_resources(trial, resources),
            tune_config=ray.tune.TuneConfig(
                search_alg=StudySearcher(study, storage, ConcurrencyLimit(group, concurrent)),
                scheduler=StudyScheduler(study, storage),
                num_samples=-1,
                # a process that has run a trainer hangs in the next trial
                reuse_actors=workers == 1,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=ray.tune.RunConfig(
                name=study.manifest.name,
                storage_path=str(scratch),
                failure_config=ray.tune.FailureConfig(max_failures=LOST_PROCESSES),
                stop=_StopAll(study),
                # of several workers, rank 0 says so
                callbacks=[_Starts(study, storage)] if workers == 1 else [],
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
def ray_session(workers: int = 1) -> Iterator[None]:
    """Ray for several searches in a row, of trials with so many workers."""
    started_here = start_ray(dashboard=workers > 1)
    try:
        yield
    finally:
        if started_here:
            ray.shutdown()


def start_ray(cpus: int | None = None, dashboard: bool = False) -> bool:
    """Connect to the cluster of RAY_ADDRESS, or start Ray on this machine alone (127.0.0.1). True:
    started here.

    Args:
        cpus: of a Ray started here; default: all.
        dashboard: with the State API, through which Ray Train frees what a stopped trial's workers
            held.

    Raises:
        UserError: the State API does not answer.
    """
    started = _start_ray(cpus, dashboard)
    if dashboard:
        try:
            ray.util.state.list_actors(limit=1)
        except Exception as error:
            raise UserError(
                f"trials of several workers need Ray's State API, which does not answer ({_first_line(error)}); "
                "install ray[default], start the cluster with its dashboard, or use --workers 1"
            ) from None
    return started


def _start_ray(cpus: int | None, dashboard: bool) -> bool:
    if ray.is_initialized():
        return False
    if on_a_cluster():
        _connect(os.environ["RAY_ADDRESS"])
        return False
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # one user, this machine only
    port = _free_port()
    if dashboard:  # the address of this one, whichever others run on the machine
        os.environ["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
    try:
        with _own_signals(), _loopback():
            ray.init(
                address="local",
                _node_ip_address="127.0.0.1",
                include_dashboard=dashboard,
                dashboard_port=port,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=128 * 2**20,
                configure_logging=False,
                num_cpus=cpus,
            )
    except Exception as error:  # Ray raises bare ones
        raise UserError(
            f"Ray did not start on this machine ({_first_line(error)}); run the same command again, or add --local"
        ) from error
    return True


def _connect(address: str) -> None:
    """To the cluster there. Ray would try for a quarter of an hour, without a word, where nobody
    listens."""
    host, _, port = address.rpartition(":")
    try:
        if "://" not in address and port.isdecimal():
            socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
        with _own_signals():
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        raise UserError(
            f"no Ray cluster at RAY_ADDRESS={address} ({_first_line(error)}); start it, or unset RAY_ADDRESS to run on this machine alone"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """Ray replaces 127.0.0.1 by the machine's address in the network, where anyone could run code
    in it. The name is one of Ray's private ones: tests/tune/execution/test_ray_tune.py looks at the
    sockets."""
    replaced = services.resolve_ip_for_localhost
    services.resolve_ip_for_localhost = lambda host: host
    try:
        yield
    finally:
        services.resolve_ip_for_localhost = replaced


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Ray puts a handler of its own on SIGTERM, which prints a stack and aborts."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def run_in_tune(experiment: Experiment, patience_s: float, config: dict[str, Any]) -> None:
    """What a Tune trial of one worker does. Everything it has to say goes through messages to
    `StudyScheduler`."""
    work = _work(config)
    runtime = TuneRuntime(Path(work.directory))
    try:
        outcome = run(experiment, work, runtime, patience_s)
    except StorageFailed as error:
        runtime.send("storage failed", error=str(error))
    else:
        runtime.send("end", **asdict(outcome))


def run_workers_in_tune(
    experiment: Experiment, patience_s: float, group: WorkerGroup, config: dict[str, Any]
) -> None:
    """What a Tune trial of several workers does."""
    run_with_workers(experiment, _work(config), group, LOST_PROCESSES, patience_s)


def _work(config: dict[str, Any]) -> Work:
    return Work(**json.loads(config["work"]))


def _patience_s() -> float:
    """How long a trial may get no further before its process is taken to hang."""
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
