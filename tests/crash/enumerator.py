"""Every crash of a study, one after the other; see the package's docstring."""

import json
import os
import random
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.crash.disk import LOSSES, Disk
from tests.crash.operations import Change, read_changes
from tests.crash.outcome import Facts, constant, differences, facts_of
from tests.crash.tiny import Home, TinyStudy
from trainables.files import is_partial

KINDS = ("kill", "torn", "power", "double")
_OF_PARTIALS = 0.1
_TWICE = 0.25
"""Shares of the moments that are tried."""
_AFTER_RESUME = 12
"""A resumed study changes so many files more than what was left to do."""


@dataclass(frozen=True)
class Crash:
    """One way in which a study can come to grief."""

    kind: str
    at: int
    """Number of the change, from 1: it does not happen any more."""
    detail: str = ""
    """What a power cut leaves (`disk.LOSSES`); of a double kill the change of the second one."""

    def __str__(self) -> str:
        return ":".join(filter(None, (self.kind, str(self.at), self.detail)))

    @classmethod
    def read(cls, text: str) -> "Crash":
        """Read a crash as it is printed."""
        kind, at, *detail = text.split(":")
        return cls(kind, int(at), *detail)


@dataclass
class Findings:
    """The results of many crashes."""

    tried: dict[str, int] = field(default_factory=dict)
    """Kind -> number."""
    changes: int = 0
    """Changes of the study that nothing happened to."""
    bad: dict[str, list[str]] = field(default_factory=dict)
    """Crash -> everything that is wrong after it."""

    @property
    def leftovers(self) -> int:
        """Crashes after which there were files too many, and nothing else was wrong."""
        return sum(
            all(line.startswith("left over: file") for line in found) for found in self.bad.values()
        )

    @property
    def unrecovered(self) -> int:
        """Crashes after which anything else was wrong."""
        return len(self.bad) - self.leftovers

    def add(self, other: "Findings") -> None:
        """Take in those of another process."""
        self.tried = dict(Counter(self.tried) + Counter(other.tried))
        self.changes = max(self.changes, other.changes)
        self.bad |= other.bad


class Enumerator:
    """Tries crashes of one study in one place."""

    def __init__(self, folder: Path, study: TinyStudy):
        self.home = Home(folder, study)
        first = self._uninterrupted()
        self.wanted = self._uninterrupted()
        self.same = constant(first, self.wanted)
        only_one = sorted(first.keys() ^ self.wanted.keys())
        assert not only_one, f"not the same from run to run: {only_one}"
        self.changes: list[Change] = read_changes(self.home.record)

    def crashes(self, kinds: tuple[str, ...], points: int | None, seed: int) -> list[Crash]:
        """The crashes to try, in an order by chance.

        Args:
            points: so many of them at most; None: all.
        """
        draw = random.Random(f"{self.home.study.name} {seed}")
        found = [crash for kind in kinds for crash in self._of_kind(kind, draw)]
        draw.shuffle(found)
        return found[:points]

    def after(self, crash: Crash) -> list[str]:
        """Let the study crash and resume. Returns everything that is wrong then."""
        self.home.clear()
        if crash.kind == "power":
            Disk(self.home.path).apply_all(self.changes[: crash.at - 1]).restore(crash.detail)
        else:
            self.home.run(crash.at, torn=crash.kind == "torn")
        if crash.kind == "double":
            self.home.run(int(crash.detail))
        return self._resumed()

    def _resumed(self) -> list[str]:
        code = self.home.run()
        if code != 0:
            said = self.home.said.read_text(errors="replace").strip().splitlines()
            return [f"the resumed command ended with {code}: {' | '.join(said[-3:])}"]
        try:
            found = facts_of(self.home)
        except Exception as error:
            return [f"its record cannot be read: {error!r}"]
        return differences(self.wanted, found, self.same)

    def _uninterrupted(self) -> Facts:
        self.home.clear()
        code = self.home.run(record=True)
        assert code == 0, f"exit code {code}: {self.home.said.read_text()}"
        return facts_of(self.home)

    def _of_kind(self, kind: str, draw: random.Random) -> Iterator[Crash]:
        if kind == "power":
            yield from self._power_cuts(draw)
            return

        number = len(self.changes)
        for at in self._moments(draw):
            is_long = len(self.changes[at - 1].content) > 1
            if kind == "kill" or (kind == "torn" and is_long):
                yield Crash(kind, at)
            elif kind == "double" and draw.random() < _TWICE:
                second = draw.randint(1, number - at + _AFTER_RESUME)
                yield Crash(kind, at, str(second))

    def _moments(self, draw: random.Random) -> list[int]:
        """The changes to end before: all but most of those that go on writing one partial file,
        which nobody will read."""
        moments = []
        before: Change | None = None
        for at, change in enumerate(self.changes, 1):
            goes_on = before is not None and (before.kind, before.path) == (
                change.kind,
                change.path,
            )
            is_more = goes_on and change.kind == "write" and is_partial(change.path)
            if not is_more or draw.random() < _OF_PARTIALS:
                moments.append(at)
            before = change
        return moments

    def _power_cuts(self, draw: random.Random) -> Iterator[Crash]:
        """Those of them that leave something else than an earlier one."""
        moments = set(self._moments(draw))
        seen: set[int] = set()
        disk = Disk(self.home.path)
        for at, change in enumerate(self.changes, 1):
            for loss in LOSSES if at in moments else ():
                left = hash(frozenset(disk.left(loss).items()))
                if left not in seen:
                    seen.add(left)
                    yield Crash("power", at, loss)
            disk.apply(change)


def enumerate_crashes(
    folder: Path,
    study: TinyStudy,
    *,
    kinds: tuple[str, ...] = KINDS,
    points: int | None = None,
    seed: int = 0,
    jobs: int = 1,
    tell: Callable[[str], None] = print,
) -> Findings:
    """Try the crashes of a study in several processes; a line for each that is not recovered from.

    Args:
        folder: of scratch files, one folder below it for each process.
        points: try so many of them at most; None: all.
        seed: chooses them, and the second kills.
        jobs: number of processes.
    """
    workers = []
    for number in range(jobs):
        answer = folder / f"{study.name}-{number}.json"
        pid = os.fork()
        if pid == 0:
            _work(folder, study, kinds, points, seed, (number, jobs), answer, tell)
        workers.append((pid, answer))

    findings = Findings()
    for pid, answer in workers:
        _, status = os.waitpid(pid, 0)
        assert status == 0, f"a process of the enumerator ended with status {status}"
        findings.add(Findings(**json.loads(answer.read_text())))
    return findings


def _work(
    folder: Path,
    study: TinyStudy,
    kinds: tuple[str, ...],
    points: int | None,
    seed: int,
    share: tuple[int, int],
    answer: Path,
    tell: Callable[[str], None],
) -> None:
    """Try a share of the crashes, and end this process."""
    try:
        number, jobs = share
        enumerator = Enumerator(folder / f"{study.name}-{number}", study)
        findings = Findings(changes=len(enumerator.changes))
        tried: Counter[str] = Counter()
        for crash in enumerator.crashes(kinds, points, seed)[number::jobs]:
            began = time.monotonic()
            wrong = enumerator.after(crash)
            tried[crash.kind] += 1
            if wrong:
                findings.bad[str(crash)] = wrong
                change = enumerator.changes[crash.at - 1]
                seconds = time.monotonic() - began
                tell(f"{study.name} {crash} (before {change}; {seconds:.1f} s): {wrong[0]}")
        findings.tried = dict(tried)
        answer.write_text(json.dumps(asdict(findings)))
    except BaseException:
        tell(f"{study.name}: {traceback.format_exc()}")
        os._exit(1)
    os._exit(0)
