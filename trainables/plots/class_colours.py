"""Masks as pictures: every class has a colour."""

import numpy as np

from trainables.plots.snapshots import NO_IMAGE

UNKNOWN = (0, 0, 0)
"""Colour of pixels of no class."""
_BLANK = (255, 255, 255)


def coloured(
    masks: np.ndarray,  # (..., h, w) uint8, class numbers
    colors: np.ndarray,  # (C, 3) uint8
) -> np.ndarray:  # (..., h, w, 3) uint8
    """Give every pixel the colour of its class; pixels of no class are black, and what is no part
    of an image is white."""
    table = np.tile(np.array(UNKNOWN, np.uint8), (256, 1))
    table[NO_IMAGE] = _BLANK
    table[: len(colors)] = colors
    picture: np.ndarray = table[masks]
    return picture
