"""Pixels of each class in training masks, from which the loss computes class weights."""

import numpy as np

from trainables.data import Split

_COUNTED_MASKS = 512
"""Largest number of training masks that are counted, unless a class is in none of them."""


def class_pixels(split: Split, classes: int) -> np.ndarray:  # (C,)
    """Count the pixels of each class in at most `_COUNTED_MASKS` masks, evenly spread over the
    split.

    If a class is in none of them, count all masks, because the class would otherwise have no
    weight.
    """
    spread = np.linspace(0, len(split) - 1, min(_COUNTED_MASKS, len(split)))
    some = np.unique(spread.round().astype(int))

    pixels = _count_pixels(split, some, classes)
    if pixels.all() or len(some) == len(split):
        return pixels
    return _count_pixels(split, np.arange(len(split)), classes)


def _count_pixels(split: Split, positions: np.ndarray, classes: int) -> np.ndarray:
    """Pixels of each class in the masks at these positions."""
    pixels = np.zeros(classes, np.int64)
    for part in np.array_split(positions, max(1, len(positions) // 32)):
        values = split.masks(part).numpy().ravel()
        pixels += np.bincount(values, minlength=256)[:classes]
    return pixels
