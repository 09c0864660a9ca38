"""Transfer of batches to the device. On a GPU, the next batch is drawn and copied while the current
one is computed.

A batch is a pure function of its step, so drawing it early changes nothing: every lane returns the
same batches, bit for bit.
"""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from trainables.base import Batch
from trainables.engine.memory import is_out_of_memory


class Lane(Protocol):
    """Moves a batch from where it is drawn to where it is used."""

    is_early: bool
    """True if a batch may be sent before it is needed."""

    def send(self, batch: Batch) -> Batch:
        """Start moving a batch and return at once. The result must not be read yet."""

    def receive(self, batch: Batch) -> Batch:
        """Make what `send` returned safe to use, without waiting on the CPU."""


class DirectLane:
    """For the CPU, where batches already are, and for devices without streams of their own."""

    is_early = False

    def __init__(self, device: torch.device):
        self.device = device

    def send(self, batch: Batch) -> Batch:
        return batch.to(self.device)

    def receive(self, batch: Batch) -> Batch:
        return batch


class SideStream:
    """For a CUDA device: copies through pinned memory, on a second stream beside the computing
    one."""

    is_early = True

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def send(self, batch: Batch) -> Batch:
        # Gathers on the device are queued on the computing stream, where `receive` finds them in
        # order. Only copies from the CPU use the side stream.
        with torch.cuda.stream(self.stream):
            return batch.to(self.device)

    def receive(self, batch: Batch) -> Batch:
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self.stream)
        for tensor in tensors_in(batch):
            if tensor.is_cuda:
                # The tensor's memory belongs to the side stream, which must not reuse it while
                # the computing stream reads it.
                tensor.record_stream(computing)
        return batch


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield all tensors in nested tuples, lists and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors_in(part)
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors_in(getattr(value, field.name))


def lane_to(device: torch.device) -> Lane:
    """Choose the lane to a device."""
    if device.type == "cuda":
        return SideStream(device)
    return DirectLane(device)


class Feed:
    """Batches by step. At most one is sent early.

    Args:
        draw: step -> batch, in any order and any number of times.
    """

    def __init__(self, draw: Callable[[int], Batch], lane: Lane):
        self._draw = draw
        self._lane = lane
        self._early: dict[int, Batch] = {}

    def batch(self, step: int) -> Batch:
        """The batch of a step, on the device."""
        early = self._early.pop(step, None)
        self._early.clear()
        sent = self._lane.send(self._draw(step)) if early is None else early
        return self._lane.receive(sent)

    def send_early(self, step: int) -> None:
        """Draw and send the batch of a later step, if the lane can overlap that with computation.
        Call it after queueing the current step's work on the device."""
        if not self._lane.is_early:
            return
        try:
            self._early = {step: self._lane.send(self._draw(step))}
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):  # of the GPU, or pinned
                raise
            # Memory suffices once the current step has ended.
            self._early = {}
