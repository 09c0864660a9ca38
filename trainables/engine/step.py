"""One step of training: an effective batch shared out over workers and micro-batches, and its
gradients brought together again."""

import contextlib
import gc
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainables.base import Batch, Runtime, Trainable
from trainables.data.sampling import BatchSampler, generator
from trainables.engine import distributed
from trainables.errors import StartAgain, TrialFailed
from trainables.files import write_atomically
from trainables.optim import lr_at

_MICRO = "micro-batch.txt"
_NO_MEMORY = (
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
)


class StepRunner:
    """One optimizer step on an effective batch, in as many micro-batches as memory asks for.

    Raises:
        TrialFailed: `workers` (more of them than a batch has parts, such as episodes).
    """

    def __init__(
        self,
        trainable: Trainable,
        config: Any,
        runtime: Runtime,
        total_steps: int,
        sampler: BatchSampler,
    ):
        self.trainable, self.config, self.runtime, self.total_steps = (
            trainable,
            config,
            runtime,
            total_steps,
        )
        self.sampler, self.unit = sampler, sampler.unit
        self.fewest = max(self.unit, trainable.min_batch_size)
        if (parts := sampler.batch_size // self.unit) < runtime.world_size:
            raise TrialFailed(
                "workers",
                f"{parts} x {self.unit} images of a step for {runtime.world_size} workers; raise train.batch_size",
            )
        self.per_worker = math.ceil(sampler.batch_size / self.unit / runtime.world_size) * self.unit
        micro_batch = min(config.train.micro_batch or self.per_worker, self.per_worker)
        self.asked = self.micro_batch = max(1, micro_batch // self.unit) * self.unit
        if runtime.world_size > 1:
            self.micro_batch = min(self.asked, found_micro_batch(runtime.directory) or self.asked)
        self.autocast = config.train.bf16
        self._wrapped: nn.Module | None = None
        self._trains: list[bool] = []

    def run(self, step: int, optimizer: torch.optim.Optimizer) -> Tensor:
        """This worker's part of the batch's mean loss (scalar, detached; all workers' add up to
        it), after the optimizer's step."""
        config = self.config
        lr = lr_at(step, self.total_steps, config.optim.lr, config.schedule)
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        # Draws are made for the whole batch and shared out, so that the number of workers changes
        # nothing.
        batch = self.trainable.draw(self.sampler.positions(step), generator(config.seed, 2, step))
        share, whole = distributed.shard(len(batch), self.unit), len(batch)
        batch = batch.slice(share.start, share.stop).to(self.runtime.device)
        self.trainable.before_step(step, self.total_steps)
        while True:
            _seed(
                self.runtime.device,
                int(
                    np.random.SeedSequence(
                        [config.seed, 3, self.runtime.rank, step]
                    ).generate_state(1)[0]
                ),
            )
            optimizer.zero_grad(set_to_none=True)
            if (loss := self._accumulate(batch, whole)) is not None:
                break
            self._halve()
        if config.optim.clip_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.trainable.parameters(), config.optim.clip_grad_norm)
        optimizer.step()
        self.trainable.after_step()
        return loss

    def _accumulate(self, batch: Batch, whole: int) -> Tensor | None:
        """Gradients of the mean loss over the `whole` batch, micro-batch by micro-batch; None when
        memory ran out."""
        total = torch.zeros((), dtype=torch.float64, device=self.runtime.device)
        model, micros = self._model(), self._micro_batches(batch, whole)
        try:
            for micro in micros:
                with _exchange(model, last=micro is micros[-1]):
                    with torch.autocast(
                        self.runtime.device.type, torch.bfloat16, enabled=self.autocast
                    ):
                        loss = model(micro) * (len(micro) / whole)
                    # the workers' gradients are averaged, not added
                    (loss * self.runtime.world_size).backward()
                total += loss.detach()
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return None  # the traceback, which holds the activations, ends here
        return total

    def _micro_batches(self, batch: Batch, whole: int) -> list[Batch]:
        """As equal as can be: BatchNorm has no use for a rest of one image. Of several workers
        equally many on every rank, since every forward pass is an exchange; so one may be a unit
        larger than was asked for."""
        count = min(
            math.ceil(self.per_worker / self.micro_batch),
            whole // self.fewest // self.runtime.world_size,
        )
        edges = [len(batch) // self.unit * k // count * self.unit for k in range(count + 1)]
        return [batch.slice(start, stop) for start, stop in itertools.pairwise(edges)]

    def _model(self) -> nn.Module:
        """The trainable; of several workers, wrapped. A wrapper averages the gradients of what
        trained when it was made, so it is made anew when a policy thaws something."""
        if self.runtime.world_size == 1:
            return self.trainable
        trains = [p.requires_grad for p in self.trainable.parameters()]
        if self._wrapped is None or trains != self._trains:
            self._wrapped = None
            gc.collect()  # the old wrapper's hooks leave the parameters with it
            self._wrapped, self._trains = (
                DistributedDataParallel(self.trainable, broadcast_buffers=False),
                trains,
            )
        return self._wrapped

    def _halve(self) -> None:
        if self.micro_batch <= self.fewest:
            raise TrialFailed(
                "oom",
                f"out of memory on {self.runtime.device} even at micro-batch {self.micro_batch}",
            )
        self.micro_batch = math.ceil(self.micro_batch / self.unit / 2) * self.unit
        if self.runtime.world_size > 1:
            # The others are within an exchange that this rank has left, and no message reaches them
            # there.
            write_atomically(self.runtime.directory / _MICRO, str(self.micro_batch))
            raise StartAgain(
                f"out of memory on rank {self.runtime.rank}: micro-batches of {self.micro_batch} from now on"
            )
        if self.runtime.device.type == "cuda":
            torch.cuda.empty_cache()


def found_micro_batch(directory: Path) -> int | None:
    """What several workers wrote down when one of them ran out of memory; None where none has."""
    return int((directory / _MICRO).read_text()) if (directory / _MICRO).exists() else None


def _exchange(model: nn.Module, last: bool) -> contextlib.AbstractContextManager[None]:
    """Gradients are averaged once, in the last micro-batch's backward pass."""
    return (
        contextlib.nullcontext()
        if last or not isinstance(model, DistributedDataParallel)
        else model.no_sync()
    )


def _seed(device: torch.device, seed: int) -> None:
    """The generators that a forward pass draws from. Without an accelerator `torch.manual_seed`
    notes the seed for each kind of one with a formatted traceback, which takes as long as a step on
    kept features."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def is_out_of_memory(error: BaseException) -> bool:
    """torch's own class; what its allocator does not allocate (on a CPU, or for cuBLAS and cuDNN)
    fails as a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        words in str(error) for words in _NO_MEMORY
    )
