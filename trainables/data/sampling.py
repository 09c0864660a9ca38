"""The images of each step's batch: a pure function of (seed, step), so that a resumed run needs no
history."""

from typing import Protocol

import numpy as np
import torch


class BatchSampler(Protocol):
    """The interface of a sampler to the training loop."""

    batch_size: int
    """Number of images in every step, over all workers and micro-batches."""
    unit: int
    """Number of images that belong together, such as an episode's: shares of workers and
    micro-batches are multiples of it. Divides `batch_size`."""

    def positions(self, step: int) -> np.ndarray:
        """Positions (batch_size,) int64 into the training split of global step `step`."""


class Sampler:
    """The training images as one endless stream of shuffled passes. The batch of a step is a slice
    of the stream, known without history."""

    unit = 1

    def __init__(self, length: int, batch_size: int, seed: int):
        if length < 1:
            raise ValueError(f"`length >= 1` must hold, but got {length=}")
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self._passes: dict[int, np.ndarray] = {}

    def positions(self, step: int) -> np.ndarray:
        """Positions (batch_size,) int64 into the training split of global step `step`."""
        pieces: list[np.ndarray] = []
        position = step * self.batch_size  # in the stream
        end = position + self.batch_size
        while position < end:
            number, offset = divmod(position, self.length)
            piece = self._pass(number)[offset : offset + end - position]
            pieces.append(piece)
            position += len(piece)
        return np.concatenate(pieces)

    def _pass(self, number: int) -> np.ndarray:  # (length,) int64
        """A shuffle of all images. Only the latest two are kept: a batch reaches over both."""
        if number not in self._passes:
            before = number - 1
            self._passes = {kept: p for kept, p in self._passes.items() if kept == before}
            source = generator(self.seed, 1, number)
            shuffle = torch.randperm(self.length, generator=source)
            self._passes[number] = shuffle.numpy()
        return self._passes[number]


def generator(seed: int, *place: int) -> torch.Generator:
    """A CPU generator that depends on nothing but (seed, place)."""
    sequence = np.random.SeedSequence([seed, *place])
    state = int(sequence.generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state >> 1)
