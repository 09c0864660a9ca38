"""One image file -> one uint8 array, by one rule: upright, RGB, largest centred square, antialiased
bicubic to S x S."""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from trainables.data.formats import EXTENSIONS as EXTENSIONS

MAX_PIXELS = 89_478_485
"""Larger images are refused as decompression bombs (Pillow's own warning level: 256 MB of RGB)."""


class CorruptImage(Exception):
    """The file cannot be used; the message is the reason, without the path."""


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


def open_picture(path: Path) -> Picture:
    """Reads a file and decodes it.

    Raises:
        CorruptImage: as `read_rgb`.
    """
    content = _read(path)
    decoded = _decoded(content)
    image = decoded.image
    return Picture(
        sha256(content),
        partial(square, image),
        image.width,
        image.height,
        decoded.mode,
        decoded.levels,
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


def read_rgb(path: Path) -> Image.Image:
    """Reads JPEG, PNG, WebP, BMP, TIFF or GIF (first frame) in any colour mode, upright, as RGB.

    EXIF orientation is applied, transparency is laid over white, CMYK becomes RGB, 16-bit grayscale
    is divided by 257 and rounded, gray is repeated over the channels.

    Raises:
        CorruptImage: zero bytes, not an image, truncated, too large, or a mode without a defined
            conversion.
    """
    return _decoded(_read(path)).image


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


def _decoded(content: bytes) -> _Decoded:
    try:
        with Image.open(io.BytesIO(content)) as image:
            _check_pixels(image)
            return _to_rgb(image)
    except UnidentifiedImageError:
        raise CorruptImage("not an image") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise CorruptImage(f"more than {MAX_PIXELS:,} pixels: a decompression bomb?") from None
    except CorruptImage:
        raise
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ... on damaged
        # files
        raise CorruptImage(f"damaged: {one_line(error)}") from None


def square(
    image: Image.Image,  # RGB or L
    size: int,  # S, pixels
) -> np.ndarray:  # (3, S, S) uint8
    """Resizes the largest centred square of `image` to S x S by Pillow's antialiased bicubic
    filter."""
    box = centred_square(image.width, image.height)
    resized = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    pixels = np.asarray(resized)
    if pixels.ndim == 2:
        return np.broadcast_to(pixels, (3, size, size))
    return pixels.transpose(2, 0, 1)


def centred_square(width: int, height: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the largest centred square, in pixels; halves are possible."""
    side = min(width, height)
    left = (width - side) / 2
    top = (height - side) / 2
    return left, top, left + side, top + side


def one_line(error: Exception) -> str:
    """Message of an exception on one line of at most 120 characters, or its type without one."""
    return " ".join(str(error).split())[:120] or type(error).__name__


def _check_pixels(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise CorruptImage(
            f"{image.width}x{image.height} pixels, more than {MAX_PIXELS:,}: a decompression bomb?"
        )


def _to_rgb(image: Image.Image) -> _Decoded:
    mode = image.mode
    levels = None
    upright = ImageOps.exif_transpose(image)
    if mode.startswith("I"):
        values = np.asarray(upright).astype(np.int64)
        levels = (float(values.min()), float(values.max()))
        clipped = np.clip(values, 0, 65535)
        upright = Image.fromarray(np.round(clipped / 257).astype(np.uint8))
    elif upright.mode == "F":
        raise CorruptImage(
            "floating-point pixels have no defined range; convert it to 8 or 16 bits"
        )
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        upright = Image.alpha_composite(white, layer)
    return _Decoded(upright.convert("RGB"), mode, levels)
