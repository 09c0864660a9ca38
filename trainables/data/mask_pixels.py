"""Pixels of each class in every mask of a store, counted once:

<store>/mask_pixels.npy   (N, C) int32
"""

from contextlib import suppress

import numpy as np

from trainables.data.store import Store
from trainables.files import atomic_file

FILE = "mask_pixels.npy"
_CHUNK = 64  # masks counted at a time


def mask_pixels(
    store: Store,
    classes: int,  # C
) -> np.ndarray:  # (N, C) int32
    """Count the pixels of each class in the masks of a store, or read the stored counts.

    Unknown pixels are not counted. A class that is thinner than a pixel at the store's size may be
    missing from all masks here, although it is in the files.
    """
    assert store.masks is not None
    path = store.path / FILE
    shape = (len(store.masks), classes)
    with suppress(OSError, ValueError):
        kept: np.ndarray = np.load(path)
        if kept.shape == shape:
            return kept

    pixels = np.zeros(shape, np.int32)
    for start in range(0, len(pixels), _CHUNK):
        rows = slice(start, start + _CHUNK)
        pixels[rows] = _count(store.masks[rows], classes)
    with suppress(OSError), atomic_file(path) as file:  # only a cache: fails silently
        np.save(file, pixels)
    return pixels


def _count(masks: np.ndarray, classes: int) -> np.ndarray:  # (n, S, S) -> (n, C)
    """Pixels of each class in each mask."""
    first = np.arange(len(masks))[:, None] * 256
    cells = first + masks.reshape(len(masks), -1)
    counts = np.bincount(cells.ravel(), minlength=256 * len(masks))
    by_mask: np.ndarray = counts.reshape(len(masks), 256)[:, :classes]
    return by_mask
