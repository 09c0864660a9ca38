"""Sampled moments of a study on Ray: the driver is killed at one of its changes of files, or a
trial's process at one of its own. In the latter case the run itself has to notice and recover."""

import os
import random
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

from tests import REPO
from tests.crash.marked import MARK, end_marked
from tests.crash.operations import from_start, preloaded, read_changes
from tests.crash.outcome import Facts, constant, differences, facts_of
from tests.crash.tiny import Home, TinyStudy

MINE = '''
"""The toy; a process of a trial is watched from the import of this file on."""

import ctypes
import os
import sys
from dataclasses import replace

from tests.toy import TOY

asked = os.environ.get("VISTUNE_CRASH_TRIAL")
if asked and not sys.argv[0].endswith("run.py"):
    kill_at, folder, once = asked.split()
    watch = ctypes.CDLL(None).crash_watch
    watch(folder.encode(), ctypes.c_long(int(kill_at)), 0, b"", once.encode())

EXPERIMENT = replace(TOY, name="mine")
'''
VICTIMS = ("driver", "trial")
_TRIAL_CHANGES = 60
"""A trial's process makes more changes than this."""
_PATIENCE_S = 600.0


@dataclass(frozen=True)
class RayCrash:
    """A kill of one process of a study on Ray."""

    victim: str
    at: int

    def __str__(self) -> str:
        return f"{self.victim}:{self.at}"


class RayStudy:
    """A tiny study on Ray, with one trial at a time, so that it is the same every time.

    Args:
        workers: processes of each trial.
        same: names of the facts that are the same in every undisturbed run, if known from another
            such study; otherwise it runs twice to find them.
    """

    def __init__(self, folder: Path, workers: int, same: set[str] | None = None):
        name = f"{workers} workers" if workers > 1 else "Ray"
        # a group of workers takes ten seconds to start
        repeats = "1" if workers == 1 else "0"
        words = ("--trials", "2", "--repeats", repeats, "--concurrent", "1", "--pictures", "none")
        more = ("--set", "train.epochs=2", "--workers", str(workers))
        study = TinyStudy(name, (*words, *more), files=(("mine.py", MINE),), mlflow=True)
        self.home = Home(folder, study)
        self._record = folder / "record"
        self._once = folder / "killed"

        self.wanted = self._uninterrupted()
        if same is None:
            same = constant(self.wanted, self._uninterrupted())
        self.same = same & self.wanted.keys()
        self.changes = read_changes(self._record)

    def crashes(self, points: int, seed: int) -> list[RayCrash]:
        """Draw moments, half of them for the driver."""
        draw = random.Random(f"{self.home.study.name} {seed}")
        found = []
        for number in range(points):
            victim = VICTIMS[number % 2]
            last = len(self.changes) if victim == "driver" else _TRIAL_CHANGES
            found.append(RayCrash(victim, draw.randint(1, last)))
        return found

    def after(self, crash: RayCrash) -> list[str]:
        """Let the process be killed, and run the command again. Return everything that is wrong
        then."""
        self.home.clear()
        self._once.unlink(missing_ok=True)
        root = self.home.path
        if crash.victim == "driver":
            self._run(from_start(root, crash.at, once=self._once))
        else:
            asked = f"{crash.at} {root} {self._once}"
            code = self._run(preloaded() | {"VISTUNE_CRASH_TRIAL": asked})
            if code != 0:
                return [
                    f"without its trial's process the command ended with {code}: {self._tail()}"
                ]

        code = self._run(dict(os.environ))
        if code != 0:
            return [f"the resumed command ended with {code}: {self._tail()}"]
        return differences(self.wanted, facts_of(self.home), self.same)

    def _uninterrupted(self) -> Facts:
        self.home.clear()
        code = self._run(from_start(self.home.path, record=self._record))
        assert code == 0, f"exit code {code}: {self._tail()}"
        return facts_of(self.home)

    def _run(self, environment: dict[str, str]) -> int:
        """Run the command to its end, then end everything that it left running."""
        mark = uuid.uuid4().hex
        cache = str(self.home.path.parent / "cache")  # holds MLflow's empty database, made once
        environment = environment | {
            MARK: mark,
            "VISTUNE_CACHE": cache,
            "PYTHONPATH": str(REPO),
            "MLFLOW_TRACKING_URI": "",
        }
        command = [
            sys.executable,
            str(REPO / "tune/run.py"),
            str(self.home.path.parent / "mine.py"),
        ]
        with self.home.said.open("w") as said:
            process = subprocess.Popen(
                [*command, "--storage", "runs", *self.home.study.words],
                cwd=self.home.path,
                env=environment,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                return process.wait(_PATIENCE_S)
            finally:
                end_marked(mark)

    def _tail(self) -> str:
        return " | ".join(self.home.said.read_text(errors="replace").strip().splitlines()[-5:])
