"""Try every crash of a study, one after the other; see the package's docstring."""

import json
import os
import random
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.crash.crashes import KINDS, Crash, Crashes, crashes_of, files_left
from tests.crash.disk import Disk, read_files, restore
from tests.crash.operations import Change, read_changes
from tests.crash.outcome import Facts, constant, differences, facts_of
from tests.crash.tiny import Home, TinyStudy


@dataclass
class Findings:
    """The results of many crashes."""

    tried: dict[str, int] = field(default_factory=dict)
    """Kind -> number of crashes tried."""
    changes: int = 0
    """Number of changes of the undisturbed study."""
    crashes: int = 0
    """Number of its crashes, including those that leave the same files."""
    differing: int = 0
    """Number of those that leave different files."""
    bad: dict[str, list[str]] = field(default_factory=dict)
    """Crash -> everything that is wrong after it."""

    @property
    def leftovers(self) -> int:
        """Crashes after which there were additional files, and nothing else was wrong."""
        return sum(
            all(line.startswith("left over: file") for line in found) for found in self.bad.values()
        )

    @property
    def unrecovered(self) -> int:
        """Crashes after which anything else was wrong."""
        return len(self.bad) - self.leftovers

    def add(self, other: "Findings") -> None:
        """Add the findings of another process."""
        self.tried = dict(Counter(self.tried) + Counter(other.tried))
        self.changes = max(self.changes, other.changes)
        self.crashes = max(self.crashes, other.crashes)
        self.differing = max(self.differing, other.differing)
        self.bad |= other.bad


class Enumerator:
    """Try crashes of one study in one place."""

    def __init__(self, folder: Path, study: TinyStudy):
        self.home = Home(folder, study)
        first = self._uninterrupted()
        self.wanted = self._uninterrupted()
        self.same = constant(first, self.wanted)
        only_one = sorted(first.keys() ^ self.wanted.keys())
        assert not only_one, f"not the same from run to run: {only_one}"
        self.changes: list[Change] = read_changes(self.home.record)
        _check_record(self.home.path, self.changes)

    def crashes(self, kinds: tuple[str, ...], points: int | None, seed: int) -> Crashes:
        """The crashes to try.

        Args:
            points: at most this many; None: all, or as many as the study says.
        """
        draw = random.Random(f"{self.home.study.name} {seed}")
        most = self.home.study.most if points is None else points
        return crashes_of(self.home.path, self.changes, kinds, most, draw)

    def after(self, crash: Crash) -> list[str]:
        """Let the study crash and resume. Return everything that is wrong then."""
        self.home.clear()
        if crash.kind == "signal":
            self.home.run(crash.at, torn=crash.is_torn)
        else:
            before = self.changes[: crash.at - 1]
            disk = Disk(self.home.path).apply_all(before)
            restore(self.home.path, files_left(disk, self.changes[crash.at - 1], crash))
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


def _check_record(root: Path, changes: list[Change]) -> None:
    """Check that the changes explain every byte that the study left, because the files after a kill
    are computed from them."""
    computed = Disk(root).apply_all(changes).left()
    found = read_files(root)
    other = [
        path
        for path in found.keys() | computed.keys()
        if found.get(path, b"?") != computed.get(path, b"?")
    ]
    assert not other, f"changes of these were not seen: {sorted(other)}"


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
    """Try the crashes of a study in several processes, and print a line for each that it did not
    recover from.

    Args:
        folder: for scratch files; each process has a folder below it.
        points: try at most this many; None: all, or as many as the study says.
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
    """Try a share of the crashes, then end this process."""
    try:
        number, jobs = share
        enumerator = Enumerator(folder / f"{study.name}-{number}", study)
        crashes = enumerator.crashes(kinds, points, seed)
        changes = len(enumerator.changes)
        findings = Findings({}, changes, crashes.all, crashes.differing)
        tried: Counter[str] = Counter()
        for crash in crashes.tried[number::jobs]:
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
