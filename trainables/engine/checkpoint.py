"""The checkpoint of a trial: what training changes, written and read as one file.

last.pt    {"model", "optimizer", "progress", "history"}, with train.ema "average";
           tensors and plain containers only
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables.base import Metrics, Runtime, Trainable
from trainables.devices import sum_dtype
from trainables.engine import distributed
from trainables.engine.average import WeightAverage
from trainables.engine.step import BatchSplitter
from trainables.files import LAST, atomic_file

_PARTS = {"model", "optimizer", "progress", "history"}


@dataclass
class Progress:
    """The loop's own state: all of a checkpoint that is neither model, optimizer nor history."""

    step: int = 0
    """Optimizer steps done."""
    loss_sum: float = 0.0
    """Sum of the losses of the epoch in progress, over all workers."""
    epoch_seconds: float = 0.0
    """Time spent in the epoch in progress, in seconds."""
    micro_batch: int = 0
    """Images of a micro-batch that memory allowed; 0: as many as the config asks for."""
    best: float = -math.inf
    """Best value of the objective so far."""
    best_epoch: int = 0
    """The epoch that reached it, counted from 1."""


@dataclass
class TrainingState:
    """Everything that training changes. Each worker has one; rank 0 writes it."""

    trainable: Trainable[Any, Any]
    optimizer: torch.optim.Optimizer
    batches: BatchSplitter
    progress: Progress
    history: list[Metrics]
    """Metrics of the finished epochs."""
    loss_sum: Tensor  # (), float64 where the device has it
    """This worker's part of the sum of losses of the epoch in progress."""
    epoch_started: float
    """On the clock of `time.perf_counter`; for a resumed epoch, its earlier time is subtracted."""
    saved_at: float
    """When the last checkpoint was written, on the same clock."""
    average: WeightAverage | None = None
    """The averaged weights of `train.ema`; None without them."""
    batched: int = 0
    """Trials that train side by side in batched steps, this one included, in the epoch in progress;
    0 where the trial's steps are its own."""


def restore(
    trainable: Trainable[Any, Any],
    optimizer: torch.optim.Optimizer,
    batches: BatchSplitter,
    runtime: Runtime,
) -> TrainingState:
    """Load the checkpoint in `runtime.directory` into model and optimizer, where there is one.

    Returns:
        The state to train on from: `progress.step` is 0 where there is no checkpoint.
    """
    progress, history = Progress(), []
    average = WeightAverage(trainable) if trainable.config.train.ema else None
    saved = load_checkpoint(runtime.directory / LAST)
    if saved is not None:
        trainable.load_changing_state(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        progress = Progress(**saved["progress"])
        history = saved["history"]
        batches.limit(progress.micro_batch)
        if average is not None:
            average.load(saved["average"])

    # The checkpoint holds the sum over all workers: one of them has to add it.
    loss_sum = progress.loss_sum if runtime.rank == 0 else 0.0
    device = runtime.device
    now = time.perf_counter()
    return TrainingState(
        trainable=trainable,
        optimizer=optimizer,
        batches=batches,
        progress=progress,
        history=history,
        loss_sum=torch.tensor(loss_sum, dtype=sum_dtype(device), device=device),
        epoch_started=now - progress.epoch_seconds,
        saved_at=now,
        average=average,
    )


def save(state: TrainingState, runtime: Runtime) -> None:
    """Write the checkpoint. All workers call it; rank 0 writes."""
    progress = state.progress
    progress.loss_sum = float(distributed.all_sum(state.loss_sum))
    progress.epoch_seconds = time.perf_counter() - state.epoch_started
    progress.micro_batch = state.batches.reduced_micro_batch
    if runtime.rank == 0:
        content = {
            "model": state.trainable.changing_state(),
            "optimizer": state.optimizer.state_dict(),
            "progress": vars(progress),
            "history": state.history,
        }
        if state.average is not None:
            content["average"] = state.average.values
        save_checkpoint(runtime.directory / LAST, content)
    state.saved_at = time.perf_counter()


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write `content` atomically: after a kill or a power cut `path` holds the old or the new."""
    with atomic_file(path) as file:
        torch.save(content, file)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Content of a checkpoint, on the CPU; None where there is no file, or a disk error has made
    it unreadable: the trial then begins anew, with the same result.

    Only tensors and plain containers are read: nothing in the file can run code.
    """
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception:  # torch has no type of its own for a damaged file
        path.unlink()
        return None
    if not isinstance(content, dict) or not content.keys() >= _PARTS:
        path.unlink()
        return None
    return content
