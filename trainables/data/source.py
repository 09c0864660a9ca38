"""The images that a store is built from, and the one pass over them that decodes each once."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trainables.data.images import CorruptImage, Picture

_CHUNK = 256  # rows decoded at a time: bounds the memory that waits to be written

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
    extra: dict[str, Any] = field(default_factory=dict)
    """JSON that is kept with the store."""
    read_mask: Callable[[int, int], np.ndarray] | None = None
    """(row, S) -> (S, S) uint8; raises CorruptImage. None: data without masks."""


def read_all(
    source: Source, takes: Sequence[Take], progress: bool
) -> list[tuple[int, str]]:  # (row, reason) of those that cannot be used
    """Opens every row once and hands it to all of `takes`, in several threads.

    Shows a progress bar if `progress`, on a terminal alone.
    """

    def read(row: int) -> str | None:
        try:
            picture = source.open(row)
            for take in takes:
                take(row, picture)
        except CorruptImage as error:
            return str(error)
        return None

    skipped: list[tuple[int, str]] = []
    with (
        _progress_bar(source.count, progress) as advance,
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for start in range(0, source.count, _CHUNK):
            rows = range(start, min(start + _CHUNK, source.count))
            for row, reason in zip(rows, pool.map(read, rows), strict=True):
                if reason is not None:
                    skipped.append((row, reason))
            advance(len(rows))
    return skipped


@contextmanager
def _progress_bar(count: int, progress: bool) -> Iterator[Callable[[int], None]]:
    shown = progress and sys.stderr.isatty()
    bar = Progress(
        TextColumn("decoding"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not shown,
        transient=True,
    )
    with bar:
        task = bar.add_task("decoding", total=count)
        yield lambda rows: bar.advance(task, rows)
