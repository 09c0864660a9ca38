"""A trial of several workers: a Tune trial that holds no processor, and inside it Ray Train's
`TorchTrainer` (V2; DDP over gloo or NCCL).

    worker of rank 0 -> queue -> this Tune trial -> ray.tune.report -> StudyScheduler -> study

The workers wait until the study has dealt with what they said, so a kill finds the checkpoint at
most one report ahead, as with one worker. `ray.train.report` is not used: it is polled, and it does
not wait. Neither are Train's retries: they cannot tell a lost process, which counts, from memory
that ran out, after which the same trial goes on with smaller micro-batches.
"""

import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ray.util.queue import Empty, Queue

from trainables.engine.step import found_micro_batch
from tune.execution.runtimes import TrainRuntime, TuneRuntime
from tune.execution.trial import run
from tune.experiments import Experiment
from tune.study.events import StorageFailed
from tune.study.work import Outcome, Work

_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # of 2 s: the end of a group is noticed by polling
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
_LISTEN_S = 0.5
# Controllers that find no room for their workers give up after so many starts, a minute each; the
# default waits for ever.
_STARTS = 3


@dataclass(frozen=True)
class WorkerGroup:
    """The workers of one trial, and what each holds."""

    workers: int
    cpus: float
    gpus: float


def run_with_workers(
    experiment: Experiment, work: Work, group: WorkerGroup, lost_processes: int, patience_s: float
) -> None:
    """Do the work in a group of workers, and in a fresh group, from the checkpoint, as often as one
    loses a process (`lost_processes` times at most) or runs out of memory (until micro-batches
    cannot be halved any more)."""
    os.environ |= _ENVIRONMENT
    runtime = TuneRuntime(Path(work.directory))
    if work.kind == "baseline":  # no training, so nothing to share
        group = WorkerGroup(1, group.cpus, group.gpus)
    while True:
        micro_batch = found_micro_batch(runtime.directory)
        error = _Running(experiment, work, group, patience_s).pass_on(runtime)
        if error is None:
            return
        if found_micro_batch(runtime.directory) == micro_batch:
            lost_processes -= 1
        if lost_processes < 0:
            runtime.send(
                "end", **asdict(Outcome("FAIL", reason="process lost", error=str(error)[-4000:]))
            )
            return


class _Running:
    """A trainer in a thread of its own; this one listens to what its workers say."""

    def __init__(self, experiment: Experiment, work: Work, group: WorkerGroup, patience_s: float):
        self.said, self.heard = (Queue(actor_options={"num_cpus": 0}) for _ in range(2))
        self.error: BaseException | None = None
        self.scratch = Path(work.directory) / ".train"
        queues = self.said, self.heard  # not this object: the worker is sent what `train` names
        self._fit = _trainer(
            lambda: _work_on_rank(experiment, work, queues, patience_s), group, self.scratch
        )
        self._thread = threading.Thread(target=self._run, name="trainer", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._fit()
        except BaseException as error:
            self.error = error

    def pass_on(self, runtime: TuneRuntime) -> BaseException | None:
        """Until the group has ended: the error that it has ended with, None where the work is done.
        A stopped trial ends inside `send`."""
        end: dict[str, Any] | None = None
        while self._thread.is_alive() or not self.said.empty():
            try:
                message = json.loads(self.said.get(timeout=_LISTEN_S))
            except Empty:
                continue
            if message["kind"] == "end" and message["state"] == "COMPLETE":
                end = message  # said when the group has gone and what it held is free
            else:
                runtime.send(**message)
            self.heard.put(None)
        for queue in (self.said, self.heard):
            queue.shutdown(force=True)
        shutil.rmtree(self.scratch, ignore_errors=True)
        if end is not None:
            runtime.send(**end)
            return None
        return self.error or RuntimeError("the workers ended without a word")


def _trainer(train: Callable[[], None], group: WorkerGroup, scratch: Path) -> Callable[[], Any]:
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    return TorchTrainer(
        train,
        torch_config=TorchConfig(backend="nccl" if group.gpus else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=group.workers,
            use_gpu=bool(group.gpus),
            resources_per_worker={"CPU": group.cpus} | ({"GPU": group.gpus} if group.gpus else {}),
        ),
        run_config=ray.train.RunConfig(
            name=scratch.name,
            storage_path=str(scratch.parent),
            failure_config=ray.train.FailureConfig(
                max_failures=0, controller_failure_limit=_STARTS
            ),  # type: ignore[call-arg]
        ),
    ).fit


def _work_on_rank(
    experiment: Experiment, work: Work, queues: tuple[Queue, Queue], patience_s: float
) -> None:
    """What every worker does. An exception that leaves here ends the group, which is then started
    again."""
    import ray.train

    context = ray.train.get_context()
    runtime = TrainRuntime(
        Path(work.directory), context.get_world_rank(), context.get_world_size(), *queues
    )
    if runtime.rank == 0:
        runtime.send("start")
    try:
        outcome = run(experiment, work, runtime, patience_s)
    except StorageFailed as error:
        runtime.send("storage failed", error=str(error))
        return
    # what befell one rank alone is for that rank to say
    if runtime.rank == 0 or outcome.state != "COMPLETE":
        runtime.send("end", **asdict(outcome))
