"""The choice of each step's images: a pure function of (seed, step), so a resumed run needs no
history."""

from typing import Protocol

import numpy as np
import torch


class BatchSampler(Protocol):
    """The sampler interface that the training loop uses."""

    batch_size: int
    """Number of images in every step, over all workers and micro-batches."""
    unit: int
    """Number of images that stay together, such as an episode's. Shares of workers and
    micro-batches are multiples of it, and it divides `batch_size`."""

    def positions(self, step: int) -> np.ndarray:
        """Positions (batch_size,) int64 into the training split of global step `step`."""


class Sampler:
    """The training images as one endless stream of shuffled passes. A step's batch is a slice of
    the stream and is computed without any history."""

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
        """A shuffle of all images. Only the latest two are kept, because a batch may span both."""
        if number not in self._passes:
            before = number - 1
            self._passes = {kept: p for kept, p in self._passes.items() if kept == before}
            source = generator(self.seed, 1, number)
            shuffle = torch.randperm(self.length, generator=source)
            self._passes[number] = shuffle.numpy()
        return self._passes[number]


def generator(seed: int, *place: int) -> torch.Generator:
    """A CPU generator that depends only on (seed, place)."""
    sequence = np.random.SeedSequence([seed, *place])
    state = int(sequence.generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state >> 1)
