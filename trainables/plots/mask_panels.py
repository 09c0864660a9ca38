"""Images, truths and predictions of segmentation on panels of one size, drawn by `masks.py`."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from trainables.data import IGNORE, Split
from trainables.plots.snapshots import NO_IMAGE


def mask_panels(
    shown: Split,
    predictions: Iterable[tuple[np.ndarray, Tensor, Tensor]],
) -> dict[str, np.ndarray]:
    """Images (n, 3, H, W), truths and predictions (n, H, W), uint8, on panels of the size of the
    largest image.

    An image is at the top left of its panel. The rest of the panel is white, and `NO_IMAGE` in
    masks.

    Args:
        predictions: positions (b,), logits (b, C, h, w) and masks (b, h, w) of all images.
    """
    count = len(shown)
    heights, widths = _sides(shown)
    panel = (heights.max(), widths.max())
    panels = {
        "images": np.full((count, 3, *panel), 255, np.uint8),
        "truth": np.full((count, *panel), NO_IMAGE, np.uint8),
        "predicted": np.full((count, *panel), NO_IMAGE, np.uint8),
    }
    for positions, logits, masks in predictions:
        images = shown.batch(positions) if shown.whole is None else shown.whole_batch(positions)
        height, width = masks.shape[-2:]
        predicted = logits.argmax(1).to(torch.uint8)
        panels["images"][positions, :, :height, :width] = images.numpy()
        panels["truth"][positions, :height, :width] = masks.cpu().numpy()
        panels["predicted"][positions, :height, :width] = predicted.cpu().numpy()
    return panels


def pixels_right(panels: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Number of correctly predicted pixels, and of pixels with known truth, per image: both (n,)
    int64."""
    truth = panels["truth"]
    known = (truth != IGNORE) & (truth != NO_IMAGE)
    right = known & (panels["predicted"] == truth)
    return right.sum((1, 2)), known.sum((1, 2))


def _sides(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Heights and widths of the images as evaluated, both (n,)."""
    if split.whole is None:
        sides = np.full(len(split), split.images.shape[-1])
        return sides, sides
    shapes = np.array([split.whole.shape(row) for row in split.indices])
    return shapes[:, 0], shapes[:, 1]


def largest_class(
    masks: Tensor,  # (n, H, W) uint8
    classes: int,
) -> np.ndarray:  # (n,) int64
    """The class with the most pixels in each mask; -1 if all pixels are unknown."""
    flat = masks.flatten(1)
    pixels = [(flat == number).sum(1) for number in range(classes)]
    counts = torch.stack(pixels, 1)  # (n, C)
    largest: np.ndarray = torch.where(counts.sum(1) > 0, counts.argmax(1), -1).numpy()
    return largest
