"""Training on classes of unequal size: a weighted loss, or batches with all classes equally often.

Accuracy mostly measures the large classes. If the small ones matter as much, select by
`--objective val/macro_f1` or `val/balanced_accuracy`, and search over these options:

    python tune/run.py classify --data FOLDER --objective val/macro_f1 --balance
    python tune/run.py classify --data FOLDER --set balance.by=effective

Weights are scaled to a mean of 1 over the training images, so the learning rate keeps its
meaning.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from trainables.config import Annotated, Field, config
from trainables.data.sampling import generator

_CLASSES = 2  # streams of random numbers under one seed; `Sampler` uses stream 1
_MEMBERS = 3


@config
class BalanceConfig:
    """The weight of a class in training."""

    by: Literal["none", "inverse", "effective", "sampling"] = "none"
    """none: every image counts alike. inverse: an image of a class with n images weighs 1 / n.
    effective: it weighs (1 - beta) / (1 - beta^n), by the effective number of images (Cui et al.
    2019, equation 2). sampling: batches have every class equally often."""
    beta: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """effective only: in [0, 1). 0 means no weighting; near 1 it approaches `inverse`."""


def image_weights(
    counts: np.ndarray,  # (C,) training images of each class
    config: BalanceConfig,
) -> Tensor | None:  # (C,) float32
    """Weight of an image of each class, scaled to a mean of 1 over the training images. A class
    without images weighs 0. None if all images count equally."""
    if config.by not in ("inverse", "effective"):
        return None

    present = counts > 0
    number = np.maximum(counts, 1).astype(float)
    if config.by == "inverse":
        weights = 1 / number
    else:
        # expm1: for beta near 1, computing 1 - beta^n directly would lose precision
        log_beta = np.log(max(config.beta, 1e-300))
        weights = -(1 - config.beta) / np.expm1(number * log_beta)

    weights = np.where(present, weights, 0.0)
    mean = (weights * counts).sum() / counts.sum()
    return torch.from_numpy(weights / mean).float()


class BalancedSampler:
    """An endless stream of training images in which each round has one image of every class, in
    shuffled order. Each class goes through its own images in shuffled passes. A step's batch is a
    slice of the stream and is computed without any history.

    Args:
        labels: (n,) class of every training image.
    """

    unit = 1

    def __init__(self, labels: np.ndarray, batch_size: int, seed: int):
        self.batch_size = batch_size
        self.seed = seed
        self.classes = np.unique(labels)
        self._members = [np.flatnonzero(labels == label) for label in self.classes]

    def positions(self, step: int) -> np.ndarray:
        """Positions (batch_size,) int64 into the training split of global step `step`."""
        count = len(self.classes)
        first = step * self.batch_size
        last = first + self.batch_size - 1
        chosen: list[int] = []
        for number in range(first // count, last // count + 1):
            order = self._shuffled(count, _CLASSES, number)
            chosen += [self._image(place, number) for place in order.tolist()]

        start = first % count
        return np.array(chosen[start : start + self.batch_size], np.int64)

    def _image(self, place: int, number: int) -> int:
        """The image that stands for a class in one round."""
        members = self._members[place]
        passed, offset = divmod(number, len(members))
        order = self._shuffled(len(members), _MEMBERS, place, passed)
        return int(members[order[offset]])

    def _shuffled(self, length: int, *stream: int) -> np.ndarray:
        source = generator(self.seed, *stream)
        return torch.randperm(length, generator=source).numpy()
