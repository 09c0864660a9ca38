"""The images that a store is built from, and the one pass over them that decodes each once."""

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

_CHUNK = 256  # rows decoded at a time: bounds the memory that waits to be written
_RUN = 8  # rows that a thread takes at a time: fewer take more time to be handed out

_MOST_THREADS = 32

BICUBIC = 1
"""Version of contents whose thumbnails are drawn by the filter of the images that are trained
on."""
REDUCED = 2
"""Version of contents whose thumbnails of files are drawn in two steps, at a third of the cost."""

Take = Callable[[int, Picture], None]
"""Receives a row and its image, which it may draw at several sizes; may raise CorruptImage."""


@dataclass(frozen=True)
class Source:
    """The images that a store is built from; made only when something of it is missing."""

    count: int
    """Number of rows N."""
    open: Callable[[int], Picture]
    """Row -> its image; raises CorruptImage. Called from several threads."""
    describe: Callable[[int], str]
    """Row -> the path that an error names."""
    labels: np.ndarray  # (N,) int64, -1 = unlabeled
    has_copies: bool = True
    """One picture may be there more than once, re-encoded. False: equal contents alone are one
    picture."""
    version: int = BICUBIC
    """Version of its contents: the thumbnails in which copies are looked for."""
    extra: dict[str, Any] = field(default_factory=dict)
    """JSON that is kept with the store."""
    read_mask: Callable[[int, int], np.ndarray] | None = None
    """(row, S) -> (S, S) uint8; raises CorruptImage. None: data without masks."""
    open_scaled: Callable[[int, Levels], Picture] | None = None
    """As `open`, where values of more than 8 bits are scaled from the range of the data set. None:
    there are no such values."""


@dataclass(frozen=True)
class Reading:
    """Result of one look at every row."""

    skipped: list[tuple[int, str]]
    """(row, reason) of those that cannot be used."""
    deep: DeepImages | None
    """Images of more than 8 bits a channel; None where there are none."""


def read_all(source: Source, takes: Sequence[Take], progress: bool) -> Reading:
    """Opens every row once and hands it to all of `takes`, in several threads.

    Rows of more than 8 bits are opened again where their own range is not that of all of them.
    Shows a progress bar if `progress`, on a terminal alone.
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
            # Without its mode: what the file holds is on record already.
            return replace(open_scaled(row, levels), mode="")

        _read(open_again, sorted(found), takes, progress)
    return Reading(skipped, deep)


def _read(
    open_row: Callable[[int], Picture], rows: Sequence[int], takes: Sequence[Take], progress: bool
) -> list[tuple[int, str]]:  # (row, reason) of those that cannot be used
    """Opens some rows and hands them to all of `takes`."""

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
    """Number of images that are decoded at a time: Pillow decodes and resizes without Python's
    lock."""
    return min(_MOST_THREADS, available_processors())


@contextmanager
def progress_bar(doing: str, count: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error while the block runs, or nothing; gives the function that moves
    it on by some images."""
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
