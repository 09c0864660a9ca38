"""The only training loop.

All randomness is a function of (seed, epoch, step): on a CPU, a run that was killed and resumed
equals an uninterrupted one bit for bit. Several workers compute the same as one
(`distributed.py`).
"""

import math
import time
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from trainables.base import (
    AVERAGED,
    BATCHED,
    Batch,
    ConfigT,
    DataT,
    Metrics,
    RunConfig,
    Runtime,
    Trainable,
)
from trainables.devices import sum_dtype
from trainables.engine import checkpoint, distributed, watchdog
from trainables.engine.average import judged_weights
from trainables.engine.best_weights import BestWeights
from trainables.engine.checkpoint import TrainingState
from trainables.engine.compilation import allocate_gradients, evaluating, replays_graphs
from trainables.engine.memory import is_out_of_memory
from trainables.engine.numerics import IN_BFLOAT16
from trainables.engine.step import (
    BatchSplitter,
    gradient_exchange,
    seed_forward_pass,
)
from trainables.errors import TrialFailed
from trainables.files import BEST, remove_partials
from trainables.optim import build_optimizer
from trainables.pace import PaceFile
from trainables.plots.snapshots import snapshot_epochs
from trainables.schedules import lr_at, plateau_factor, thawed_lr_at

# Reading the loss drains a GPU's queue, and a collective makes all workers wait.
_LOOK_STEPS = 10


@runtime_checkable
class TrainsTogether(Protocol):
    """A runtime with its own `train_epoch`, such as one that trains several trials at once."""

    def saves_epoch(self, state: TrainingState) -> bool:
        """True if this epoch's files must be written before its report. A kill costs a trial the
        epochs that were not saved; it then trains them again."""

    def train_epoch(
        self,
        state: TrainingState,
        config: RunConfig,
        runtime: Runtime,
        epoch_end: int,
        total_steps: int,
    ) -> None:
        """Do the same as this module's `train_epoch`."""


@dataclass(frozen=True)
class Fitted:
    """Result of `fit`."""

    history: list[Metrics]
    """Metrics of each epoch."""
    best_epoch: int
    """Epoch with the best objective, counted from 1."""
    best: float
    """Objective of that epoch."""
    stopped: bool
    """True if the study stopped the trial before its last epoch."""


def fit(
    trainable: Trainable[ConfigT, DataT],
    config: ConfigT,
    runtime: Runtime,
    *,
    snapshots: bool = True,
) -> Fitted:
    """Train, validate and report epoch by epoch, resuming from `runtime.directory` if it contains a
    checkpoint.

    Args:
        trainable: built under `torch.manual_seed(config.seed)` and moved to `runtime.device`.
        config: the trainable's config.
        snapshots: write the arrays from which pictures are drawn; results do not depend on it.
    Raises:
        TrialFailed: `nan` (the loss is not finite), `oom` (out of memory at micro-batch 1), or a
            reason from `trainable.check`.
        StartAgain: one of several workers ran out of memory.
    """
    if runtime.world_size > 1:
        distributed.synchronize_batchnorm(trainable, runtime.device)
    if runtime.rank == 0:
        remove_partials(runtime.directory)

    sampler = trainable.sampler()
    epochs = config.train.epochs
    epoch_steps = steps_per_epoch(config, len(trainable.data.train), sampler.batch_size)
    total_steps = epochs * epoch_steps

    optimizer = build_optimizer(trainable.param_groups(config.optim.weight_decay), config.optim)
    batches = BatchSplitter(trainable, config, runtime, sampler)
    state = checkpoint.restore(trainable, optimizer, batches, runtime)
    if state.progress.step > 0:
        # A kill may have come between a checkpoint and its report, so report again. The study
        # ignores a report that it already has.
        between_epochs = state.progress.step == len(state.history) * epoch_steps
        if between_epochs and not _report(state, runtime):
            return _fitted(state, stopped=len(state.history) < epochs)
        trainable.check(state.history)

    together = runtime if isinstance(runtime, TrainsTogether) else None
    train = train_epoch if together is None else together.train_epoch
    for epoch in range(len(state.history), epochs):
        train(state, config, runtime, (epoch + 1) * epoch_steps, total_steps)

        loss_sum, _ = _read_loss(state, config, runtime, total_steps)
        drawn = snapshots and epoch + 1 in snapshot_epochs(epochs)
        is_last = epoch + 1 == epochs
        saved = is_last or together is None or together.saves_epoch(state)
        _finish_epoch(state, config, runtime, loss_sum, epoch_steps, saved=saved, drawn=drawn)
        if saved:
            checkpoint.save(state, runtime)
        if not _report(state, runtime):
            return _fitted(state, stopped=not is_last)
        trainable.check(state.history)
    return _fitted(state, stopped=False)


def train_epoch(
    state: TrainingState, config: RunConfig, runtime: Runtime, epoch_end: int, total_steps: int
) -> None:
    """Take the remaining steps of the epoch that ends at step `epoch_end`.

    Raises:
        TrialFailed: `nan`, `oom`.
    """
    pace = _pace_file(state, runtime, epoch_end)
    try:
        _take_steps(state, config, runtime, epoch_end, total_steps, pace)
    finally:
        if pace is not None:
            pace.remove()


def _take_steps(
    state: TrainingState,
    config: RunConfig,
    runtime: Runtime,
    epoch_end: int,
    total_steps: int,
    pace: PaceFile | None,
) -> None:
    look_steps = 1 if runtime.device.type == "cpu" and runtime.world_size == 1 else _LOOK_STEPS

    for step in range(state.progress.step, epoch_end):
        watchdog.beat()
        state.trainable.train()
        state.loss_sum += train_step(state, config, runtime, step, total_steps)
        state.progress.step = step + 1

        if (step + 1) % look_steps == 0 and step + 1 < epoch_end:
            _, overdue = _read_loss(state, config, runtime, total_steps)
            if pace is not None:
                pace.look(step + 1)
            if overdue:
                checkpoint.save(state, runtime)


def _pace_file(state: TrainingState, runtime: Runtime, epoch_end: int) -> PaceFile | None:
    """Create the file with the speed of the run's first epoch; None for later epochs."""
    if state.history or runtime.rank != 0:
        return None
    judged = len(getattr(state.trainable.data, "val", ()))
    return PaceFile(runtime.directory, epoch_end, judged / state.batches.batch_size)


def train_step(
    state: TrainingState, config: RunConfig, runtime: Runtime, step: int, total_steps: int
) -> Tensor:
    """Take one optimizer step on an effective batch.

    Returns:
        This worker's part of the batch's mean loss, a detached scalar; the parts of all workers
        sum to it.
    """
    trainable, optimizer, batches = state.trainable, state.optimizer, state.batches
    peak = config.optim.lr * _plateau_factor(state, config)
    for group in optimizer.param_groups:
        thaws_at = group.get("thaws_at", 0.0)
        lr = thawed_lr_at(step, total_steps, peak, config.schedule, thaws_at)
        group["lr"] = lr * group.get("lr_scale", 1.0)

    batch = batches.feed.batch(step)
    trainable.before_step(step, total_steps)
    batches.statistics.keep()
    while True:
        seed_forward_pass(config.seed, step, runtime)
        optimizer.zero_grad(set_to_none=True)
        loss = accumulate_gradients(batches, batch, bf16=config.train.bf16)
        if loss is not None:
            break
        batches.statistics.restore()
        batches.halve()

    if config.optim.clip_grad_norm:
        torch.nn.utils.clip_grad_norm_(trainable.parameters(), config.optim.clip_grad_norm)
    optimizer.step()
    trainable.after_step()
    if state.average is not None:
        state.average.update(step)
    if step + 1 < total_steps:
        batches.feed.send_early(step + 1)
    return loss


def accumulate_gradients(batches: BatchSplitter, batch: Batch, bf16: bool) -> Tensor | None:
    """Accumulate the gradients of a batch's mean loss, micro-batch by micro-batch.

    Returns:
        This worker's part of that loss, a detached scalar; None if memory ran out.
    """
    runtime = batches.runtime
    model = batches.model()
    micro_batches = batches.split(batch)
    if len(micro_batches) > 1 and replays_graphs(batches.config.train):
        allocate_gradients(batches.trainable)
    dtype = sum_dtype(runtime.device)
    loss_sum = torch.zeros((), dtype=dtype, device=runtime.device)
    try:
        for micro_batch in micro_batches:
            with gradient_exchange(model, is_last=micro_batch is micro_batches[-1]):
                with torch.autocast(runtime.device.type, torch.bfloat16, enabled=bf16):
                    loss = _checked(model(micro_batch)) * (len(micro_batch) / batches.batch_size)
                # The exchange averages the workers' gradients, but their sum is needed.
                (loss * runtime.world_size).backward()
            loss_sum += loss.detach()
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None  # Return here to drop the traceback, which keeps the activations alive.
    return loss_sum


def _checked(loss: Any) -> Any:
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return loss
    found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
    raise TypeError(f"forward must return the loss, a tensor of one number; it returned {found}")


def steps_per_epoch(config: RunConfig, train_images: int, batch_size: int) -> int:
    """Number of whole batches in an epoch, at least one."""
    images = config.train.epoch_images or train_images
    return max(1, images // batch_size)


def checkpoint_overdue(state: TrainingState, config: RunConfig) -> bool:
    """True if the last checkpoint is older than the config allows, by this process's clock."""
    seconds_unsaved = time.perf_counter() - state.saved_at
    return seconds_unsaved > 60 * config.train.checkpoint_minutes


def _read_loss(
    state: TrainingState, config: RunConfig, runtime: Runtime, total_steps: int
) -> tuple[float, bool]:
    """Return the sum of losses of the current epoch over all workers, and True if a checkpoint is
    overdue by rank 0's clock.

    Raises:
        TrialFailed: `nan`.
    """
    overdue = runtime.rank == 0 and checkpoint_overdue(state, config)
    message = torch.stack([state.loss_sum, state.loss_sum.new_tensor(overdue)])
    loss_sum, any_overdue = distributed.all_sum(message).tolist()
    if not math.isfinite(loss_sum):
        raise TrialFailed(
            "nan", f"the loss is {loss_sum} at step {state.progress.step} of {total_steps}"
        )
    return loss_sum, bool(any_overdue)


def _finish_epoch(
    state: TrainingState,
    config: RunConfig,
    runtime: Runtime,
    loss_sum: float,
    epoch_steps: int,
    *,
    saved: bool,
    drawn: bool,
) -> None:
    """Validate, keep the weights if the epoch is the best, write arrays for pictures, and start the
    next epoch's clock.

    Args:
        saved: write the best weights; otherwise they stay in memory.
        drawn: pictures of this epoch will be drawn.
    Raises:
        TrialFailed: `nan` (the objective is not finite).
    """
    trainable = state.trainable
    metrics = _training_metrics(state, config, runtime, loss_sum, epoch_steps)
    with evaluating(config.train):
        metrics |= trainable.validate()
        with judged_weights(trainable, state.average) as averaged:
            metrics |= averaged
            metrics |= trainable.costs()
            _keep_epoch(state, config, runtime, metrics, saved=saved)
            if drawn and runtime.rank == 0:
                with distributed.no_collectives():
                    trainable.snapshot(runtime.directory, len(state.history))

    state.loss_sum.zero_()
    state.batched = 0
    state.epoch_started = time.perf_counter()


def _keep_epoch(
    state: TrainingState, config: RunConfig, runtime: Runtime, metrics: Metrics, *, saved: bool
) -> None:
    """Add the metrics to the history, and keep the weights if they are the best."""
    trainable = state.trainable
    history = state.history
    metrics = distributed.broadcast(metrics)  # the last bits of two GPUs may differ
    epoch = len(history) + 1
    value = metrics[trainable.objective]
    if not math.isfinite(value):
        raise TrialFailed("nan", f"{trainable.objective} is {value} after epoch {epoch}")

    history.append(metrics)
    if value > state.progress.best:
        state.progress.best = value
        state.progress.best_epoch = epoch
        meta: dict[str, Any] = {"epoch": epoch, trainable.objective: value}
        if trainable.objective.endswith(AVERAGED):
            meta |= {"weights": f"averaged with decay {config.train.ema}"}
        state.best_weights = BestWeights(trainable, meta)
        if not saved:
            state.best_weights.copy()
    if saved and state.best_weights is not None:
        if runtime.rank == 0:
            state.best_weights.export(runtime.directory / BEST)
        state.best_weights = None


def _training_metrics(
    state: TrainingState, config: RunConfig, runtime: Runtime, loss_sum: float, epoch_steps: int
) -> Metrics:
    """Loss, learning rate, times and processors of the epoch that has just been trained."""
    seconds = time.perf_counter() - state.epoch_started
    state.unsaved_seconds += seconds
    images = epoch_steps * state.batches.batch_size
    last_step = state.progress.step - 1
    total_steps = epoch_steps * config.train.epochs
    peak = config.optim.lr * _plateau_factor(state, config)
    metrics: Metrics = {
        "train/loss": loss_sum / epoch_steps,
        "train/lr": lr_at(last_step, total_steps, peak, config.schedule),
        "time/epoch_s": seconds,
        "time/images_per_s": images / seconds,
    }
    if runtime.world_size > 1:
        metrics["time/workers"] = float(runtime.world_size)
    if runtime.device.type == "cuda":
        metrics["time/gpus"] = float(runtime.world_size)
    if state.batched:
        metrics[BATCHED] = float(state.batched)
    if config.train.bf16:
        metrics[IN_BFLOAT16] = 1.0  # with `train.numerics=auto` the device decides
    if state.batches.reduced_micro_batch:
        metrics["train/micro_batch"] = state.batches.reduced_micro_batch
    return metrics


def _plateau_factor(state: TrainingState, config: RunConfig) -> float:
    """Factor on the peak rate after the objectives of the finished epochs; 1 unless
    `schedule.name=plateau`."""
    if config.schedule.name != "plateau":
        return 1.0
    values = [metrics[state.trainable.objective] for metrics in state.history]
    return plateau_factor(values, config.train.epochs, config.schedule)


def _report(state: TrainingState, runtime: Runtime) -> bool:
    """Report the last epoch through rank 0, and return the study's answer on every worker."""
    history = state.history
    return distributed.broadcast(runtime.rank != 0 or runtime.report(len(history), history[-1]))


def _fitted(state: TrainingState, stopped: bool) -> Fitted:
    progress = state.progress
    return Fitted(state.history, progress.best_epoch, progress.best, stopped)
