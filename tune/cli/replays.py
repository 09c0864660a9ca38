"""Send the studies of a session to MLflow and other destinations during the search."""

import threading
import time
from collections.abc import Callable
from typing import Any

from tune.tracking.replay import Replay

AFTER_START_S = 15.0
"""Replays start this long after a trial's start, or with its first epoch. Importing MLflow would
delay the start, and a first epoch may take half an hour."""
BESIDE_BATCH_S = 60.0
"""The same for `--batch-trials`, where importing MLflow would take a third of a short search's
processor time, in the interpreter that trains."""
LOOK_S = 5.0
_LOOKS = 60
"""Maximum number of checks for destinations that reject everything. Later problems appear in the
last lines of the command."""


class Replays:
    """Replays of several studies, which start soon after the first trial has started.

    Args:
        say: prints a line.
        batched: trials train as a batch in this process; replays start after `BESIDE_BATCH_S`, or
            with `close`.
    """

    def __init__(self, say: Callable[[str], None], *, batched: bool = False):
        self._say = say
        self._batched = batched
        self._all: list[Replay] = []
        self._have_begun = False
        self._changing = threading.Lock()
        self._trains = threading.Event()
        self._closing = threading.Event()
        self._beginner: threading.Thread | None = None

    def add(self, replay: Replay) -> None:
        """Add a replay. It starts with the others, or immediately if they have started."""
        with self._changing:
            self._all.append(replay)
            if self._have_begun:
                replay.start()

    def on_event(self, event: dict[str, Any]) -> None:
        """Start the replays when a trial has reported (not in a batch), or some seconds after its
        start."""
        if event["event"] == "start" and self._beginner is None:
            self._beginner = threading.Thread(
                target=self._begin_in_time, name="begin of replays", daemon=True
            )
            self._beginner.start()
        if event["event"] == "report" and not self._batched and not self._trains.is_set():
            self._trains.set()
            self._begin()

    def close(self, drain_s: float) -> list[str]:
        """End all replays, within `drain_s` seconds in total. Return the titles of the destinations
        that lack events."""
        self._begin()
        self._closing.set()
        self._trains.set()
        for replay in self._all:
            replay.last_call()

        deadline = time.monotonic() + drain_s
        behind: dict[str, None] = {}
        for replay in self._all:
            if not replay.close(deadline - time.monotonic()):
                behind[replay.destination.title] = None
        return list(behind)

    def _begin(self) -> None:
        with self._changing:
            if self._have_begun:
                return
            self._have_begun = True
            for replay in self._all:
                replay.start()

    def _begin_in_time(self) -> None:
        """Start the replays, and report early if a destination rejects everything, e.g. because of
        a wrong address."""
        self._trains.wait(BESIDE_BATCH_S if self._batched else AFTER_START_S)
        self._begin()

        refused: set[str] = set()
        told: set[str] = set()
        for _ in range(_LOOKS):
            if self._closing.wait(LOOK_S):
                return
            problems = self._problems()
            for place in sorted(problems.keys() & refused - told):  # failed twice
                told.add(place)
                self._say(
                    f"note: {place} takes nothing so far ({problems[place]}); the study continues, "
                    "and what is missing is sent when it answers"
                )
            refused = set(problems)

    def _problems(self) -> dict[str, str]:
        """Return the destinations whose last attempt failed, with the reason."""
        with self._changing:
            replays = list(self._all)

        found = {}
        for replay in replays:
            problem = replay.problem
            if problem is not None:
                where = replay.destination.where(replay.study_dir)
                found[f"{replay.destination.title} at {where}"] = problem
        return found
