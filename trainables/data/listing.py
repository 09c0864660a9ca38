"""The images of a folder: which files there are, and what a layout says about each. Nothing is
decoded here."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from trainables.data.scan import scan_folder
from trainables.data.split_names import HIDDEN, PARTS, part_of
from trainables.data.store import digest
from trainables.data_summary import FolderUse, LeftOut

__all__ = [
    "HIDDEN",
    "PARTS",
    "Entry",
    "Listing",
    "find_images",
    "fingerprint_of",
    "part_of",
    "shortened",
]

_BLOCK = 1000  # files that a thread samples at a time
_PIECE = 4096  # bytes in each sampled piece of a file
_sampled: dict[tuple[str, int, int], str] = {}  # (path, bytes, mtime in ns) -> hash


@dataclass(frozen=True)
class Entry:
    """One image."""

    path: str
    """Relative to the root, with forward slashes."""
    part: str = ""
    """One of `PARTS`, "hidden" in a test set without labels, or empty if there are no parts."""
    label: str | None = None
    """Class name; None for an unlabeled image."""


@dataclass(frozen=True, eq=False)
class Listing:
    """A recognised folder; rows are sorted by path."""

    root: Path
    layout: str
    files: tuple[str, ...]  # N paths, relative to the root
    parts: np.ndarray  # (N,) of PARTS, "hidden" or ""
    labels: np.ndarray  # (N,) int64, -1 = unlabeled
    classes: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()
    why: str = ""
    """The reason why this layout was recognised, in a few words."""
    folders: tuple[FolderUse, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    warnings: tuple[str, ...] = ()
    """Facts that make a result on this data worthless or doubtful, one sentence each."""
    hidden: tuple[str, ...] = ()
    """Image paths of a test set with unknown labels, for `report.py predict`, in the order of its
    label file. They are also in `files`, as part "hidden"."""
    tables: Mapping[str, Path] = field(default_factory=dict)
    """Part -> label file; empty if there are none."""

    def rows(self, part: str) -> np.ndarray:  # (n,) int64
        """Rows of the images of one part."""
        return np.flatnonzero(self.parts == part)


def find_images(root: Path) -> list[str]:
    """Sorted paths of all images below `root`, relative to it (`scan_folder`)."""
    return list(scan_folder(root).images)


def shortened(paths: Sequence[str], shown: int = 3) -> str:
    """The first paths and the number of further ones: `a.jpg, b.jpg, c.jpg and 12 more`."""
    hidden = len(paths) - shown
    more = f" and {hidden:,} more" if hidden > 0 else ""
    return ", ".join(paths[:shown]) + more


def fingerprint_of(root: Path, entries: list[Entry]) -> str:
    """Hash of paths, labels, parts, sizes and samples of the content. A copied folder has the same
    hash, independent of dates and location. A hidden test set counts as a test without labels, as
    in versions before hidden test sets."""
    paths = [f"{root}/{entry.path}" for entry in entries]
    lines: list[str] = []
    for entry, sample in zip(entries, _sample_all(paths), strict=True):
        part = "test" if entry.part == HIDDEN else entry.part
        lines.append(f"{entry.path}\n{part}\n{entry.label}\n{sample}")
    return digest(*lines)


def _sample_all(paths: list[str]) -> list[str]:
    """Samples of all files, read by several threads."""
    starts = range(0, len(paths), _BLOCK)
    blocks = [paths[start : start + _BLOCK] for start in starts]
    samples: list[str] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for block in pool.map(_sample_block, blocks):
            samples += block
    return samples


def _sample_block(paths: list[str]) -> list[str]:
    return [_sample(path) for path in paths]


def _sample(path: str) -> str:
    """Hash of a file's size and of 4 KB each from its start, middle and end. It is cached while
    size and modification time stay the same, so later trials need not read the file again."""
    try:
        # strings and descriptors: pathlib takes twice the time for 50,000 files
        state = os.stat(path)  # noqa: PTH116
        key = (path, state.st_size, state.st_mtime_ns)
        if key not in _sampled:
            pieces = _pieces(path, state.st_size)
            _sampled[key] = digest(str(state.st_size), *pieces)
        return _sampled[key]
    except OSError as error:
        return f"unreadable: {error.strerror}"


def _pieces(path: str, size: int) -> list[bytes]:
    """Three pieces of a file, or all of a small one: enough to tell files apart."""
    if size <= 3 * _PIECE:
        ranges = [(0, 3 * _PIECE)]
    else:
        ranges = [(0, _PIECE), (size // 2, _PIECE), (size - _PIECE, _PIECE)]

    handle = os.open(path, os.O_RDONLY)
    try:
        return [os.pread(handle, length, start) for start, length in ranges]
    finally:
        os.close(handle)
