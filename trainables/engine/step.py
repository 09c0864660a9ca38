"""An effective batch: its images, divided among workers and split into micro-batches.

`fit.train_step` takes the step itself.
"""

import contextlib
import functools
import gc
import itertools
import math
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from trainables.base import Batch, RunConfig, Runtime, Trainable
from trainables.data.sampling import BatchSampler, generator
from trainables.engine import distributed
from trainables.engine.feed import Feed, lane_to
from trainables.errors import StartAgain, TrialFailed
from trainables.files import write_atomically

_MICRO = "micro-batch.txt"


class RunningStatistics:
    """Statistics of the BatchNorm layers in training mode, so that a discarded forward pass leaves
    them unchanged."""

    def __init__(self, module: nn.Module):
        self._layers = [part for part in module.modules() if isinstance(part, _BatchNorm)]
        # Means and variances, and batch counts: lists with one dtype each, which a GPU copies in a
        # few kernels.
        self._buffers: list[list[Tensor]] = [[], []]
        self._kept: list[list[Tensor]] = [[], []]

    @torch.no_grad()
    def keep(self) -> None:
        """Save the current statistics."""
        training = [layer for layer in self._layers if layer.training]
        buffers = [buffer for layer in training for buffer in layer.buffers()]
        statistics = [buffer for buffer in buffers if buffer.is_floating_point()]
        counts = [buffer for buffer in buffers if not buffer.is_floating_point()]
        self._buffers = [statistics, counts]
        self._kept = [[torch.empty_like(x) for x in some] for some in self._buffers]
        _copy_all(self._kept, self._buffers)

    @torch.no_grad()
    def restore(self) -> None:
        """Undo all updates since `keep`."""
        _copy_all(self._buffers, self._kept)


def _copy_all(targets: list[list[Tensor]], sources: list[list[Tensor]]) -> None:
    for some, values in zip(targets, sources, strict=True):
        if some:
            torch._foreach_copy_(some, values)


class BatchSplitter:
    """Draws this worker's share of an effective batch and splits it to fit into memory.

    Raises:
        TrialFailed: `workers`, if there are more workers than units, such as episodes, in a batch.
    """

    def __init__(
        self,
        trainable: Trainable[Any, Any],
        config: RunConfig,
        runtime: Runtime,
        sampler: BatchSampler,
    ):
        self.trainable = trainable
        self.config = config
        self.runtime = runtime
        self.sampler = sampler
        self.batch_size = sampler.batch_size  # over all workers, in images
        self.unit = sampler.unit  # images that stay together
        self.min_images = max(self.unit, trainable.min_batch_size)  # of a micro-batch
        self.share_size = self._share_size()
        self.requested = self._requested_micro_batch()
        self.micro_batch = self.requested
        if runtime.world_size > 1:
            self.limit(found_micro_batch(runtime.directory) or 0)
        self.statistics = RunningStatistics(trainable)
        # A reference cycle would keep an ended trial's network until Python's garbage collector
        # runs.
        this = weakref.proxy(self)
        self.feed = Feed(lambda step: this.draw_share(step), lane_to(runtime.device))
        self._wrapped: DistributedDataParallel | None = None
        self._wrapped_trains: list[bool] = []

    def _share_size(self) -> int:
        """Number of images in the largest share of a worker."""
        units = self.batch_size // self.unit
        workers = self.runtime.world_size
        if units < workers:
            raise TrialFailed(
                "workers",
                f"{units} x {self.unit} images of a step for {workers} workers; "
                "raise train.batch_size",
            )
        return math.ceil(self.batch_size / self.unit / workers) * self.unit

    def _requested_micro_batch(self) -> int:
        """Micro-batch that the config asks for, in images; a whole number of units."""
        images = min(self.config.train.micro_batch or self.share_size, self.share_size)
        return max(1, images // self.unit) * self.unit

    def draw_share(self, step: int) -> Batch:
        """Draw this worker's share of the batch of `step`.

        Augmentation is drawn for the whole batch, so the number of workers changes nothing.
        """
        positions = self.sampler.positions(step)
        batch = self.trainable.draw(positions, generator(self.config.seed, 2, step))
        share = distributed.shard(len(batch), self.unit)
        return batch.slice(share.start, share.stop)

    def split(self, share: Batch) -> list[Batch]:
        """Split a share into micro-batches of nearly equal size: BatchNorm needs more than one
        image.

        Every rank gets the same number of micro-batches, because every forward pass is a
        collective. So one of them may be a unit larger than requested.
        """
        needed = math.ceil(self.share_size / self.micro_batch)
        possible = self.batch_size // self.min_images // self.runtime.world_size
        count = min(needed, possible)
        units = len(share) // self.unit
        edges = [units * k // count * self.unit for k in range(count + 1)]
        return [share.slice(start, stop) for start, stop in itertools.pairwise(edges)]

    def limit(self, micro_batch: int) -> None:
        """Allow at most `micro_batch` images in a micro-batch; 0: no limit."""
        if micro_batch:
            self.micro_batch = min(self.micro_batch, micro_batch)

    @property
    def reduced_micro_batch(self) -> int:
        """Size of a micro-batch, in images, if memory allowed fewer than requested; otherwise 0."""
        return self.micro_batch if self.micro_batch < self.requested else 0

    def halve(self) -> None:
        """Halve the micro-batch after memory ran out.

        Raises:
            TrialFailed: `oom`, if it cannot be smaller.
            StartAgain: with several workers, because this one left a collective in which the others
                wait.
        """
        device = self.runtime.device
        if self.micro_batch <= self.min_images:
            raise TrialFailed(
                "oom", f"out of memory on {device} even at micro-batch {self.micro_batch}"
            )
        half_units = math.ceil(self.micro_batch / self.unit / 2)
        self.micro_batch = half_units * self.unit
        if self.runtime.world_size > 1:
            # Messages cannot reach the others inside the collective, so leave them a file.
            write_atomically(self.runtime.directory / _MICRO, str(self.micro_batch))
            raise StartAgain(
                f"out of memory on rank {self.runtime.rank}: "
                f"micro-batches of {self.micro_batch} from now on"
            )
        if device.type == "cuda":
            torch.cuda.empty_cache()

    def model(self) -> nn.Module:
        """The trainable; with several workers, inside a wrapper that averages gradients.

        The wrapper averages only parameters that required gradients when it was created, so create
        a new one after a freeze policy has thawed something.
        """
        if self.runtime.world_size == 1:
            return self.trainable
        trains = [parameter.requires_grad for parameter in self.trainable.parameters()]
        if self._wrapped is None or trains != self._wrapped_trains:
            self._wrapped = None
            gc.collect()  # also removes the old wrapper's hooks from the parameters
            # Gradients are views of the exchanged buckets, which saves copying them. BatchNorm
            # statistics are already equal on all ranks.
            self._wrapped = DistributedDataParallel(
                self.trainable, broadcast_buffers=False, gradient_as_bucket_view=True
            )
            self._wrapped_trains = trains
        return self._wrapped


def found_micro_batch(directory: Path) -> int | None:
    """Micro-batch that a worker group wrote down when one of them ran out of memory; else None."""
    path = directory / _MICRO
    return int(path.read_text()) if path.exists() else None


def gradient_exchange(model: nn.Module, is_last: bool) -> contextlib.AbstractContextManager[None]:
    """Context of a backward pass: workers average gradients only in the last micro-batch."""
    if is_last or not isinstance(model, DistributedDataParallel):
        return contextlib.nullcontext()
    exchange_off: contextlib.AbstractContextManager[None] = model.no_sync()
    return exchange_off


def seed_forward_pass(seed: int, step: int, runtime: Runtime) -> None:
    """Seed the global generators that a forward pass uses, for dropout for example."""
    seed_generators(forward_seed(seed, step, runtime.rank), runtime.device)


@functools.lru_cache(maxsize=64)
def forward_seed(seed: int, step: int, rank: int) -> int:
    """Seed of a forward pass; trials with the same seed share it."""
    sequence = np.random.SeedSequence([seed, 3, rank, step])
    return int(sequence.generate_state(1)[0])


def seed_generators(state: int, device: torch.device) -> None:
    """Seed the global generators of the CPU and of a device."""
    if device.type == "mps":
        torch.manual_seed(state)
        return

    # `torch.manual_seed` formats a traceback for each missing kind of accelerator, which takes as
    # long as a step on cached features.
    torch.default_generator.manual_seed(state)
    if device.type == "cuda":
        torch.cuda.manual_seed(state)
