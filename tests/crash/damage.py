"""Damage the files of a study as a disk, an interrupted copy, an editor or a script can.

    python -m tests.crash.damage                 every damage of the toy's record
    python -m tests.crash.damage --only trials/0000
    python -m tests.crash.damage --only journal --lines      each of its lines is lost

After each damage the same command runs once more. It never ends with a traceback. Either it refuses
with a line that names the file, or its record is consistent: every trial once, log and journal
equal. If that is not the earlier record, the command says so.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.crash import operations
from tests.crash.disk import Disk, Files, read_files, restore
from tests.crash.operations import read_changes

_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

Damage = Callable[[bytes], bytes | None]
"""Content -> damaged content, or None if the damage does not apply."""


def _lines(change: Callable[[list[bytes], int], list[bytes]]) -> Damage:
    """A damage to the middle line."""

    def damage(content: bytes) -> bytes | None:
        lines = content.splitlines(keepends=True)
        if len(lines) < 3 or b"\0" in content:
            return None
        return b"".join(change(lines, len(lines) // 2))

    return damage


def _text(change: Callable[[bytes], bytes]) -> Damage:
    return lambda content: None if b"\0" in content or not content else change(content)


RECORD = ("toy/events.jsonl", "toy/study.journal", "toy/study.json")
"""The files that a study needs."""

DAMAGES: dict[str, Damage] = {
    "empty": lambda content: b"" if content else None,
    "half": lambda content: content[: len(content) // 2] if len(content) > 1 else None,
    "zeros": lambda content: bytes(len(content)) if content else None,
    "noise": lambda content: bytes(7 * n * n % 251 + 1 for n in range(len(content) or 9)),
    "tail": lambda content: content + bytes(100),
    "line lost": _lines(lambda lines, n: lines[:n] + lines[n + 1 :]),
    "last lost": _lines(lambda lines, n: lines[:-1]),
    "first lost": _lines(lambda lines, n: lines[1:]),
    "line twice": _lines(lambda lines, n: [*lines[:n], lines[n], *lines[n:]]),
    "line noise": _lines(lambda lines, n: [*lines[:n], b'{"x": [1, \xff\n', *lines[n + 1 :]]),
    "line other": _lines(lambda lines, n: [*lines[:n], b"[]\n", *lines[n + 1 :]]),
    "swapped": _lines(lambda lines, n: [*lines[:n], lines[n + 1], lines[n], *lines[n + 2 :]]),
    "crlf": _text(lambda content: content.replace(b"\n", b"\r\n")),
    "mark": _text(lambda content: b"\xef\xbb\xbf" + content),
    "null": _text(lambda content: b"null\n"),
    "list": _text(lambda content: b"[1]\n"),
}
"""Name -> change of a file's content."""
_LOST = "lost line "
PLACES = ("missing", "folder", "dangling")
"""Damages that leave no file: nothing, a folder, a dangling link."""


def damaged(root: Path, path: str, name: str) -> bool:
    """Damage a file. Return False if the damage does not apply."""
    file = Path(path)
    if name in PLACES:
        file.unlink()
        if name == "folder":
            file.mkdir()
        if name == "dangling":
            file.symlink_to(root / "nowhere")
        return True

    before = file.read_bytes()
    if name.startswith(_LOST):
        lines = before.splitlines(keepends=True)
        del lines[int(name.removeprefix(_LOST))]
        file.write_bytes(b"".join(lines))
        return True
    left = DAMAGES[name](before)
    if left is None or left == before:
        return False
    file.write_bytes(left)
    return True


class Damaged:
    """A study that is damaged again and again.

    Args:
        folder: for scratch files.
        half: True if the study was killed in the middle, False if it has reached its end.
    """

    def __init__(self, folder: Path, half: bool):
        from tests.crash.outcome import facts_of
        from tests.crash.tiny import STUDIES, Home

        self.home = Home(folder, STUDIES["toy"])
        self.home.clear()
        assert self.home.run(record=True) == 0
        self.wanted = facts_of(self.home)
        self.files: Files = read_files(self.home.path)
        if half:
            changes = read_changes(self.home.record)
            self.files = Disk(self.home.path).apply_all(changes[: len(changes) // 2]).left()

    def names(self) -> Iterator[str]:
        """Paths of the files, but only the first and the last of the trials."""
        trials = sorted({path for path in self.files if Path(path).parent.name == "trials"})
        passed_over = trials[1:-1]
        for path, content in self.files.items():
            if content is not None and not path.startswith(tuple(passed_over)):
                yield path

    def damages(self, path: str) -> list[str]:
        """Damages that each lose one line of a file."""
        content = self.files[path] or b""
        return [f"{_LOST}{number}" for number in range(len(content.splitlines()))]

    def after(self, path: str, name: str) -> str | None:
        """Damage a file and run the command. Return the result, or None if the damage does not
        apply."""
        shutil.rmtree(self.home.path)
        self.home.path.mkdir()
        restore(self.home.path, self.files)
        if not damaged(self.home.path, path, name):
            return None
        code = self.home.run()
        said = self.home.said.read_text(errors="replace")
        return self._judged(Path(path).name, code, said)

    def _judged(self, name: str, code: int, said: str) -> str:
        last = (said.strip().splitlines() or [""])[-1]
        if "Traceback" in said or code not in (0, 1, 2):
            return f"WRONG exit {code}: {last}"
        # a manifest that can be read may be refused for a value, as if edited by hand
        names_it = name in said or "exists with another configuration" in said
        if code != 0:
            return f"{'refused' if names_it else 'WRONG refused without its name'}: {last[:300]}"

        wrong = self._disagreements()
        if wrong:
            return f"WRONG {wrong[0]} (of {len(wrong)})"
        if self._is_as_before():
            return "as before"
        notes = [line for line in said.splitlines() if name in line]
        return f"told: {notes[0][:200]}" if notes else "WRONG another record, and not a word"

    def _is_as_before(self) -> bool:
        from tests.crash.outcome import facts_of

        facts = facts_of(self.home)
        science = [key for key in self.wanted if "trial" in key and "file" not in key]
        science = [key for key in science if key.startswith("toy: Optuna's trial")]
        # without the trial's user attributes in Optuna, such as the path of the weights, which
        # nobody reads
        return all((facts.get(key) or [])[:-1] == self.wanted[key][:-1] for key in science)

    def _disagreements(self) -> list[str]:
        """Return the contradictions within the record."""
        from tests.crash.outcome import facts_of
        from tune.study.events import EventLog

        events, _ = EventLog.read(self.home.storage / "toy/events.jsonl")
        wrong = []
        said: dict[Any, Any] = {}
        for event in events:
            if event["event"] not in ("report", "end"):
                continue
            # A line that is there twice has the same content. A start that was written back repeats
            # the end after it.
            key = event["event"], event["trial"], event.get("repeat"), event.get("epoch")
            what = event.get("state"), event.get("value"), event["metrics"].get("val/top1")
            if said.setdefault(key, what) != what:
                wrong.append(f"{key} is there twice, as {said[key]} and as {what}")
        facts = facts_of(self.home)
        states = {
            e["trial"]: e["state"] for e in events if e["event"] == "end" and "repeat" not in e
        }
        for number in range(4):
            trial: Any = facts.get(f"toy: Optuna's trial {number}", [None])
            if trial[0] != states.get(number):
                wrong.append(
                    f"trial {number} is {states.get(number)} in the log, {trial[0]} in Optuna"
                )
        return wrong


def main() -> int:
    """Parse argv, damage files, print. Return 1 if something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.damage", description=__doc__)
    parser.add_argument("--only", help="files with this in their path; default: the record's")
    parser.add_argument("--lines", action="store_true", help="each line is lost, and nothing else")
    parser.add_argument("--quiet", action="store_true", help="print what is wrong alone")
    options = parser.parse_args()
    if not operations.is_preloaded():
        environment = operations.preloaded() | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
        os.execve(
            sys.executable, [sys.executable, "-m", "tests.crash.damage", *sys.argv[1:]], environment
        )

    from tests.crash.tiny import prepare

    prepare()
    came: Counter[str] = Counter()
    for half in (False, True):
        with tempfile.TemporaryDirectory(prefix="vistune-damage-", dir=_MEMORY) as scratch:
            study = Damaged(Path(scratch), half)
            for path in study.names():
                shown = os.path.relpath(path, study.home.path)
                wanted = (options.only,) if options.only else RECORD
                if not any(part in shown for part in wanted):
                    continue
                for name in study.damages(path) if options.lines else (*PLACES, *DAMAGES):
                    outcome = study.after(path, name)
                    if outcome is None:
                        continue
                    came[outcome.split(":")[0].split()[0]] += 1
                    if not options.quiet or outcome.startswith("WRONG"):
                        state = "half" if half else "whole"
                        print(f"{state:<6}{shown:<44} {name:<11} {outcome}", flush=True)
    print(json.dumps(came))
    return 1 if came["WRONG"] else 0


if __name__ == "__main__":
    sys.exit(main())
