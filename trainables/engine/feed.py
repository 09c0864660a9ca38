"""The way of batches to the device: on a GPU the next one is drawn and copied while the current one
is computed on.

A batch is a pure function of its step, so being early changes nothing: every lane gives the same
batches, bit for bit.
"""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from trainables.base import Batch


class Lane(Protocol):
    """The way of a batch from where it is drawn to where it is used."""

    is_early: bool
    """A batch may be sent before it is needed."""

    def send(self, batch: Batch) -> Batch:
        """Begin to move a batch, and return at once. The result must not be read yet."""

    def receive(self, batch: Batch) -> Batch:
        """Make what `send` returned safe to use, without waiting on the CPU."""


class DirectLane:
    """To the CPU, where the batch is already, or to a device without streams of its own."""

    is_early = False

    def __init__(self, device: torch.device):
        self.device = device

    def send(self, batch: Batch) -> Batch:
        return batch.to(self.device)

    def receive(self, batch: Batch) -> Batch:
        return batch


class SideStream:
    """To a CUDA device, through pinned memory and on a stream beside the one that computes."""

    is_early = True

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def send(self, batch: Batch) -> Batch:
        # What was gathered on the device was put into the queue of the computing stream, where
        # `receive` finds it in order: only copies from the CPU go beside it.
        with torch.cuda.stream(self.stream):
            return batch.to(self.device)

    def receive(self, batch: Batch) -> Batch:
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self.stream)
        for tensor in tensors_in(batch):
            if tensor.is_cuda:
                # Its memory belongs to the side stream, which must not hand it out again while
                # this one reads it.
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
    """Batches by step, at most one of them early.

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
        """Draw and send the batch of a later step, where that overlaps with anything. Called when
        the work of the current step has been put into the device's queue."""
        if not self._lane.is_early:
            return
        try:
            self._early = {step: self._lane.send(self._draw(step))}
        except torch.OutOfMemoryError:
            # There is room for it when the current step has ended.
            self._early = {}
