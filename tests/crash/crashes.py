"""The ways in which a study can come to grief, by the record of its changes.

A study is no more than its files. Two crashes that leave the same files are one, and the first of
them stands for all: a kill before a sync leaves what a kill after it does, and most power cuts
leave what an earlier kill has left. Nobody reads a partial file, so what is in one makes no
difference either; of those that are left out for this reason or another, one in fifty is tried all
the same.
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
"""A resumed study changes so many files more than what was left to do."""
_TORN = "torn"


@dataclass(frozen=True)
class Crash:
    """One way in which a study can come to grief."""

    kind: str
    at: int
    """Number of the change, from 1: it does not happen any more."""
    detail: str = ""
    """What a power cut leaves (`disk.LOSSES`); of a signal `torn`, where half of a write comes
    through; of a double kill the change of the second one."""

    def __str__(self) -> str:
        return ":".join(filter(None, (self.kind, str(self.at), self.detail)))

    @property
    def is_torn(self) -> bool:
        """True for a signal that half of a write precedes."""
        return self.detail == _TORN

    @classmethod
    def read(cls, text: str) -> "Crash":
        """Read a crash as it is printed."""
        kind, at, *detail = text.split(":")
        return cls(kind, int(at), *detail)


@dataclass(frozen=True)
class Crashes:
    """The crashes of a study.

    Attributes:
        tried: those that are tried, in an order by chance.
        differing: number of those that leave different files, or are done by a signal.
        all: number of all, with those that leave the same files.
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
        kinds: of `KINDS`.
        most: try so many of them at most, of each kind its share; None: all.
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
        disk: before the change that does not happen any more.
    """
    if crash.kind == "power":
        return disk.left(crash.detail)
    if crash.kind == "torn":
        return disk.torn(change)
    return disk.left()


def _at(at: int, change: Change, kinds: Collection[str]) -> Iterator[Crash]:
    """The crashes before a change whose files are known without a process that is killed."""
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
    """Crashes of a process that really is killed: as a test of those that are computed, and of a
    process that resumes."""
    for at, change in enumerate(changes, 1):
        if "signal" in kinds and draw.random() < _BY_SIGNAL:
            is_torn = len(change.content) > 1 and draw.random() < 0.5
            yield Crash("signal", at, _TORN if is_torn else "")
        if "double" in kinds and draw.random() < _TWICE:
            rest = len(changes) - at
            yield Crash("double", at, str(draw.randint(1, rest + _AFTER_RESUME)))


def _share(found: Sequence[Crash], most: int) -> list[Crash]:
    """At most so many of them, of each kind as large a part as of the others."""
    by_kind: dict[str, list[Crash]] = defaultdict(list)
    for crash in found:
        by_kind[crash.kind].append(crash)

    part = min(1.0, most / max(1, len(found)))
    chosen: set[Crash] = set()
    for crashes in by_kind.values():
        chosen.update(crashes[: max(1, int(part * len(crashes)))])
    return [crash for crash in found if crash in chosen][:most]


def _key(files: Files) -> int:
    """A number that is the same for files between which no reader can tell."""
    return hash(
        tuple((path, None if _is_unread(path) else content) for path, content in files.items())
    )


def _is_unread(path: str) -> bool:
    """True for a partial file, or one in a partial folder."""
    return any(is_partial(part) for part in Path(path).parts)
