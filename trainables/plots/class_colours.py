"""Masks as pictures, with a colour for each class."""

import numpy as np

from trainables.plots.snapshots import NO_IMAGE

UNKNOWN = (0, 0, 0)
"""Colour of pixels without class."""
_BLANK = (255, 255, 255)


def coloured(
    masks: np.ndarray,  # (..., h, w) uint8, class numbers
    colors: np.ndarray,  # (C, 3) uint8
) -> np.ndarray:  # (..., h, w, 3) uint8
    """Give every pixel the colour of its class. Pixels without class are black, and pixels outside
    the image are white."""
    table = np.tile(np.array(UNKNOWN, np.uint8), (256, 1))
    table[NO_IMAGE] = _BLANK
    table[: len(colors)] = colors
    picture: np.ndarray = table[masks]
    return picture
