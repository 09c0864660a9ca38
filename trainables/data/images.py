"""Read an image file as a uint8 array, always in the same way: upright, RGB, largest centred
square, antialiased bicubic to S x S."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from trainables.data.decoding import MEGAPIXELS, CorruptImage, one_line, opened
from trainables.data.formats import EXTENSIONS
from trainables.data.levels import FLOATING, SIXTEEN_BITS, Levels, range_of

__all__ = [
    "EXTENSIONS",
    "CorruptImage",
    "Picture",
    "centred_square",
    "decode",
    "one_line",
    "open_image",
    "open_picture",
    "read_rgb",
    "sha256",
    "square",
    "whole_size",
]


@dataclass(frozen=True)
class Picture:
    """One opened image."""

    content: bytes
    """SHA-256 of the file, 32 bytes; of the pixels if there is no file."""
    at: Callable[[int], np.ndarray]
    """S -> (3, S, S) uint8."""
    width: int = 0
    """Width of the upright image, in pixels; 0 if there is no file."""
    height: int = 0
    mode: str = ""
    """Pillow's colour mode of the file, such as "RGB" or "I;16"; empty if there is no file."""
    levels: tuple[float, float] | None = None
    """Lowest and highest value of an image with more than 8 bits per channel; None for others."""
    reduced: Callable[[int], np.ndarray] | None = None
    """S -> (3, S, S) uint8, almost the same as `at` at a third of its cost; None if there is no
    file."""


def open_picture(path: Path, megapixels: int = MEGAPIXELS, levels: Levels | None = None) -> Picture:
    """Read and decode a file.

    Args:
        megapixels: largest image, in millions of pixels.
        levels: range of the data set, for images with more than 8 bits per channel.
    Raises:
        CorruptImage: as in `read_rgb`.
    """
    content = _read(path)
    decoded = _decoded(content, megapixels, levels)
    image = decoded.image
    return Picture(
        sha256(content),
        partial(square, image),
        image.width,
        image.height,
        decoded.mode,
        decoded.levels,
        reduced=partial(reduced_square, image),
    )


def sha256(content: bytes) -> bytes:
    """The 32 bytes that identify an image."""
    return hashlib.sha256(content).digest()


def decode(
    path: Path,
    size: int,  # S, pixels
) -> np.ndarray:  # (3, S, S) uint8
    """Read a file (`read_rgb`) and resize its largest centred square (`square`).

    Cropping before resizing equals "shorter side to S, then centre crop", but without rounding the
    longer side.

    Raises:
        CorruptImage: as in `read_rgb`.
    """
    return square(read_rgb(path), size)


def read_rgb(path: Path, megapixels: int = MEGAPIXELS, levels: Levels | None = None) -> Image.Image:
    """Read an image in any colour mode (the first frame of an animation), upright, as RGB.

    EXIF orientation is applied, transparency is composed over white, CMYK becomes RGB, and gray is
    repeated over the channels. Values of more than 8 bits are scaled from `levels`, the range of
    the data set. Without it, integers are scaled from 16 bits and floating-point values from their
    own range.

    Raises:
        CorruptImage: the file has zero bytes, is not an image, is truncated, has more than
            `megapixels` million pixels, or has no finite value.
    """
    return _decoded(_read(path), megapixels, levels).image


@contextmanager
def open_image(path: Path, megapixels: int = MEGAPIXELS) -> Iterator[Image.Image]:
    """Open and load a file as it is: in its own mode, not rotated.

    Raises:
        CorruptImage: as in `read_rgb`.
    """
    with opened(_read(path), megapixels) as image:
        yield image


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CorruptImage(f"cannot be read: {error.strerror}") from None
    if not content:
        raise CorruptImage("zero bytes")
    return content


@dataclass(frozen=True)
class _Decoded:
    """A file's pixels, and the format in which it stores them."""

    image: Image.Image  # RGB, upright
    mode: str
    levels: tuple[float, float] | None


def _decoded(content: bytes, megapixels: int, levels: Levels | None) -> _Decoded:
    with opened(content, megapixels) as image:
        found = None
        mode = image.mode
        ImageOps.exif_transpose(image, in_place=True)  # avoids a copy: most images are upright
        if mode == FLOATING or mode.startswith("I"):
            values = np.asarray(image)
            found = range_of(values)
            scaled = (levels or _own_levels(mode, found)).to_bytes(values)
            image = Image.fromarray(scaled)
        return _Decoded(_as_rgb(_over_white(image)), mode, found)


def _as_rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")


def _own_levels(mode: str, found: tuple[float, float]) -> Levels:
    """Range of an image whose data set is unknown."""
    return Levels(*found) if mode == FLOATING else SIXTEEN_BITS


def _over_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer)


def square(
    image: Image.Image,  # RGB or L
    size: int,  # S, pixels
) -> np.ndarray:  # (3, S, S) uint8
    """Resize the largest centred square of `image` to S x S with Pillow's antialiased bicubic
    filter."""
    box = centred_square(image.width, image.height)
    resized = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return _channels_first(resized)


def reduced_square(
    image: Image.Image,  # RGB or L
    size: int,  # S, pixels
) -> np.ndarray:  # (3, S, S) uint8
    """Resize the same square in two steps: means of whole pixels down to at least twice the size,
    then Pillow's antialiased bilinear filter."""
    box = centred_square(image.width, image.height)
    resized = image.resize((size, size), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
    return _channels_first(resized)


def _channels_first(image: Image.Image) -> np.ndarray:  # (3, S, S) uint8
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        return np.broadcast_to(pixels, (3, *pixels.shape))
    return pixels.transpose(2, 0, 1)


def whole_size(width: int, height: int, size: int) -> tuple[int, int]:
    """Width and height of a whole image whose shorter side is resized to `size` pixels."""
    shorter = min(width, height)
    return round(width * size / shorter), round(height * size / shorter)


def centred_square(width: int, height: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the largest centred square, in pixels, possibly halves."""
    side = min(width, height)
    left = (width - side) / 2
    top = (height - side) / 2
    return left, top, left + side, top + side
