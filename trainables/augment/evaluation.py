"""Evaluation batches: the images of a split without random augmentation, in batches that fit into
memory."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.augment.image_ops import Normalization
from trainables.augment.views import evaluation_view, whole_view
from trainables.data.splits import Split
from trainables.devices import send

IMAGES = 256
"""Largest number of images in a batch."""
PIXELS = 1 << 22
"""Largest number of pixels in a batch: 256 images of 128 px. A ResNet50's first map takes 64 bytes
per pixel, a VGG's 256."""


def batch_size(image_size: int, pixels: int = PIXELS) -> int:
    """Number of images with this side in a batch."""
    return max(1, min(IMAGES, pixels // image_size**2))


def evaluation_batches(
    split: Split,
    rows: range,  # positions in the split: a worker's share, or the first few
    config: Any,  # with blocks data and train
    normalize: Normalization,
    device: torch.device,
    pixels: int = PIXELS,
) -> Iterator[Tensor]:  # (b, 3, S, S) float32
    """Yield evaluation views in order, in the memory format of the config."""
    size = config.data.image_size
    layout = torch.channels_last if config.train.channels_last else torch.contiguous_format
    step = batch_size(size, pixels)
    for start in range(rows.start, rows.stop, step):
        positions = np.arange(start, min(start + step, rows.stop))
        images = send(split.input_batch(positions), device)
        views = evaluation_view(images, size, normalize)
        yield views.contiguous(memory_format=layout)


def whole_batches(
    split: Split,
    rows: range,  # positions in the split
    config: Any,  # with a block train
    normalize: Normalization,
    device: torch.device,
    pixels: int = PIXELS,
) -> Iterator[tuple[np.ndarray, Tensor]]:  # (b,) positions, and (b, 3, h, w) float32
    """Yield evaluation views of whole images, batched by shape, with at most `pixels` in a
    batch."""
    assert split.whole is not None
    layout = torch.channels_last if config.train.channels_last else torch.contiguous_format
    of_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
    for position in rows:
        of_shape[split.whole.shape(split.indices[position])].append(position)

    for (height, width), positions in sorted(of_shape.items()):
        step = max(1, min(IMAGES, pixels // (height * width)))
        for start in range(0, len(positions), step):
            chosen = np.array(positions[start : start + step])
            images = send(split.whole_batch(chosen), device)
            yield chosen, whole_view(images, normalize).contiguous(memory_format=layout)
