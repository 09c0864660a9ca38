"""Images of a split as they are judged: without chance, in batches that memory holds."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.augment.image_ops import Normalization
from trainables.augment.views import evaluation_view
from trainables.data.splits import Split

IMAGES = 256
"""Of a batch, at most."""
PIXELS = 1 << 22
"""Of a batch, at most: 256 images of 128 px. A ResNet50's first map takes 64 bytes a pixel, and a
VGG's 256."""


def batch_size(image_size: int, pixels: int = PIXELS) -> int:
    """Images of a batch of this side."""
    return max(1, min(IMAGES, pixels // image_size**2))


def evaluation_batches(
    split: Split,
    rows: range,  # of the split: a worker's share, or the first few
    config: Any,  # with blocks data and train
    normalize: Normalization,
    device: torch.device,
    pixels: int = PIXELS,
) -> Iterator[Tensor]:  # (b, 3, S, S) float32
    """Evaluation views in order, in the memory format of the config."""
    size, layout = (
        config.data.image_size,
        torch.channels_last if config.train.channels_last else torch.contiguous_format,
    )
    step = batch_size(size, pixels)
    for start in range(rows.start, rows.stop, step):
        images = split.batch(np.arange(start, min(start + step, rows.stop))).to(device)
        yield evaluation_view(images, size, normalize).contiguous(memory_format=layout)
