"""Opens and loads images from bytes, with a pixel limit of our own instead of Pillow's, which is
global to the process."""

import io
import math
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, UnidentifiedImageError

MEGAPIXELS = 90
"""Largest image that is read, in megapixels: 270 MB of RGB. Pillow warns above 89.5."""

_PNG = b"\x89PNG\r\n\x1a\n"
# Texts, and colour profiles, which are not applied here. An orientation in `eXIf` stays.
_ANCILLARY = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_CHUNK_HEAD = struct.Struct(">I4s")  # length of the data, kind
_CHUNK_ENDS = 12  # bytes of a chunk besides its data: length, kind, checksum


class CorruptImage(Exception):
    """The file cannot be used. The message gives the reason without the path."""


class TooLarge(CorruptImage):
    """The image has more pixels than the limit."""


@contextmanager
def opened(content: bytes, megapixels: int = MEGAPIXELS) -> Iterator[Image.Image]:
    """Open an image and decode its pixels.

    Raises:
        CorruptImage: the file is not an image, is damaged, or exceeds the limit (`TooLarge`).
            Exceptions within the block also become CorruptImage.
    """
    try:
        with _load(content, megapixels) as image:
            yield image
    except UnidentifiedImageError:
        raise CorruptImage("not an image") from None
    except CorruptImage:
        raise
    except Exception as error:
        # On damaged files, Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error,
        # ...
        raise CorruptImage(f"damaged: {one_line(error)}") from None


def _load(content: bytes, megapixels: int) -> Image.Image:
    try:
        return _load_once(content, megapixels)
    except ValueError:
        # Pillow refuses texts and profiles of more than 1 MB. They contain no pixels, so read the
        # file again without them; none of them is unpacked.
        if not content.startswith(_PNG):
            raise
        return _load_once(without_texts(content), megapixels)


def _load_once(content: bytes, megapixels: int) -> Image.Image:
    with _NO_PILLOW_LIMIT:
        image = Image.open(io.BytesIO(content))
        millions = image.width * image.height / 1e6
        if millions > megapixels:
            raise TooLarge(
                f"{image.width}x{image.height} pixels, more than {megapixels} megapixels: a "
                f"decompression bomb, or read with --set data.max_megapixels={math.ceil(millions)} "
                f"(predict: --max-megapixels {math.ceil(millions)})"
            )
        image.load()
    return image


def without_texts(content: bytes) -> bytes:
    """The bytes of a PNG without its texts and colour profile."""
    kept = [_PNG]
    start = len(_PNG)
    while start + _CHUNK_ENDS <= len(content):
        length, kind = _CHUNK_HEAD.unpack_from(content, start)
        end = start + length + _CHUNK_ENDS
        if kind not in _ANCILLARY:
            kept.append(content[start:end])
        start = end
    return b"".join(kept)


def one_line(error: Exception) -> str:
    """Message of an exception on one line of at most 120 characters; its type if it has none."""
    return " ".join(str(error).split())[:120] or type(error).__name__


class _PillowLimit:
    """Lifts Pillow's pixel limit while any thread is inside, because the limit is a module
    global."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._limit: int | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._limit = Image.MAX_IMAGE_PIXELS
                Image.MAX_IMAGE_PIXELS = None
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                Image.MAX_IMAGE_PIXELS = self._limit


_NO_PILLOW_LIMIT = _PillowLimit()
