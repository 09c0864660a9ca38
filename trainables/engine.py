"""The only training loop. Everything that is random in it is a function of (seed, epoch, step), so that a run which was killed and
resumed equals the run which was not, bit for bit on a CPU."""

import contextlib
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.base import Batch, Metrics, Runtime, Trainable
from trainables.errors import TrialFailed
from trainables.optim import build_optimizer, lr_at
from trainables.sampling import BatchSampler, generator
from trainables.snapshots import snapshot_epochs

LAST = "last.pt"
BEST = "best.pt"
_CUDA_NAN_CHECK_STEPS = 10  # reading the loss stalls a GPU's queue; a CPU has none


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
    micro_batch: int = 0
    best: float = -math.inf
    best_epoch: int = 0


def steps_per_epoch(config: Any, train_images: int, batch_size: int) -> int:
    """Whole batches in an epoch, at least one."""
    return max(1, (config.train.epoch_images or train_images) // batch_size)


def fit(trainable: Trainable, config: Any, runtime: Runtime) -> Fitted:
    """Train, validate and report epoch by epoch, going on from the checkpoint in `runtime.directory` where there is one.

    Args:
        trainable: built under `torch.manual_seed(config.seed)` and moved to `runtime.device`.
        config: frozen config with blocks `train`, `optim`, `schedule` and `seed`.
    Raises:
        TrialFailed: `nan` (the loss is not finite), `oom` (out of memory at micro-batch 1), or what `trainable.check` finds.
    """
    train = config.train
    sampler = trainable.sampler()
    per_epoch = steps_per_epoch(config, len(trainable.data.train), sampler.batch_size)
    total = per_epoch * train.epochs
    optimizer = build_optimizer(trainable.param_groups(config.optim.weight_decay), config.optim)
    step_runner = StepRunner(trainable, config, runtime, total, sampler)
    progress, history = Progress(micro_batch=step_runner.micro_batch), []
    if (saved := load_checkpoint(runtime.directory / LAST)) is not None:
        trainable.load_changing_state(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        progress, history = Progress(**saved["progress"]), saved["history"]
        step_runner.micro_batch = progress.micro_batch
        # The kill may have come between the checkpoint and its report: report again, the study ignores what it has.
        if history and progress.step == len(history) * per_epoch and not runtime.report(len(history), history[-1]):
            return Fitted(history, progress.best_epoch, progress.best, stopped=len(history) < train.epochs)
        trainable.check(history)

    def save() -> None:
        progress.loss_sum = float(loss_sum)
        progress.epoch_seconds = time.perf_counter() - started
        progress.micro_batch = step_runner.micro_batch
        if runtime.rank == 0:
            model = trainable.changing_state()
            state = {"model": model, "optimizer": optimizer.state_dict(), "progress": vars(progress), "history": history}
            save_checkpoint(runtime.directory / LAST, state)

    loss_sum = torch.tensor(progress.loss_sum, dtype=torch.float64, device=runtime.device)
    started = saved_at = time.perf_counter()
    started -= progress.epoch_seconds
    while progress.step < total:
        trainable.train()
        loss_sum += step_runner.run(progress.step, optimizer)
        progress.step += 1
        if (runtime.device.type == "cpu" or progress.step % _CUDA_NAN_CHECK_STEPS == 0) and not torch.isfinite(loss_sum):
            raise TrialFailed("nan", f"the loss is {float(loss_sum)} at step {progress.step} of {total}")
        if progress.step % per_epoch == 0:
            seconds, images = time.perf_counter() - started, per_epoch * sampler.batch_size
            metrics = _epoch_metrics(float(loss_sum) / per_epoch, seconds, images, config, progress.step, total)
            if step_runner.micro_batch < step_runner.asked:
                metrics["train/micro_batch"] = step_runner.micro_batch
            metrics |= trainable.validate()
            metrics |= trainable.costs()
            if not math.isfinite(metrics[trainable.objective]):
                raise TrialFailed("nan", f"{trainable.objective} is {metrics[trainable.objective]} after epoch {len(history) + 1}")
            history.append(metrics)
            _keep_best(trainable, runtime, progress, history)
            if runtime.rank == 0 and len(history) in snapshot_epochs(train.epochs):
                trainable.snapshot(runtime.directory, len(history))
            loss_sum.zero_()
            started = saved_at = time.perf_counter()
            save()
            if not runtime.report(len(history), metrics):
                return Fitted(history, progress.best_epoch, progress.best, stopped=len(history) < train.epochs)
            trainable.check(history)
        elif time.perf_counter() - saved_at > 60 * train.checkpoint_minutes:
            save()
            saved_at = time.perf_counter()
    return Fitted(history, progress.best_epoch, progress.best, stopped=False)


class StepRunner:
    """One optimizer step on an effective batch, in as many micro-batches as memory asks for."""

    def __init__(self, trainable: Trainable, config: Any, runtime: Runtime, total_steps: int, sampler: BatchSampler):
        self.trainable, self.config, self.runtime, self.total_steps = trainable, config, runtime, total_steps
        self.sampler, self.unit = sampler, sampler.unit
        self.per_worker = math.ceil(sampler.batch_size / self.unit / runtime.world_size) * self.unit
        micro_batch = min(config.train.micro_batch or self.per_worker, self.per_worker)
        self.asked = self.micro_batch = max(1, micro_batch // self.unit) * self.unit
        self.autocast = config.train.bf16

    def run(self, step: int, optimizer: torch.optim.Optimizer) -> Tensor:
        """Mean loss over this worker's share of the batch (scalar, detached), after the optimizer's step."""
        config = self.config
        lr = lr_at(step, self.total_steps, config.optim.lr, config.schedule)
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        # Draws are made for the whole batch and shared out, so that the number of workers changes nothing.
        batch = self.trainable.draw(self.sampler.positions(step), generator(config.seed, 2, step))
        share = self.runtime.rank * self.per_worker
        batch = batch.slice(share, share + self.per_worker).to(self.runtime.device)
        self.trainable.before_step(step, self.total_steps)
        while True:
            _seed(self.runtime.device, int(np.random.SeedSequence([config.seed, 3, self.runtime.rank, step]).generate_state(1)[0]))
            optimizer.zero_grad(set_to_none=True)
            if (loss := self._accumulate(batch)) is not None:
                break
            self._halve()
        if config.optim.clip_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.trainable.parameters(), config.optim.clip_grad_norm)
        optimizer.step()
        self.trainable.after_step()
        return loss

    def _accumulate(self, batch: Batch) -> Tensor | None:
        """Gradients of the mean loss, micro-batch by micro-batch; None when memory ran out."""
        total = torch.zeros((), dtype=torch.float64, device=self.runtime.device)
        try:
            for start in range(0, len(batch), self.micro_batch):
                micro = batch.slice(start, start + self.micro_batch)
                with torch.autocast(self.runtime.device.type, torch.bfloat16, enabled=self.autocast):
                    loss = self.trainable(micro) * (len(micro) / len(batch))
                loss.backward()
                total += loss.detach()
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return None  # the traceback, which holds the activations, ends here
        return total

    def _halve(self) -> None:
        if self.micro_batch == self.unit:
            raise TrialFailed("oom", f"out of memory on {self.runtime.device} even at micro-batch {self.unit}")
        self.micro_batch = math.ceil(self.micro_batch / self.unit / 2) * self.unit
        if self.runtime.device.type == "cuda":
            torch.cuda.empty_cache()


def _seed(device: torch.device, seed: int) -> None:
    """The generators that a forward pass draws from. Without an accelerator `torch.manual_seed` notes the seed for each kind of one with a
    formatted traceback, which takes as long as a step on kept features."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def is_out_of_memory(error: BaseException) -> bool:
    """CUDA's own class; a CPU allocation that fails is a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _epoch_metrics(loss: float, seconds: float, images: int, config: Any, step: int, total: int) -> Metrics:
    return {
        "train/loss": loss,
        "train/lr": lr_at(step - 1, total, config.optim.lr, config.schedule),
        "time/epoch_s": seconds,
        "time/images_per_s": images / seconds,
    }


def _keep_best(trainable: Trainable, runtime: Runtime, progress: Progress, history: list[Metrics]) -> None:
    value = history[-1][trainable.objective]
    if value > progress.best:
        progress.best, progress.best_epoch = value, len(history)
        if runtime.rank == 0:
            trainable.export(runtime.directory / BEST, {"epoch": len(history), trainable.objective: value})


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Atomic and durable: after a kill or a power cut the path holds the old state or the new one."""
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError):  # torch makes a RuntimeError of a full disk
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state, on the CPU; None where there is none yet. Plain tensors and containers only: nothing in it can run code."""
    if not path.exists():
        return None
    return torch.load(path, map_location="cpu", weights_only=True)
