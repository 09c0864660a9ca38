"""Whole images and masks of some rows of a store, for evaluation. The shorter side is S pixels, as
in the squares of the store, and the aspect ratio is kept.

    <cache>/<name>-<fingerprint>-<S>px-whole-<rows>-v1.bin    pixels, one row after the other
    <cache>/<name>-<fingerprint>-<S>px-whole-<rows>-v1.npz    rows, heights and widths

Only images of val and test are kept, and only if the folder has images that are not square.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock
from PIL import Image

from trainables.data.images import CorruptImage, whole_size
from trainables.data.store_building import disk_error
from trainables.errors import UserError
from trainables.files import atomic_file

_CHUNK = 64  # rows decoded at a time, which bounds the memory of unwritten results

ReadWhole = Callable[[int], tuple[np.ndarray, np.ndarray]]
"""Row -> (3, h, w) and (h, w) uint8; raises CorruptImage."""


@dataclass(frozen=True, eq=False)
class WholeImages:
    """Images of different shapes; read-only."""

    pixels: np.ndarray  # (T,) uint8, memory-mapped: of each row (3, h, w), then its mask (h, w)
    rows: np.ndarray  # (n,) int64 rows of the store, sorted
    shapes: np.ndarray  # (n, 2) int64, height and width

    def shape(self, row: int) -> tuple[int, int]:
        """Height and width of a row of the store, in pixels."""
        height, width = self.shapes[self._number(row)].tolist()
        return height, width

    def image(self, row: int) -> np.ndarray:  # (3, h, w) uint8
        """The image of a row of the store."""
        height, width = self.shape(row)
        start = self._starts[self._number(row)]
        return self.pixels[start : start + 3 * height * width].reshape(3, height, width)

    def mask(self, row: int) -> np.ndarray:  # (h, w) uint8: [0, C), or IGNORE
        """The mask of a row of the store."""
        height, width = self.shape(row)
        start = self._starts[self._number(row)] + 3 * height * width
        return self.pixels[start : start + height * width].reshape(height, width)

    def _number(self, row: int) -> int:
        """Position of a row of the store among the rows that are kept."""
        return int(np.searchsorted(self.rows, row))

    @cached_property
    def _starts(self) -> np.ndarray:  # (n,) int64
        """Offset of each image's first byte. A pixel takes four bytes, one of them in the mask."""
        sizes = 4 * self.shapes.prod(1)
        starts: np.ndarray = np.cumsum(sizes) - sizes
        return starts


def open_whole(path: Path, rows: np.ndarray, read: ReadWhole) -> WholeImages:
    """Open the whole images of these rows, after reading them if they are not in the cache.

    Args:
        path: path in the cache, without extension.
        rows: (n,) int64, sorted.
    Raises:
        UserError: an image can no longer be read, or the disk is full.
    """
    pixels = path.with_name(f"{path.name}.bin")
    index = path.with_name(f"{path.name}.npz")
    if not index.exists():
        try:
            with FileLock(f"{path}.lock"):
                if not index.exists():
                    _build(pixels, index, rows, read)
        except OSError as error:
            raise disk_error(error, path.parent) from None
        except CorruptImage as error:
            raise UserError(f"an image changed while it was read: {error}; run again") from None

    with np.load(index) as arrays:
        shapes = arrays["shapes"]
    mapped = np.memmap(pixels, np.uint8, mode="r")
    return WholeImages(mapped, rows, shapes)


def resized_whole(
    image: Image.Image,  # RGB
    values: np.ndarray,  # (H, W) uint8
    size: int,  # S
) -> tuple[np.ndarray, np.ndarray]:  # (3, h, w) and (h, w) uint8
    """Resize image and mask to a shorter side of S: the image with Pillow's antialiased bicubic
    filter, the mask by nearest neighbour."""
    width, height = whole_size(image.width, image.height, size)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    mask = Image.fromarray(values).resize((width, height), Image.Resampling.NEAREST)
    return pixels.transpose(2, 0, 1), np.asarray(mask)


def _build(pixels: Path, index: Path, rows: np.ndarray, read: ReadWhole) -> None:
    """Write both files. After a kill, there is no index."""
    with atomic_file(pixels) as file:
        shapes = _write(file, rows, read)
    with atomic_file(index) as file:
        np.savez(file, rows=rows, shapes=np.array(shapes, np.int64))


def _write(
    file: BinaryIO,
    rows: np.ndarray,  # (n,) int64
    read: ReadWhole,
) -> list[tuple[int, int]]:  # height and width of each
    """Read all rows in several threads and write them in order."""
    shapes: list[tuple[int, int]] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK].tolist()
            for image, mask in pool.map(read, chunk):
                file.write(np.ascontiguousarray(image).tobytes())
                file.write(np.ascontiguousarray(mask).tobytes())
                height, width = mask.shape
                shapes.append((height, width))
    return shapes
