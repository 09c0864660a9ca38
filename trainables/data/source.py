"""The images from which a store is built, and the single pass that decodes them."""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trainables.data.images import CorruptImage, Picture
from trainables.data.levels import FLOATING, SIXTEEN_BITS, DeepImages, Found, Levels
from trainables.processors import available_processors

_CHUNK = 256  # rows decoded at a time, which bounds the memory of unwritten results
_RUN = 8  # rows per task of a thread; with fewer, scheduling takes longer

_MOST_THREADS = 32

BICUBIC = 1
"""Version of contents with thumbnails drawn by the filter of the training images."""
REDUCED = 2
"""Version of contents with thumbnails of files drawn in two steps, at a third of the cost."""

Take = Callable[[int, Picture], None]
"""Receives a row and its image, which it may resize to several sizes; may raise CorruptImage."""


@dataclass(frozen=True)
class Source:
    """The images from which a store is built; created only if part of the store is missing."""

    count: int
    """Number of rows N."""
    open: Callable[[int], Picture]
    """Row -> its image; raises CorruptImage. Called from several threads."""
    describe: Callable[[int], str]
    """Row -> path for error messages."""
    labels: np.ndarray  # (N,) int64, -1 = unlabeled
    has_copies: bool = True
    """True if a picture may occur more than once, re-encoded. False: only equal contents are one
    picture."""
    version: int = BICUBIC
    """Version of its contents, which decides the thumbnails that are searched for copies."""
    extra: dict[str, Any] = field(default_factory=dict)
    """JSON that is kept with the store."""
    read_mask: Callable[[int, int], np.ndarray] | None = None
    """(row, S) -> (S, S) uint8; raises CorruptImage. None: data without masks."""
    open_scaled: Callable[[int, Levels], Picture] | None = None
    """Like `open`, but values of more than 8 bits are scaled from the range of the data set. None:
    there are no such values."""


@dataclass(frozen=True)
class Reading:
    """Result of one pass over all rows."""

    skipped: list[tuple[int, str]]
    """(row, reason) for each row that cannot be used."""
    deep: DeepImages | None
    """Images with more than 8 bits per channel; None if there are none."""


def read_all(source: Source, takes: Sequence[Take], progress: bool) -> Reading:
    """Open every row once and pass it to all of `takes`, in several threads.

    Rows with more than 8 bits are opened again if the range of the data set is not that of 16 bits.
    With `progress`, a progress bar is shown, but only on a terminal.
    """
    found: dict[int, Found] = {}

    def note_levels(row: int, picture: Picture) -> None:
        if picture.levels is not None:
            found[row] = Found(*picture.levels, picture.mode == FLOATING)

    rows = range(source.count)
    skipped = _read(source.open, rows, [*takes, note_levels], progress)
    deep = DeepImages.of(list(found.values()))
    open_scaled = source.open_scaled
    if deep is not None and deep.levels != SIXTEEN_BITS and open_scaled is not None:
        levels = deep.levels

        def open_again(row: int) -> Picture:
            # Without its mode, because the file's mode has already been recorded.
            return replace(open_scaled(row, levels), mode="")

        _read(open_again, sorted(found), takes, progress)
    return Reading(skipped, deep)


def _read(
    open_row: Callable[[int], Picture], rows: Sequence[int], takes: Sequence[Take], progress: bool
) -> list[tuple[int, str]]:  # (row, reason) of those that cannot be used
    """Open some rows and pass them to all of `takes`."""

    def read(run: Sequence[int]) -> list[tuple[int, str]]:
        failed = []
        for row in run:
            try:
                picture = open_row(row)
                for take in takes:
                    take(row, picture)
            except CorruptImage as error:
                failed.append((row, str(error)))
        return failed

    shown = progress and sys.stderr.isatty()
    skipped: list[tuple[int, str]] = []
    with (
        progress_bar("decoding", len(rows), shown) as advance,
        ThreadPoolExecutor(_threads()) as pool,
    ):
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            runs = [chunk[first : first + _RUN] for first in range(0, len(chunk), _RUN)]
            for failed in pool.map(read, runs):
                skipped += failed
            advance(len(chunk))
    return skipped


def _threads() -> int:
    """Number of images decoded in parallel: Pillow releases the GIL while it decodes and
    resizes."""
    return min(_MOST_THREADS, available_processors())


@contextmanager
def progress_bar(doing: str, count: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on standard error while the block runs, if `shown`. Yields a function
    that advances it by a number of images."""
    bar = Progress(
        TextColumn(doing),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not shown,
        transient=True,
    )
    with bar:
        task = bar.add_task(doing, total=count)
        yield lambda images: bar.advance(task, images)
