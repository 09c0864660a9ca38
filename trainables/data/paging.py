"""Stores of at least half the memory: rows are read from disk when needed, all rows of a batch at
once, and nothing around them.

By default, the kernel reads 128 KB around every row, one row after another. A store that fits into
memory is soon cached completely, and advice would only cost time.
"""

import functools
import mmap
import os
from pathlib import Path

import numpy as np

_LIMIT_OF_GROUP = Path("/sys/fs/cgroup/memory.max")  # of a container
_LARGE = 0.5  # of the memory


def read_rows_alone(array: np.ndarray) -> None:
    """Stop the kernel from reading ahead in a memory-mapped array of at least half the memory."""
    mapped = _map_of_large(array)
    if mapped is not None:
        mapped.madvise(mmap.MADV_RANDOM)


def fetch(
    array: np.ndarray,  # (N, ...)
    rows: np.ndarray,  # (B,) int64
) -> None:
    """Tell the kernel to read these rows, without waiting for it, if the array takes at least half
    the memory."""
    mapped = _map_of_large(array)
    if mapped is None:
        return

    # The map begins at the start of the file, before the header.
    header = len(mapped) - array.nbytes
    row_bytes = array.nbytes // len(array)
    for row in rows.tolist():
        begin = header + row * row_bytes
        page = begin - begin % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, page, begin + row_bytes - page)


def _map_of_large(array: np.ndarray) -> mmap.mmap | None:
    if array.nbytes < _LARGE * memory_bytes():
        return None
    mapped = getattr(array, "_mmap", None)
    is_whole = isinstance(mapped, mmap.mmap) and isinstance(array.base, mmap.mmap)
    return mapped if is_whole and hasattr(mapped, "madvise") else None


@functools.cache
def memory_bytes() -> int:
    """Memory of this machine, or of its container if that has less, in bytes."""
    here = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(here, int(_LIMIT_OF_GROUP.read_text()))
    except (OSError, ValueError):  # no such file, or no limit
        return here
