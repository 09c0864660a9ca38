"""The ways in which a study can crash, computed from the record of its changes.

A study is no more than its files. Two crashes that leave the same files are equivalent, and the
first of them is tried for all: a kill before a sync leaves what a kill after it does, and most
power cuts leave what an earlier kill left. Nobody reads a partial file, so its content makes no
difference either. One in fifty of the crashes that are left out is tried nevertheless.
"""

import random
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.crash.disk import LOSSES, Disk, Files
from tests.crash.operations import Change
from trainables.files import is_partial

KINDS = ("kill", "torn", "power", "signal", "double")
_AGAIN = 0.02
_BY_SIGNAL = 0.05
_TWICE = 0.1
"""Shares of the moments that are tried."""
_AFTER_RESUME = 12
"""A resumed study makes up to this many more changes than were left to do."""
_TORN = "torn"


@dataclass(frozen=True)
class Crash:
    """One way in which a study can crash."""

    kind: str
    at: int
    """Number of the first change that does not happen, from 1."""
    detail: str = ""
    """For a power cut, what it leaves (`disk.LOSSES`). For a signal, `torn` if half of a write is
    in the file. For a double kill, the change of the second kill."""

    def __str__(self) -> str:
        return ":".join(filter(None, (self.kind, str(self.at), self.detail)))

    @property
    def is_torn(self) -> bool:
        """True for a signal that comes after half of a write."""
        return self.detail == _TORN

    @classmethod
    def read(cls, text: str) -> "Crash":
        """Parse a crash from its printed form."""
        kind, at, *detail = text.split(":")
        return cls(kind, int(at), *detail)


@dataclass(frozen=True)
class Crashes:
    """The crashes of a study.

    Attributes:
        tried: the crashes to try, in random order.
        differing: number of crashes that leave different files or are done by a signal.
        all: number of all crashes, including those that leave the same files.
    """

    tried: list[Crash]
    differing: int
    all: int


def crashes_of(
    root: Path,
    changes: Sequence[Change],
    kinds: Collection[str],
    most: int | None,
    draw: random.Random,
) -> Crashes:
    """Find the crashes of a study.

    Args:
        root: folder of the changes.
        kinds: a selection of `KINDS`.
        most: try at most this many, the same share of each kind; None: all.
        draw: chooses them, and the second kills.
    """
    seen: set[int] = set()
    found: list[Crash] = []
    everything = 0
    disk = Disk(root)
    for at, change in enumerate(changes, 1):
        for crash in _at(at, change, kinds):
            everything += 1
            key = _key(files_left(disk, change, crash))
            if key not in seen or draw.random() < _AGAIN:
                found.append(crash)
            seen.add(key)
        disk.apply(change)

    found += _in_processes(changes, kinds, draw)
    draw.shuffle(found)
    tried = found if most is None else _share(found, most)
    return Crashes(tried, len(found), everything)


def files_left(disk: Disk, change: Change, crash: Crash) -> Files:
    """The files after a crash.

    Args:
        disk: its state before the change that does not happen.
    """
    if crash.kind == "power":
        return disk.left(crash.detail)
    if crash.kind == "torn":
        return disk.torn(change)
    return disk.left()


def _at(at: int, change: Change, kinds: Collection[str]) -> Iterator[Crash]:
    """The crashes before a change, as far as their files can be computed."""
    if "kill" in kinds:
        yield Crash("kill", at)
    if "torn" in kinds and len(change.content) > 1:
        yield Crash("torn", at)
    if "power" in kinds:
        for loss in LOSSES:
            yield Crash("power", at, loss)


def _in_processes(
    changes: Sequence[Change], kinds: Collection[str], draw: random.Random
) -> Iterator[Crash]:
    """Crashes in which a process really is killed. They test the computed ones, and kill the
    process that resumes."""
    for at, change in enumerate(changes, 1):
        if "signal" in kinds and draw.random() < _BY_SIGNAL:
            is_torn = len(change.content) > 1 and draw.random() < 0.5
            yield Crash("signal", at, _TORN if is_torn else "")
        if "double" in kinds and draw.random() < _TWICE:
            rest = len(changes) - at
            yield Crash("double", at, str(draw.randint(1, rest + _AFTER_RESUME)))


def _share(found: Sequence[Crash], most: int) -> list[Crash]:
    """At most this many crashes, with the same share of each kind."""
    by_kind: dict[str, list[Crash]] = defaultdict(list)
    for crash in found:
        by_kind[crash.kind].append(crash)

    part = min(1.0, most / max(1, len(found)))
    chosen: set[Crash] = set()
    for crashes in by_kind.values():
        chosen.update(crashes[: max(1, int(part * len(crashes)))])
    return [crash for crash in found if crash in chosen][:most]


def _key(files: Files) -> int:
    """Hash the files so that files which no reader can tell apart get the same number."""
    return hash(
        tuple((path, None if _is_unread(path) else content) for path, content in files.items())
    )


def _is_unread(path: str) -> bool:
    """True for a partial file, or a file in a partial folder."""
    return any(is_partial(part) for part in Path(path).parts)
