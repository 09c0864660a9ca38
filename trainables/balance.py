"""Training on classes of different sizes: weights of the loss, or batches of all classes alike.

Accuracy is won on the large classes. Where the small ones matter as much, select by
`--objective val/macro_f1` or `val/balanced_accuracy`, and let a search try what is here:

    python tune/run.py classify --data FOLDER --objective val/macro_f1 --balance
    python tune/run.py classify --data FOLDER --set balance.by=effective

Weights are scaled so that the mean over the training images is 1: the learning rate keeps its
meaning.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from trainables.config import Annotated, Field, config
from trainables.data.sampling import generator

_CLASSES = 2  # streams of random numbers by seed: `Sampler` has 1
_MEMBERS = 3


@config
class BalanceConfig:
    """The weight of a class in training."""

    by: Literal["none", "inverse", "effective", "sampling"] = "none"
    """none: every image counts alike. inverse: an image of a class with n images weighs 1 / n.
    effective: it weighs (1 - beta) / (1 - beta^n), by the effective number of images (Cui et al.
    2019, equation 2). sampling: batches have every class equally often."""
    beta: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """effective only: in [0, 1). 0 is no weight, towards 1 it becomes `inverse`."""


def image_weights(
    counts: np.ndarray,  # (C,) training images of each class
    config: BalanceConfig,
) -> Tensor | None:  # (C,) float32
    """Weight of an image by its class, scaled so that the mean over the training images is 1; None
    where all count alike. A class without an image weighs 0."""
    if config.by not in ("inverse", "effective"):
        return None

    present = counts > 0
    number = np.maximum(counts, 1).astype(float)
    if config.by == "inverse":
        weights = 1 / number
    else:
        # expm1: of a small 1 - beta, the difference from 1 would lose its digits
        log_beta = np.log(max(config.beta, 1e-300))
        weights = -(1 - config.beta) / np.expm1(number * log_beta)

    weights = np.where(present, weights, 0.0)
    mean = (weights * counts).sum() / counts.sum()
    return torch.from_numpy(weights / mean).float()


class BalancedSampler:
    """An endless stream in which every class comes once a round, in a shuffled order, and with its
    own images in shuffled passes. The batch of a step is a slice of the stream, known without
    history.

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
        """The image of a class in one round."""
        members = self._members[place]
        passed, offset = divmod(number, len(members))
        order = self._shuffled(len(members), _MEMBERS, place, passed)
        return int(members[order[offset]])

    def _shuffled(self, length: int, *stream: int) -> np.ndarray:
        source = generator(self.seed, *stream)
        return torch.randperm(length, generator=source).numpy()
