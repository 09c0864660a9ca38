"""Draw pictures of a study's data and of completed trials in a low-priority process during the
search."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainables.errors import UserError
from tune.reports.drawing_claim import DrawingClaim
from tune.reports.drawing_process import DrawingProcess, Drawn
from tune.reports.undrawn import (
    Undrawn,
    is_shown,
    of_trial,
    still_wanted,
    undrawn,
    write_wanted,
)
from tune.study.study import Study

_SETTLED = 0.75
"""Share of a search after which the best trials are drawn. Of 12 trials in random order, three are
drawn and overtaken if drawing starts at once (of 16, four), and one if it starts then."""
_LONGEST_WAIT_S = 300
"""A trial that has been among the best for so long is drawn at any time."""
_LOOK_S = 5


class Pictures:
    """Draws the snapshots of completed trials (`*.npz`) and logs `artifact` events.

    One thread takes trial after trial from all watched studies, so drawing continues while the next
    study searches. A trial other than the default waits until most of the search is over, because
    its pictures would be for nothing if it were overtaken.
    """

    def __init__(self, drawn: Drawn = "best") -> None:
        self._which = drawn
        self._wanted: dict[Path, Drawn] = {}  # by study
        self._studies: dict[Path, Study] = {}
        self._claims: dict[Path, DrawingClaim] = {}
        self._waiting: list[Undrawn] = []  # including the one being drawn
        self._values: dict[Path, dict[int, float]] = {}  # study -> completed trials
        self._begun: Counter[Path] = Counter()  # trials per study
        self._since: dict[Undrawn, float] = {}  # when a trial began to wait
        self._drawn: Counter[Path] = Counter()  # trials per study
        self._failed = 0  # trials whose drawing failed, e.g. for lack of memory
        self._changed = threading.Condition()
        self._trains = False
        self._closing = False
        self._given_up = False
        self._process = DrawingProcess()
        self._thread = threading.Thread(target=self._work, name="pictures", daemon=True)
        self._thread.start()

    def watch(self, study: Study) -> None:
        """Draw the trials that will complete, and those that an earlier run left undrawn.

        A background process of an earlier run stops drawing.

        Raises:
            UserError: the folder cannot be written.
        """
        folder, manifest = study.directory, study.manifest
        try:
            self._claims[folder] = DrawingClaim(folder)
            wanted = still_wanted(folder, manifest, study.completed, self._which)
            write_wanted(folder, wanted)
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror}") from error
        self._wanted[folder] = wanted
        if wanted == "none":
            return

        def on_event(event: dict[str, object]) -> None:
            self._note_training(folder, event)
            completed = event["event"] == "end" and event["state"] == "COMPLETE"
            if completed and "repeat" not in event and event["value"] is not None:
                number, value = event["trial"], event["value"]
                self._add(of_trial(folder, manifest, number, value))  # type: ignore[arg-type]

        self._studies[folder] = study
        self._values[folder] = dict(study.completed)
        self._begun[folder] = len(list(folder.glob("trials/*")))
        study.observers.append(on_event)
        for one in undrawn(folder, manifest, self._values[folder], wanted):
            self._add(one)

    def close(self, patience_s: float = 0.0, enough: Callable[[], bool] = lambda: False) -> int:
        """Stop drawing, after waiting for the remaining pictures.

        Args:
            patience_s: maximum wait, in seconds.
            enough: ends the wait when it returns True.
        Returns:
            The number of trials left without pictures.
        """
        deadline = time.monotonic() + patience_s
        with self._changed:
            self._closing = True
            self._changed.notify()

        while self._thread.is_alive() and time.monotonic() < deadline and not enough():
            self._thread.join(0.05)

        with self._changed:
            self._given_up = True
            self._process.kill()
            self._changed.notify()
        self._thread.join()
        left = sum(one.may_be_drawn for one in self._shown()) + self._failed
        for claim in self._claims.values():
            claim.release()
        return left

    def _note_training(self, folder: Path, event: dict[str, Any]) -> None:
        """Start drawing at the first report of a trial. Before that, the machine is busy starting
        up."""
        if event["event"] != "report":
            return
        begun = (event.get("trial") or 0) + 1
        if self._trains and begun <= self._begun[folder]:
            return
        with self._changed:
            self._trains = True
            self._begun[folder] = max(self._begun[folder], begun)
            self._changed.notify()

    def _add(self, one: Undrawn) -> None:
        with self._changed:
            if one.number is not None:
                self._values[one.study][one.number] = one.value
            if not one.is_recorded:
                self._waiting.append(one)
                self._since[one] = time.monotonic()
                self._changed.notify()

    def _shown(self) -> list[Undrawn]:
        """Return the waiting items whose pictures are currently wanted."""
        return [
            one
            for one in self._waiting
            if is_shown(one.number, self._values[one.study], self._wanted[one.study])
        ]

    def _due(self) -> list[Undrawn]:
        """Return the waiting items to draw now."""
        return [one for one in self._shown() if self._closing or self._is_settled(one)]

    def _is_settled(self, one: Undrawn) -> bool:
        """False for a trial that may well be overtaken."""
        if not one.number or self._wanted[one.study] == "all":  # the data, and the default
            return True
        if self._begun[one.study] >= _SETTLED * self._studies[one.study].trials:
            return True
        return time.monotonic() - self._since[one] > _LONGEST_WAIT_S

    def _work(self) -> None:
        while (one := self._next()) is not None:
            is_done = self._draw(one)
            self._drawn[one.study] += 1
            with self._changed:
                if is_done or not self._given_up:
                    self._waiting.remove(one)
                    self._failed += not is_done
        self._process.close()

    def _next(self) -> Undrawn | None:
        """Wait for the next trial; None if nothing is left to draw.

        The study with the fewest pictures comes first, and within it the best trial, because time
        may run out when the last study ends.
        """

        def order(one: Undrawn) -> tuple[int, float]:
            return self._drawn[one.study], -one.value

        with self._changed:
            while not (self._closing or (self._trains and self._due())):
                self._changed.wait(_LOOK_S)
            due = self._due()
            if self._given_up or not due:
                return None
            return min(due, key=order)

    def _draw(self, one: Undrawn) -> bool:
        """Draw the pictures of a trial. Return False if they remain to be drawn. A missing picture
        must not end a study."""
        try:
            snapshots = one.snapshots()
            if not snapshots:
                return True
            if not self._start(one):
                return False
            if not self._process.draw(one.title, snapshots, one.folder / "plots"):
                return False
            one.record(self._studies[one.study].emit)
        except (UserError, OSError):  # the study's next write reports a full disk
            return False
        return True

    def _start(self, one: Undrawn) -> bool:
        """Start the process if it is not running; False if the pictures are no longer wanted."""
        if not self._claims[one.study].take(lambda: self._given_up):
            return False
        with self._changed:
            if not self._given_up:
                self._process.start()
            return not self._given_up
