"""The checkpoint of a trial: everything that training changes, in one file.

last.pt    {"model", "optimizer", "progress", "history"}, with train.ema also "average";
           only tensors and plain containers
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
from trainables.engine.best_weights import BestWeights
from trainables.engine.step import BatchSplitter
from trainables.files import LAST, atomic_file

_PARTS = {"model", "optimizer", "progress", "history"}


@dataclass
class Progress:
    """State of the loop: everything in a checkpoint but model, optimizer and history."""

    step: int = 0
    """Number of optimizer steps done."""
    loss_sum: float = 0.0
    """Sum of losses of the current epoch, over all workers."""
    epoch_seconds: float = 0.0
    """Time spent in the current epoch, in seconds."""
    micro_batch: int = 0
    """Micro-batch that fits into memory, in images; 0: the one that the config asks for."""
    best: float = -math.inf
    """Best value of the objective so far."""
    best_epoch: int = 0
    """Epoch with the best value, counted from 1."""


@dataclass
class TrainingState:
    """Everything that training changes. Each worker has one; rank 0 writes it."""

    trainable: Trainable[Any, Any]
    optimizer: torch.optim.Optimizer
    batches: BatchSplitter
    progress: Progress
    history: list[Metrics]
    """Metrics of the finished epochs."""
    loss_sum: Tensor  # (), float64 if the device supports it
    """This worker's part of the sum of losses of the current epoch."""
    epoch_started: float
    """Start of the epoch on the clock `time.perf_counter`, moved back by the time that a resumed
    epoch had already taken."""
    saved_at: float
    """Time of the last checkpoint, on the same clock."""
    average: WeightAverage | None = None
    """The averaged weights of `train.ema`; None without them."""
    best_weights: BestWeights | None = None
    """Weights of the best epoch, until they are written; None if they are in `best.pt`."""
    unsaved_seconds: float = 0.0
    """Training time of the epochs since the last checkpoint, in seconds."""
    batched: int = 0
    """Number of trials, including this one, that train together in batched steps in the current
    epoch; 0 if the trial steps alone."""


def restore(
    trainable: Trainable[Any, Any],
    optimizer: torch.optim.Optimizer,
    batches: BatchSplitter,
    runtime: Runtime,
) -> TrainingState:
    """Load the checkpoint in `runtime.directory`, if there is one, into model and optimizer.

    Returns:
        The state to continue from; `progress.step` is 0 if there is no checkpoint.
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

    # The checkpoint holds the sum over all workers, so only one of them may add it.
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
    state.unsaved_seconds = 0.0


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write `content` atomically: after a kill or a power cut, `path` holds old or new content."""
    with atomic_file(path) as file:
        torch.save(content, file)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Content of a checkpoint, on the CPU. None if there is no file or a disk error has made it
    unreadable; the trial then starts over, with the same result.

    Only tensors and plain containers are unpickled, so nothing in the file can run code.
    """
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception:  # torch has no specific error for a damaged file
        path.unlink()
        return None
    if not isinstance(content, dict) or not content.keys() >= _PARTS:
        path.unlink()
        return None
    return content
