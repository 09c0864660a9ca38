"""Two strong views of each image, the same for every network, on which a study evaluates
representations without labels."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from trainables.augment.evaluation import batch_size
from trainables.augment.image_ops import Normalization
from trainables.augment.view_config import AugmentConfig
from trainables.augment.views import Augment
from trainables.data.splits import Split
from trainables.devices import send

STRONG = AugmentConfig(
    crop_scale_min=0.3,
    rotate=20.0,
    jitter=1.0,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    blur=1.0,
)
"""The policy of these views, independent of a trial's own. If a trial could choose it, the result
would depend on how easy its views are."""
_SEEDS = (1, 2)  # of the two views


class FixedViews:
    """Two views of the first `count` images of a split. The images, the parameters of each and
    their order do not depend on batches, workers or calls."""

    def __init__(
        self,
        count: int,
        image_size: int,  # S, pixels
        normalize: Normalization,
        up: str,  # `data.up`; "unset" means "horizontal", as in the published policies
    ):
        policy = turned(STRONG, up)
        self.count = count
        self.image_size = image_size
        self.augment = Augment(replace(policy, normalize=normalize), image_size)
        self.draws = tuple(
            self.augment.draw(count, torch.Generator().manual_seed(seed)) for seed in _SEEDS
        )

    def batches(
        self,
        split: Split,
        rows: range,  # positions in the split: a worker's share
        view: int,  # 0 or 1
        device: torch.device,
    ) -> Iterator[Tensor]:  # (b, 3, S, S) float32
        """Yield one view of these images, in order."""
        step = batch_size(self.image_size)
        for start in range(rows.start, rows.stop, step):
            stop = min(start + step, rows.stop)
            images = send(split.input_batch(np.arange(start, stop)), device)
            yield self.augment.apply(images, self.draws[view][start:stop])


def turned(policy: AugmentConfig, up: str) -> AugmentConfig:
    """The policy with flips and quarter turns that keep images valid: letters, for example, are not
    mirrored.

    Args:
        up: `data.up`.
    """
    if up == "none":
        return policy
    if up == "all":
        return replace(policy, hflip=0.5, vflip=0.5, rot90=0.75)
    return replace(policy, hflip=0.5)


def even_positions(length: int, count: int) -> np.ndarray:  # (min(length, count),) int64
    """All positions, or `count` of them at even steps."""
    count = min(length, count)
    return np.arange(count) * length // count


def even_part(split: Split, count: int) -> Split:
    """The split, or `count` of its images at even steps if it has more, because a split may be
    sorted by class."""
    if len(split) <= count:
        return split
    return replace(split, indices=split.indices[even_positions(len(split), count)])
