"""One file -> one uint8 array, by one rule: upright, RGB, largest centred square, antialiased
bicubic to S x S."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
MAX_PIXELS = 89_478_485
"""Larger images are refused as decompression bombs (Pillow's own warning level: 256 MB of RGB)."""


class CorruptImage(Exception):
    """The file cannot be used; the message is the reason, without the path."""


def decode(
    path: Path,
    size: int,  # S, pixels
) -> np.ndarray:  # (3, S, S) uint8
    """`read_rgb`, then `square`: cropping the largest centred square before resizing equals
    "shorter side to S, then centre crop" without its rounding of the longer side. Raises
    CorruptImage as `read_rgb` does."""
    return square(read_rgb(path), size)


def read_rgb(path: Path) -> Image.Image:
    """Reads JPEG, PNG, WebP, BMP, TIFF or GIF (first frame) in any colour mode, upright, as RGB.

    EXIF orientation is applied, transparency is laid over white, CMYK goes to RGB, 16-bit grayscale
    is divided by 257 and rounded, gray is repeated over the channels.

    Raises:
        CorruptImage: zero bytes, not an image, truncated, too large, or a mode without a defined
            conversion.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CorruptImage(f"cannot be read: {error.strerror}") from None
    if not content:
        raise CorruptImage("zero bytes")
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise CorruptImage(
                    f"{image.width}x{image.height} pixels, more than {MAX_PIXELS:,}: a decompression bomb?"
                )
            return _rgb(image)
    except UnidentifiedImageError:
        raise CorruptImage("not an image") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise CorruptImage(f"more than {MAX_PIXELS:,} pixels: a decompression bomb?") from None
    except CorruptImage:
        raise
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ... on damaged
        # files
        raise CorruptImage(
            "damaged: " + (" ".join(str(error).split())[:120] or type(error).__name__)
        ) from None


def square(
    image: Image.Image,  # RGB or L
    size: int,  # S, pixels
) -> np.ndarray:  # (3, S, S) uint8
    """Largest centred square of `image`, resized to S x S by Pillow's antialiased bicubic
    filter."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    resized = image.resize(
        (size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)
    )
    pixels = np.asarray(resized)
    if pixels.ndim == 2:
        return np.broadcast_to(pixels, (3, size, size))
    return pixels.transpose(2, 0, 1)


def _rgb(image: Image.Image) -> Image.Image:
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):
        upright = Image.fromarray(
            np.round(np.clip(np.asarray(upright).astype(np.int64), 0, 65535) / 257).astype(np.uint8)
        )
    elif upright.mode == "F":
        raise CorruptImage(
            "floating-point pixels have no defined range; convert it to 8 or 16 bits"
        )
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return upright.convert("RGB")
