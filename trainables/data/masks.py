"""Read a mask file as a uint8 array of class numbers, with the same crop as `images.decode`: the
largest centred square, resized to S x S."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from trainables.data.class_list import ClassList, Color
from trainables.data.images import CorruptImage, centred_square, open_image

SATELLITE: dict[str, Color] = {
    "urban": (0, 255, 255),
    "agriculture": (255, 255, 0),
    "rangeland": (255, 0, 255),
    "forest": (0, 255, 0),
    "water": (0, 0, 255),
    "barren": (255, 255, 255),
}
"""Classes 0 to 5 of the satellite layout and their colours. Black is unknown; pure red belongs to
no class."""
_UNKNOWN = 255
_RED = 254
_CLASS_OF_CODE = np.array([_UNKNOWN, 4, 3, 0, _RED, 2, 1, 5], np.uint8)  # code 4 R + 2 G + B

_EXIF_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height

ReadValues = Callable[[Image.Image], np.ndarray]
"""Opened mask -> (H, W) uint8 class numbers; raises CorruptImage."""


def read_mask(
    path: Path,
    image: Path,
    size: int,  # S, pixels
    read_values: ReadValues,
) -> np.ndarray:  # (S, S) uint8: [0, C), or IGNORE
    """Read a mask's largest centred square, resized to S x S by nearest neighbour.

    Raises:
        CorruptImage: as in `mask_values`.
    """
    values = mask_values(path, image, read_values)
    height, width = values.shape
    resized = Image.fromarray(values).resize(
        (size, size), Image.Resampling.NEAREST, box=centred_square(width, height)
    )
    return np.asarray(resized)


def mask_values(
    path: Path, image: Path, read_values: ReadValues
) -> np.ndarray:  # (H, W) uint8: [0, C), or IGNORE
    """Read a mask at its own size.

    Raises:
        CorruptImage: the mask is damaged, differs in size from `image`, or has values that belong
            to no class; the message names the mask.
    """
    try:
        with open_image(path) as opened:
            values = read_values(opened)
    except CorruptImage as error:
        reason = str(error)
        if reason.startswith("damaged"):
            reason = f"is {reason}"
        raise CorruptImage(f"mask {path.name} {reason}") from None

    height, width = values.shape
    expected = _upright_size(image)
    if expected is not None and expected != (width, height):
        raise CorruptImage(
            f"mask {path.name} is {width}x{height} pixels, its image {expected[0]}x{expected[1]}"
        )
    return values


def satellite_values(image: Image.Image, lines: ClassList) -> np.ndarray:  # (H, W) uint8
    """Class numbers of a mask in the colours of `SATELLITE`. Channels are thresholded at 128, so
    that JPEG artefacts do not matter.

    Raises:
        CorruptImage: the mask has pure red pixels.
    """
    bits = np.asarray(image.convert("RGB")) >= 128
    codes = bits @ np.array([4, 2, 1])
    values: np.ndarray = _CLASS_OF_CODE[codes]
    illegal = int((values == _RED).sum())
    if illegal:
        raise CorruptImage(f"has {illegal:,} red pixels (code 4), which are no class")
    return values


def _upright_size(path: Path) -> tuple[int, int] | None:
    """Width and height as in `images.read_rgb`; None for a file that it refuses."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            if image.getexif().get(_EXIF_ORIENTATION) in _TURNED:
                return height, width
            return width, height
    except Exception:
        return None
