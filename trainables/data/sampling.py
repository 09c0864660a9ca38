"""Which images make the batch of a step: a pure function of (seed, step), so that a resumed run
needs no history."""

from typing import Protocol

import numpy as np
import torch


class BatchSampler(Protocol):
    """What the loop asks of a sampler."""

    batch_size: int
    """Images of every step, over all workers and micro-batches."""
    unit: int
    """Images that belong together, such as an episode's: shares of workers and micro-batches are
    multiples of it. Divides `batch_size`."""

    def positions(self, step: int) -> np.ndarray:
        """Positions (batch_size,) int64 into the training split of global step `step`."""


class Sampler:
    """The training images as one endless stream of shuffled passes; the batch of a step is a slice
    of it, known without history."""

    unit = 1

    def __init__(self, length: int, batch_size: int, seed: int):
        if length < 1:
            raise ValueError(f"`length >= 1` must hold, but got {length=}")
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self._passes: dict[int, np.ndarray] = {}

    def positions(self, step: int) -> np.ndarray:
        """Positions (batch_size,) int64 into the training split of global step `step`."""
        first = step * self.batch_size
        pieces: list[np.ndarray] = []
        missing = self.batch_size
        while missing:
            number, offset = divmod(first + self.batch_size - missing, self.length)
            pieces.append(self._pass(number)[offset : offset + missing])
            missing -= len(pieces[-1])
        return np.concatenate(pieces)

    def _pass(self, number: int) -> np.ndarray:
        if number not in self._passes:
            self._passes = {k: v for k, v in self._passes.items() if k == number - 1}
            self._passes[number] = torch.randperm(
                self.length, generator=generator(self.seed, 1, number)
            ).numpy()
        return self._passes[number]


def generator(seed: int, *place: int) -> torch.Generator:
    """A CPU generator that depends on nothing but (seed, place)."""
    return torch.Generator().manual_seed(
        int(np.random.SeedSequence([seed, *place]).generate_state(1, np.uint64)[0] >> 1)
    )
