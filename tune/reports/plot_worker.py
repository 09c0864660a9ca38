"""Pictures of a study's data and of completed trials, drawn by a low-priority process beside the
search."""

import contextlib
import heapq
import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trainables.errors import UserError
from tune.object_store import s3
from tune.reports.drawing_process import DrawingProcess, Drawn
from tune.study.study import Study

_BEST = 3
_TIMEOUT_S = 300  # for the pictures of one trial
_RECORDED = "plots/.recorded"
"""In the folder of a trial or of the study: all its pictures are drawn and in the event log.
Without this file the next
start draws them again."""


DATA = "data.npz"
"""In a study's folder: images that stand for its data (`trainables/plots/data_sample.py`)."""


def data_is_drawn(folder: Path) -> bool:
    """Tell if the picture of a study's data is drawn and on record."""
    return (folder / _RECORDED).exists()


@dataclass(frozen=True)
class _Undrawn:
    """A trial, or a study's data, whose pictures are not drawn yet."""

    study: Study
    number: int | None
    """None: the data."""
    value: float

    @property
    def folder(self) -> Path:
        if self.number is None:
            return self.study.directory
        return self.study.directory / "trials" / f"{self.number:04d}"

    @property
    def title(self) -> str:
        name = self.study.manifest.name
        if self.number is None:
            return f"{name}: {self.study.manifest.data['name']}"
        return f"{name} trial {self.number}"

    def snapshots(self) -> list[Path]:
        """Files to be drawn.

        Raises:
            UserError: the object store does not give them.
        """
        if self.number is None:
            return [self.folder / DATA]
        return sorted(s3.present_in(self.folder).glob("*.npz"))


class Pictures:
    """Draws what completed trials leave behind (`*.npz`), and logs `artifact` events.

    A thread takes one trial after another, from all studies that are watched: drawing continues
    while the next study searches. A trial that is not among the best any more when its turn comes
    is left out; `all` of a later start draws it.
    """

    def __init__(self, drawn: Drawn = "best") -> None:
        self._which = drawn
        self._waiting: list[_Undrawn] = []  # including the one that is being drawn
        self._values: dict[Path, dict[int, float]] = {}  # study -> completed trials
        self._drawn: Counter[Path] = Counter()  # trials per study
        self._changed = threading.Condition()
        self._closing = False
        self._given_up = False
        self._process = DrawingProcess()
        self._thread = threading.Thread(target=self._work, name="pictures", daemon=True)
        self._thread.start()

    def watch(self, study: Study) -> None:
        """Draw the trials that will complete, and those that an earlier start left undrawn."""
        if self._which == "none":
            return

        def on_event(event: dict[str, object]) -> None:
            completed = event["event"] == "end" and event["state"] == "COMPLETE"
            if completed and "repeat" not in event and event["value"] is not None:
                self._add(_Undrawn(study, event["trial"], event["value"]))  # type: ignore[arg-type]

        study.observers.append(on_event)
        if (study.directory / DATA).exists() and not data_is_drawn(study.directory):
            self._add(_Undrawn(study, None, math.inf))
        for trial in study.frozen_trials():
            if trial.state.name == "COMPLETE" and trial.value is not None:
                self._add(_Undrawn(study, trial.number, trial.value))

    def close(self, patience_s: float, enough: Callable[[], bool] = lambda: False) -> int:
        """Wait for the remaining pictures, then stop.

        Args:
            patience_s: longest wait, in seconds.
            enough: ends the wait when it returns True.
        Returns:
            The number of trials without pictures; the next start of their studies draws them.
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
            left = len(self._shown())
        self._thread.join()
        return left

    def _add(self, undrawn: _Undrawn) -> None:
        with self._changed:
            if undrawn.number is not None:
                values = self._values.setdefault(undrawn.study.directory, {})
                values[undrawn.number] = undrawn.value
            if not (undrawn.folder / _RECORDED).exists():
                self._waiting.append(undrawn)
                self._changed.notify()

    def _shown(self) -> list[_Undrawn]:
        """Those that wait and are shown, as things stand."""
        return [undrawn for undrawn in self._waiting if self._is_shown(undrawn)]

    def _is_shown(self, undrawn: _Undrawn) -> bool:
        if self._which == "all" or not undrawn.number:  # the data, and the default
            return True
        values = self._values[undrawn.study.directory]
        best = heapq.nlargest(_BEST, values, key=values.__getitem__)
        return undrawn.number in best

    def _work(self) -> None:
        while (undrawn := self._next()) is not None:
            self._draw(undrawn)
            self._drawn[undrawn.study.directory] += 1
            with self._changed:
                self._waiting.remove(undrawn)
        self._process.close()

    def _next(self) -> _Undrawn | None:
        """Wait for a trial; None: there is nothing more to draw.

        The study with the fewest pictures comes first, and in it the best trial: time may run out
        when the last study ends.
        """

        def order(undrawn: _Undrawn) -> tuple[int, float]:
            return self._drawn[undrawn.study.directory], -undrawn.value

        with self._changed:
            self._changed.wait_for(lambda: self._shown() or self._closing)
            shown = self._shown()
            if self._given_up or not shown:
                return None
            return min(shown, key=order)

    def _draw(self, undrawn: _Undrawn) -> None:
        try:
            snapshots = undrawn.snapshots()
        except (UserError, OSError):  # the next start draws them
            return
        if not snapshots:
            return

        if self._start() and self._process.draw(
            undrawn.title, snapshots, undrawn.folder / "plots", _TIMEOUT_S
        ):
            _log(undrawn)

    def _start(self) -> bool:
        """Start the process where there is none, unless nobody waits for it any more. A missing
        picture must not end a study."""
        try:
            with self._changed:
                if not self._given_up:
                    self._process.start()
                return not self._given_up
        except OSError:
            return False


def _log(undrawn: _Undrawn) -> None:
    """Log a trial's pictures, and mark it as drawn."""
    study, folder = undrawn.study, undrawn.folder
    try:
        for picture in sorted(folder.glob("plots/*.png")):
            path = str(picture.relative_to(study.directory))
            study.emit("artifact", trial=undrawn.number, path=path, to="plots")
        (folder / _RECORDED).touch()
        with contextlib.suppress(UserError):
            s3.copy(folder / _RECORDED)
    except (UserError, OSError):
        return  # the disk is full: the study's next write reports it
