"""The only training loop. Everything that is random in it is a function of (seed, epoch, step), so
that a run which was killed and resumed equals the run which was not, bit for bit on a CPU. Several
workers compute what one would: see `distributed.py`."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainables.base import Metrics, Runtime, Trainable
from trainables.engine import distributed, watchdog
from trainables.engine.step import StepRunner
from trainables.errors import TrialFailed
from trainables.files import BEST, LAST, atomic_file, remove_partials
from trainables.optim import build_optimizer, lr_at
from trainables.plots.snapshots import snapshot_epochs

# reading the loss stalls a GPU's queue, and asking the other workers stalls this one
_LOOK_STEPS = 10


@dataclass(frozen=True)
class Fitted:
    """What `fit` hands back: the epoch-by-epoch metrics and the best of them."""

    history: list[Metrics]
    best_epoch: int  # 1-based
    best: float
    stopped: bool  # by the study, before the last epoch


@dataclass
class Progress:
    """All of the loop's state that is not in the model or the optimizer."""

    step: int = 0
    loss_sum: float = 0.0
    epoch_seconds: float = 0.0
    micro_batch: int = 0  # what memory allowed; 0: all that was asked for
    best: float = -math.inf
    best_epoch: int = 0


def steps_per_epoch(config: Any, train_images: int, batch_size: int) -> int:
    """Whole batches in an epoch, at least one."""
    return max(1, (config.train.epoch_images or train_images) // batch_size)


def fit(trainable: Trainable, config: Any, runtime: Runtime) -> Fitted:
    """Train, validate and report epoch by epoch, going on from the checkpoint in
    `runtime.directory` where there is one.

    Args:
        trainable: built under `torch.manual_seed(config.seed)` and moved to `runtime.device`.
        config: frozen config with blocks `train`, `optim`, `schedule` and `seed`.
    Raises:
        TrialFailed: `nan` (the loss is not finite), `oom` (out of memory at micro-batch 1), or what
            `trainable.check` finds.
        StartAgain: of several workers one ran out of memory.
    """
    if runtime.world_size > 1:
        distributed.synchronize_batchnorm(trainable, runtime.device)
    if runtime.rank == 0:
        remove_partials(runtime.directory)
    train = config.train
    sampler = trainable.sampler()
    per_epoch = steps_per_epoch(config, len(trainable.data.train), sampler.batch_size)
    total = per_epoch * train.epochs
    optimizer = build_optimizer(trainable.param_groups(config.optim.weight_decay), config.optim)
    step_runner = StepRunner(trainable, config, runtime, total, sampler)
    progress, history = Progress(), []
    if (saved := load_checkpoint(runtime.directory / LAST)) is not None:
        trainable.load_changing_state(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        progress, history = Progress(**saved["progress"]), saved["history"]
        step_runner.micro_batch = min(
            step_runner.micro_batch, progress.micro_batch or step_runner.asked
        )
        # The kill may have come between the checkpoint and its report: report again, the study
        # ignores what it has.
        if history and progress.step == len(history) * per_epoch and not _report(runtime, history):
            return Fitted(
                history, progress.best_epoch, progress.best, stopped=len(history) < train.epochs
            )
        trainable.check(history)

    def save() -> None:
        progress.loss_sum = float(distributed.all_sum(loss_sum))
        progress.epoch_seconds = time.perf_counter() - started
        progress.micro_batch = (
            step_runner.micro_batch if step_runner.micro_batch < step_runner.asked else 0
        )
        if runtime.rank == 0:
            model = trainable.changing_state()
            state = {
                "model": model,
                "optimizer": optimizer.state_dict(),
                "progress": vars(progress),
                "history": history,
            }
            save_checkpoint(runtime.directory / LAST, state)

    loss_sum = torch.tensor(
        progress.loss_sum if runtime.rank == 0 else 0.0, dtype=torch.float64, device=runtime.device
    )
    started = saved_at = time.perf_counter()
    started -= progress.epoch_seconds
    look = 1 if runtime.device.type == "cpu" and runtime.world_size == 1 else _LOOK_STEPS
    while progress.step < total:
        watchdog.beat()
        trainable.train()
        loss_sum += step_runner.run(progress.step, optimizer)
        progress.step += 1
        epoch_ends = progress.step % per_epoch == 0
        if not epoch_ends and progress.step % look:
            continue
        # rank 0's clock counts
        overdue = (
            runtime.rank == 0 and time.perf_counter() - saved_at > 60 * train.checkpoint_minutes
        )
        loss, overdue = distributed.all_sum(
            torch.stack([loss_sum, loss_sum.new_tensor(overdue)])
        ).tolist()
        if not math.isfinite(loss):
            raise TrialFailed("nan", f"the loss is {loss} at step {progress.step} of {total}")
        if epoch_ends:
            seconds, images = time.perf_counter() - started, per_epoch * sampler.batch_size
            metrics = _epoch_metrics(
                loss / per_epoch, seconds, images, config, progress.step, total
            ) | _processors(runtime)
            if step_runner.micro_batch < step_runner.asked:
                metrics["train/micro_batch"] = step_runner.micro_batch
            # the last bits of two GPUs may differ
            metrics = distributed.broadcast(metrics | trainable.validate() | trainable.costs())
            if not math.isfinite(metrics[trainable.objective]):
                raise TrialFailed(
                    "nan",
                    f"{trainable.objective} is {metrics[trainable.objective]} after epoch {len(history) + 1}",
                )
            history.append(metrics)
            _keep_best(trainable, runtime, progress, history)
            if runtime.rank == 0 and len(history) in snapshot_epochs(train.epochs):
                with distributed.no_collectives():
                    trainable.snapshot(runtime.directory, len(history))
            loss_sum.zero_()
            started = saved_at = time.perf_counter()
            save()
            if not _report(runtime, history):
                return Fitted(
                    history, progress.best_epoch, progress.best, stopped=len(history) < train.epochs
                )
            trainable.check(history)
        elif overdue:
            save()
            saved_at = time.perf_counter()
    return Fitted(history, progress.best_epoch, progress.best, stopped=False)


def _report(runtime: Runtime, history: list[Metrics]) -> bool:
    """Rank 0 speaks to the study, and all do what it answers."""
    return distributed.broadcast(runtime.rank != 0 or runtime.report(len(history), history[-1]))


def _epoch_metrics(
    loss: float, seconds: float, images: int, config: Any, step: int, total: int
) -> Metrics:
    return {
        "train/loss": loss,
        "train/lr": lr_at(step - 1, total, config.optim.lr, config.schedule),
        "time/epoch_s": seconds,
        "time/images_per_s": images / seconds,
    }


def _processors(runtime: Runtime) -> Metrics:
    """What an epoch keeps busy, where that is more than one process on the CPU: for the bill."""
    metrics = {"time/workers": float(runtime.world_size)} if runtime.world_size > 1 else {}
    return metrics | (
        {"time/gpus": float(runtime.world_size)} if runtime.device.type == "cuda" else {}
    )


def _keep_best(
    trainable: Trainable, runtime: Runtime, progress: Progress, history: list[Metrics]
) -> None:
    value = history[-1][trainable.objective]
    if value > progress.best:
        progress.best, progress.best_epoch = value, len(history)
        if runtime.rank == 0:
            trainable.export(
                runtime.directory / BEST, {"epoch": len(history), trainable.objective: value}
            )


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Atomic and durable: after a kill or a power cut the path holds the old state or the new
    one."""
    with atomic_file(path) as file:
        torch.save(state, file)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state, on the CPU; None where there is none yet. Plain tensors and containers only:
    nothing in it can run code."""
    if not path.exists():
        return None
    return torch.load(path, map_location="cpu", weights_only=True)
