"""A trial of several workers: a Tune trial that holds no processor, and inside it Ray Train's
`TorchTrainer` (V2; DDP over gloo or NCCL).

    worker of rank 0 -> mailbox -> this Tune trial -> ray.tune.report -> StudyScheduler -> study

The workers wait until the study has handled their message, so a kill finds the checkpoint at most
one report ahead, as with one worker. `ray.train.report` is not used, because it is polled and does
not wait. Train's retries are not used either: they cannot distinguish a lost process, which counts,
from memory that ran out, after which the same trial resumes with smaller micro-batches.
"""

import asyncio
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray

from trainables.engine.step import found_micro_batch
from trainables.redaction import redacted
from tune.execution.placement import others_than
from tune.execution.runtimes import TrainRuntime, TuneRuntime
from tune.execution.trial import run
from tune.experiments import Experiment
from tune.study.disk import StorageFailed
from tune.study.work import Outcome, Work

_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    # instead of 2 s: the end of a group is noticed by polling
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
_POLL_S = 0.5
# A controller that finds no capacity for its workers gives up after this many starts, a minute
# each; by default it waits for ever.
_STARTS = 3


@dataclass(frozen=True)
class WorkerGroup:
    """The workers of one trial, and the resources of each."""

    workers: int
    """Number of workers, from 1."""
    cpus: float
    """CPUs of each worker."""
    gpus: float
    """GPUs of each worker: a share of one, or a whole number."""


def run_with_workers(
    experiment: Experiment,
    work: Work,
    group: WorkerGroup,
    lost_processes: int,
    patience_s: float,
    without: Sequence[str] = (),
) -> None:
    """Do the work in a group of workers. The group restarts from the checkpoint if a process is
    lost (at most `lost_processes` times without a new epoch) or memory runs out (until
    micro-batches cannot be halved any more).

    Args:
        patience_s: a process that makes no progress for this many seconds ends itself.
        without: ids of machines that get none of the workers.
    """
    os.environ |= _ENVIRONMENT
    runtime = TuneRuntime(Path(work.directory))
    if work.kind == "baseline":  # no training, so nothing to share
        group = WorkerGroup(1, group.cpus, group.gpus)
    lost = 0
    latest_epoch = 0
    while True:
        micro_batch = found_micro_batch(runtime.directory)
        running = _RunningGroup(experiment, work, group, patience_s, without)
        error = running.forward_to(runtime)
        if error is None:
            return
        if running.latest_epoch > latest_epoch:
            latest_epoch = running.latest_epoch
            lost = 0
        ran_out_of_memory = found_micro_batch(runtime.directory) != micro_batch
        if not ran_out_of_memory:
            lost += 1
        if lost > lost_processes:
            outcome = Outcome("FAIL", reason="process lost", error=redacted(str(error))[-4000:])
            runtime.send("end", **asdict(outcome), nodes=[])
            return


class Mailbox:
    """Brings messages of workers to the Tune trial that started them, and tells the workers when
    each has been handled. It is a Ray actor, in a process of its own."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[str] = asyncio.Queue()
        self._handled: asyncio.Queue[None] = asyncio.Queue()

    async def send(self, message: str) -> None:
        """Hand over a message; return when it has been handled."""
        await self._messages.put(message)
        await self._handled.get()

    async def tell(self, message: str) -> None:
        """Hand over a message without waiting for a reply."""
        await self._messages.put(message)

    async def receive(self, patience_s: float) -> str | None:
        """Wait for a message; None if none has come."""
        try:
            return await asyncio.wait_for(self._messages.get(), patience_s)
        except TimeoutError:
            return None

    async def handled(self) -> None:
        """Tell the sender of the last message that it has been handled."""
        await self._handled.put(None)


class _RunningGroup:
    """A trainer in a thread of its own, and the messages of its workers."""

    def __init__(
        self,
        experiment: Experiment,
        work: Work,
        group: WorkerGroup,
        patience_s: float,
        without: Sequence[str],
    ):
        self.latest_epoch = 0
        """Last epoch that the group has reported."""
        self._nodes: set[str] = set()
        self._mailbox: Any = ray.remote(num_cpus=0)(Mailbox).remote()
        self._error: BaseException | None = None
        self._scratch = Path(work.directory) / ".train"
        # The function is sent to the workers with all that it refers to, so it must not refer to
        # self.
        mailbox = self._mailbox
        self._fit = _trainer(
            lambda: _work_on_rank(experiment, work, mailbox, patience_s),
            group,
            self._scratch,
            without,
        )
        self._thread = threading.Thread(target=self._run, name="trainer", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._fit()
        except BaseException as error:
            self._error = error

    def forward_to(self, runtime: TuneRuntime) -> BaseException | None:
        """Forward all messages until the group has ended. A stopped trial ends inside `send`.

        Returns:
            None if the work is done, else the error that ended the group.
        """
        end: dict[str, Any] | None = None
        for message in self._received():
            node = message.pop("node")
            if message["kind"] == "joined":
                self._nodes.add(node)
                continue
            if message["kind"] == "end" and message["state"] == "COMPLETE":
                end = message  # sent when the group has ended and its resources are free
            else:
                fails = message["kind"] not in ("start", "report")
                runtime.send(**message, nodes=[node] if fails else sorted(self._nodes))
                self.latest_epoch = message.get("epoch", self.latest_epoch)
            ray.get(self._mailbox.handled.remote())

        ray.kill(self._mailbox)
        shutil.rmtree(self._scratch, ignore_errors=True)
        if end is not None:
            runtime.send(**end, nodes=sorted(self._nodes))
            return None
        return self._error or RuntimeError("the workers ended without a message")

    def _received(self) -> Iterator[dict[str, Any]]:
        """Yield all messages, until the group has ended and its last one has come."""
        is_alive = True
        while is_alive:
            is_alive = self._thread.is_alive()
            while (text := ray.get(self._mailbox.receive.remote(_POLL_S))) is not None:
                yield json.loads(text)


def _trainer(
    train: Callable[[], None], group: WorkerGroup, scratch: Path, without: Sequence[str]
) -> Callable[[], Any]:
    """Return a function that runs `train` in every worker of a new group, until all have ended.

    Args:
        without: ids of machines that get none of the workers.
    """
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    resources = {"CPU": group.cpus}
    if group.gpus:
        resources["GPU"] = group.gpus
    return TorchTrainer(
        train,
        torch_config=TorchConfig(backend="nccl" if group.gpus else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=group.workers,
            use_gpu=bool(group.gpus),
            resources_per_worker=resources,
            label_selector=others_than(without) or None,  # type: ignore[call-arg]
        ),
        run_config=ray.train.RunConfig(
            name=scratch.name,
            storage_path=str(scratch.parent),
            failure_config=ray.train.FailureConfig(
                max_failures=0, controller_failure_limit=_STARTS
            ),  # type: ignore[call-arg]
        ),
    ).fit


def _work_on_rank(experiment: Experiment, work: Work, mailbox: Any, patience_s: float) -> None:
    """Do the work in one worker. An exception that escapes ends the group, which is then
    restarted."""
    import ray.train

    context = ray.train.get_context()
    rank = context.get_world_rank()
    runtime = TrainRuntime(Path(work.directory), rank, context.get_world_size(), mailbox)
    runtime.tell("joined")
    if runtime.rank == 0:
        runtime.send("start")
    try:
        outcome = run(experiment, work, runtime, patience_s)
    except StorageFailed as error:
        runtime.send("storage failed", error=str(error), code=error.code)
        return
    # if one rank alone fails, that rank reports it
    if runtime.rank == 0 or outcome.state != "COMPLETE":
        runtime.send("end", **asdict(outcome))
