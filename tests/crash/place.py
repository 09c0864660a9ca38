"""A folder in which commands of any checkout are run, and what they leave there."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.crash.marked import MARK, end_marked

_HERE = Path(__file__).parent
Process = subprocess.Popen[bytes]
PATIENCE_S = 600.0


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    """Exit code, or minus the signal that ended it."""
    said: str
    """Everything that it printed."""
    seconds: float

    def __str__(self) -> str:
        last = self.said.strip().splitlines()[-1:] or [""]
        return f"exit {self.code} after {self.seconds:.0f} s: {last[0][:200]}"


class Place:
    """A folder with one study of the toy, `runs/toy`.

    Args:
        folder: to be made.
        checkout: root of the repository whose commands run.
        database: an empty MLflow database to begin with; None: MLflow makes it.
    """

    def __init__(self, folder: Path, checkout: Path, database: Path | None = None):
        self.folder = folder
        self.checkout = checkout
        self.storage = folder / "runs"
        self.study = self.storage / "toy"
        self._mark = uuid.uuid4().hex
        self.storage.mkdir(parents=True)
        shutil.copy(_HERE / "spot.py", folder)
        if database is not None:
            shutil.copy(database, self.storage / "mlflow.db")
            if database.with_name("cache").exists():
                shutil.copytree(database.with_name("cache"), folder / "cache")

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of all commands."""
        return {
            MARK: self._mark,
            "PYTHONPATH": f"{self.checkout}:{self.folder}",
            "VISTUNE_ACT_FOLDER": str(self.folder),
            "VISTUNE_CACHE": str(self.folder / "cache"),
            "MLFLOW_TRACKING_URI": "",
            "OMP_NUM_THREADS": "1",
        }

    # -- commands

    def toy(self, *words: str, act: str = "", **environment: str) -> Done:
        """Run the toy to its end. Arguments as in `start_toy`."""
        began = time.monotonic()
        process = self.start_toy(*words, act=act, **environment)
        try:
            code = process.wait(PATIENCE_S)
        finally:
            self.end()
        return Done(code, self.said, time.monotonic() - began)

    def start_toy(self, *words: str, act: str = "", **environment: str) -> Process:
        """Start `tune/run.py toy`.

        Args:
            act: what goes wrong, as in `toy_command.py`.
        """
        script = [str(_HERE / "toy_command.py"), str(self.checkout), "toy", "--storage", "runs"]
        return self._start([*script, *words], {"VISTUNE_ACT": act, **environment})

    def start(self, file: str, *words: str, **environment: str) -> Process:
        """Start another command of the checkout, such as `tune/report.py`."""
        return self._start([str(self.checkout / file), *words], environment)

    def command(self, file: str, *words: str, **environment: str) -> Done:
        """Run another command of the checkout to its end, such as `tune/report.py`."""
        began = time.monotonic()
        process = self.start(file, *words, **environment)
        try:
            code = process.wait(PATIENCE_S)
        finally:
            self.end()
        return Done(code, self.said, time.monotonic() - began)

    def _start(self, words: list[str], environment: dict[str, str]) -> Process:
        with (self.folder / "said.txt").open("wb") as said:
            return subprocess.Popen(
                [sys.executable, *words],
                cwd=self.folder,
                env=os.environ | self.environment | environment,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_for(self, condition: Callable[[], bool], process: Process) -> None:
        """Wait for a condition while the command runs."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert process.poll() is None, f"ended too soon: {self.said}"
            assert time.monotonic() < deadline, f"waited in vain: {self.said}"
            time.sleep(0.02)

    def kill(self, process: Process) -> None:
        """SIGKILL a command, then end everything that it left running."""
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.end()

    def end(self) -> None:
        """End everything that commands left running."""
        end_marked(self._mark)

    # -- what they leave

    @property
    def said(self) -> str:
        """Everything that the last command printed."""
        return (self.folder / "said.txt").read_text(errors="replace")

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """The events in the study's log, of one kind or of all kinds."""
        log = self.study / "events.jsonl"
        if not log.exists():
            return []
        whole = log.read_text().rpartition("\n")[0].splitlines()
        events = [json.loads(line) for line in whole]
        return [event for event in events if kind in (None, event["event"])]

    def states(self) -> Counter[str]:
        """State in which trials last ended -> number of trials."""
        last = {e["trial"]: e["state"] for e in self.events("end") if e.get("repeat") is None}
        return Counter(last.values())

    def runs(self) -> list[str]:
        """Names of MLflow's runs; none if its database cannot be read."""
        database = self.storage / "mlflow.db"
        if not database.exists():
            return []
        connection = sqlite3.connect(database)
        try:
            return [name for (name,) in connection.execute("SELECT name FROM runs ORDER BY name")]
        except sqlite3.DatabaseError:
            return []
        finally:
            connection.close()

    def texts(self) -> Iterator[tuple[Path, str]]:
        """Yield all files of the place with their content."""
        for path in self.folder.rglob("*"):
            if path.is_file() and path.suffix != ".py":
                yield path, path.read_bytes().decode("latin-1")


Case = Callable[[Place], str]
"""Return what broke, or "" if nothing did."""


def try_each(
    cases: Mapping[str, tuple[str, Case]], names: Iterable[str], place_of: Callable[[str], Place]
) -> int:
    """Try cases, each in its own place, and print a line for each.

    Args:
        cases: name -> numbers of the list that it is about, and the case.
        place_of: makes the place for a name.
    Returns:
        1 if something broke, otherwise 0.
    """
    broken = 0
    for name in names:
        numbers, case = cases[name]
        began = time.monotonic()
        place = place_of(name)
        try:
            found = case(place)
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            found = f"the case itself failed: {error}"
        finally:
            place.end()
        broken += bool(found)
        seconds = time.monotonic() - began
        print(f"{numbers:>5} {name:<18} {seconds:4.0f} s  {found or 'held'}", flush=True)
    return 1 if broken else 0
