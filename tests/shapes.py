"""Images with masks that are made in milliseconds: squares and discs on a background, each class in
its own colour, with noise."""

from dataclasses import replace
from typing import Any

import numpy as np

from trainables.base import TrainConfig
from trainables.data import IGNORE, DataConfig, DataSet, Split
from trainables.optim import OptimConfig, ScheduleConfig
from trainables.segmentation import Segmentation, SegmentationConfig

SIZE = 32
CLASSES = ("ground", "square", "disc")
COLORS = ((90, 120, 60), (200, 60, 60), (60, 60, 200))


def shapes(train: int = 48, val: int = 12, seed: int = 0) -> DataSet:
    """Make the data set. The first row of every image is of unknown class."""
    rng, n = np.random.default_rng(seed), train + 2 * val
    masks = np.zeros((n, SIZE, SIZE), np.uint8)
    y, x = np.mgrid[:SIZE, :SIZE]
    for mask in masks:
        cy, cx, r = *rng.integers(6, SIZE - 6, 2), rng.integers(4, 8)
        mask[(abs(y - cy) < r) & (abs(x - cx) < r)] = 1
        cy, cx = rng.integers(6, SIZE - 6, 2)
        mask[(y - cy) ** 2 + (x - cx) ** 2 < r * r] = 2
    images = np.array(COLORS, np.int64)[masks] + rng.integers(-50, 51, (n, SIZE, SIZE, 1))
    images = np.ascontiguousarray(images.clip(0, 255).astype(np.uint8).transpose(0, 3, 1, 2))
    masks[:, 0] = IGNORE
    rows = np.split(np.arange(n), [train, train + val])
    splits = [Split(images, None, r, mask_images=masks) for r in rows]
    return DataSet(
        name="shapes",
        fingerprint="5" * 32,
        classes=CLASSES,
        train=splits[0],
        gallery=None,
        val=splits[1],
        test=splits[2],
        skipped=(),
        colors=COLORS,
    )


class Shapes(Segmentation):
    """The real trainable on these images."""

    @classmethod
    def load_data(cls, config: DataConfig, progress: bool = False) -> DataSet:
        return shapes(seed=config.seed)


def shapes_config(**changes: Any) -> SegmentationConfig:
    base = SegmentationConfig(
        data=DataConfig(name="shapes", image_size=SIZE),
        optim=OptimConfig(name="adamw", lr=1e-2, weight_decay=0.01),
        schedule=ScheduleConfig(name="polynomial"),
        train=TrainConfig(epochs=3, epoch_images=32, batch_size=8),
    )
    return replace(base, backbone=replace(base.backbone, width=8, pool=1), **changes)
