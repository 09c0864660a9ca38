"""Colours shared by all pictures, and masks as pictures with a colour for each class."""

from collections.abc import Iterable

import numpy as np

from trainables.plots.snapshots import NO_IMAGE

GREY = "#c4c4c4"
INK = "#444444"
# Tableau's hues without its grey, then three that differ from them in hue or lightness.
COLOURS = (
    "#1f77b4",
    "#ff7f0e",
    "#2ca02c",
    "#d62728",
    "#9467bd",
    "#8c564b",
    "#e377c2",
    "#bcbd22",
    "#17becf",
    "#000000",
    "#7fc97f",
    "#f0b2a0",
)
UNKNOWN = (0, 0, 0)
"""Colour of pixels without class."""
_BLANK = (255, 255, 255)
# Tableau's twenty, for classes of a data set without colours of its own.
_TWENTY = (
    "1f77b4 aec7e8 ff7f0e ffbb78 2ca02c 98df8a d62728 ff9896 9467bd c5b0d5 "
    "8c564b c49c94 e377c2 f7b6d2 7f7f7f c7c7c7 bcbd22 dbdb8d 17becf 9edae5"
)
# ColorBrewer's "Blues" (Harrower and Brewer 2003), from none to all.
_BLUES = "f7fbff deebf7 c6dbef 9ecae1 6baed6 4292c6 2171b5 08519c 08306b"


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


def class_palette(
    colors: np.ndarray,  # flat or (C, 3) uint8; empty if the data set has none
    classes: int,
) -> np.ndarray:  # (C, 3) uint8
    """The colours of a data set's classes: its own, or twenty that repeat."""
    own = colors.reshape(-1, 3)
    if len(own) == classes:
        return own
    twenty = _rgb(_TWENTY)
    return twenty[np.arange(classes) % len(twenty)]


def hex_colour(rgb: Iterable[int]) -> str:
    """Name a colour of red, green and blue, 0 to 255, as in `#1f77b4`."""
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def blues(
    shares: np.ndarray,  # (...) in [0, 1]
) -> np.ndarray:  # (..., 3) uint8
    """Colours of shares, from almost white to dark blue, with finer steps for small shares."""
    anchors = _rgb(_BLUES)
    at = np.linspace(0, 1, len(anchors))
    bands = [np.interp(np.sqrt(shares), at, anchors[:, band]) for band in range(3)]
    return np.stack(bands, -1).round().astype(np.uint8)


def _rgb(colours: str) -> np.ndarray:  # (n, 3) uint8
    return np.frombuffer(bytes.fromhex(colours), np.uint8).reshape(-1, 3)
