"""One image file -> one uint8 array, by one rule: upright, RGB, largest centred square, antialiased
bicubic to S x S."""

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
    """One image, opened."""

    content: bytes
    """SHA-256 of its content, 32 bytes: of the file, or of its pixels where there is no file."""
    at: Callable[[int], np.ndarray]
    """S -> (3, S, S) uint8."""
    width: int = 0
    """Pixels of the upright image; 0 where there is no file."""
    height: int = 0
    mode: str = ""
    """Pillow's colour mode of the file, such as "RGB" or "I;16"; empty where there is no file."""
    levels: tuple[float, float] | None = None
    """Lowest and highest value of an image of more than 8 bits a channel; None for others."""
    reduced: Callable[[int], np.ndarray] | None = None
    """S -> (3, S, S) uint8, nearly as `at`, at a third of its cost; None where there is no file."""


def open_picture(path: Path, megapixels: int = MEGAPIXELS, levels: Levels | None = None) -> Picture:
    """Reads a file and decodes it.

    Args:
        megapixels: largest image, in millions of pixels.
        levels: the range of the data set, for images of more than 8 bits a channel.
    Raises:
        CorruptImage: as `read_rgb`.
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
    """The 32 bytes by which an image is known."""
    return hashlib.sha256(content).digest()


def decode(
    path: Path,
    size: int,  # S, pixels
) -> np.ndarray:  # (3, S, S) uint8
    """Reads a file (`read_rgb`) and resizes its largest centred square (`square`).

    Cropping before resizing equals "shorter side to S, then centre crop" without its rounding of
    the longer side.

    Raises:
        CorruptImage: as `read_rgb`.
    """
    return square(read_rgb(path), size)


def read_rgb(path: Path, megapixels: int = MEGAPIXELS, levels: Levels | None = None) -> Image.Image:
    """Reads an image in any colour mode (of an animation the first frame), upright, as RGB.

    EXIF orientation is applied, transparency is laid over white, CMYK becomes RGB, gray is repeated
    over the channels. Values of more than 8 bits are scaled from `levels`, the range of the data
    set; without it from 16 bits, and floating-point numbers from their own range.

    Raises:
        CorruptImage: zero bytes, not an image, truncated, more than `megapixels` millions of
            pixels, or no finite value.
    """
    return _decoded(_read(path), megapixels, levels).image


@contextmanager
def open_image(path: Path, megapixels: int = MEGAPIXELS) -> Iterator[Image.Image]:
    """Opens and loads a file as it is: its own mode, not turned.

    Raises:
        CorruptImage: as `read_rgb`.
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
    """A file's pixels, and how it held them."""

    image: Image.Image  # RGB, upright
    mode: str
    levels: tuple[float, float] | None


def _decoded(content: bytes, megapixels: int, levels: Levels | None) -> _Decoded:
    with opened(content, megapixels) as image:
        found = None
        mode = image.mode
        ImageOps.exif_transpose(image, in_place=True)  # most are upright: no copy
        if mode == FLOATING or mode.startswith("I"):
            values = np.asarray(image)
            found = range_of(values)
            scaled = (levels or _own_levels(mode, found)).to_bytes(values)
            image = Image.fromarray(scaled)
        return _Decoded(_as_rgb(_over_white(image)), mode, found)


def _as_rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")


def _own_levels(mode: str, found: tuple[float, float]) -> Levels:
    """The range of an image whose data set is not known."""
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
    """Resizes the largest centred square of `image` to S x S by Pillow's antialiased bicubic
    filter."""
    box = centred_square(image.width, image.height)
    resized = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return _channels_first(resized)


def reduced_square(
    image: Image.Image,  # RGB or L
    size: int,  # S, pixels
) -> np.ndarray:  # (3, S, S) uint8
    """Resizes the same square in two steps: means of whole pixels down to at least twice the size,
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
    """Width and height of a whole image whose shorter side becomes `size` pixels."""
    shorter = min(width, height)
    return round(width * size / shorter), round(height * size / shorter)


def centred_square(width: int, height: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the largest centred square, in pixels; halves are possible."""
    side = min(width, height)
    left = (width - side) / 2
    top = (height - side) / 2
    return left, top, left + side, top + side
