"""The user's own configurations, which wait in a file of the study until a trial takes them.

    runs/<study>/enqueued.jsonl    {"t": ms since the epoch, "params": {...}}

Any process may append to the file, even while another process runs the study. Nothing is ever
removed: a configuration that a trial has had is skipped.
"""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from filelock import FileLock

from trainables.errors import UserError
from tune.study.events import AppendOnlyFile

ENQUEUED = "enqueued.jsonl"
_LOCK = ".enqueued.lock"

Values = Mapping[str, Any]
"""Searched parameter -> value; missing parameters keep their default."""


def enqueue(folder: Path, configurations: Sequence[Values]) -> int:
    """Append configurations that are not in the file yet; return when they are on disk.

    Returns:
        Number of new configurations.
    Raises:
        StorageFailed: the folder cannot be written.
    """
    with FileLock(folder / _LOCK):
        waiting = read_enqueued(folder)
        new: list[Values] = []
        for values in configurations:
            if values not in waiting and values not in new:
                new.append(dict(values))

        if new:
            with closing(AppendOnlyFile(folder / ENQUEUED)) as file:
                file.append_lines(as_lines(new))
    return len(new)


def as_lines(configurations: Sequence[Values]) -> bytes:
    """Encode configurations as lines of the file."""
    now = int(time.time() * 1000)
    lines = [json.dumps({"t": now, "params": values}) + "\n" for values in configurations]
    return "".join(lines).encode()


def from_lines(content: bytes) -> list[dict[str, Any]]:
    """Decode configurations from lines of the file.

    Raises:
        ValueError, KeyError, TypeError: a line is damaged.
    """
    return [json.loads(line)["params"] for line in content.splitlines()]


def read_enqueued(folder: Path) -> list[dict[str, Any]]:
    """All configurations that were ever enqueued, in order.

    Raises:
        UserError: a line is damaged.
    """
    path = folder / ENQUEUED
    if not path.exists():
        return []

    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]  # another process may be writing a line
    try:
        return from_lines(whole)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): delete the line") from None


class Queue:
    """The configurations that no trial has taken yet, for the process that runs the study."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._taken = 0
        self._size = -1
        self._all: list[dict[str, Any]] = []

    def next(self) -> dict[str, Any]:
        """Return the first of `rest` and mark it as seen."""
        first = self.rest()[0]
        self._taken += 1
        return first

    def rest(self) -> list[dict[str, Any]]:
        """Configurations that have not been seen yet."""
        self._read()
        return self._all[self._taken :]

    def _read(self) -> None:
        """Read the file if it has grown: this is called before every trial."""
        path = self._folder / ENQUEUED
        size = path.stat().st_size if path.exists() else 0
        if size != self._size:
            self._all = read_enqueued(self._folder)
            self._size = size
