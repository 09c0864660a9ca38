"""Pictures of finished trials, drawn by a low-priority subprocess, off the training path."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trainables.errors import UserError
from tune.object_store import s3
from tune.study.study import Study

_TIMEOUT_S = 300
_RECORDED = "plots/.recorded"
"""In a trial's folder: all its pictures are drawn, and in the event log. Without it they are drawn
again."""


@dataclass(frozen=True)
class _Undrawn:
    study: Study
    number: int
    value: float

    @property
    def folder(self) -> Path:
        return self.study.directory / "trials" / f"{self.number:04d}"


class Pictures:
    """What completed trials leave behind (`*.npz`) becomes pictures, and `artifact` events. One
    trial after another, of all studies that are watched: drawing goes on while the next study
    searches."""

    def __init__(self) -> None:
        self._waiting: list[_Undrawn] = []  # the one that is being drawn among them
        self._drawn: Counter[Path] = Counter()
        self._changed = threading.Condition()
        self._closing = self._given_up = False
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._work, name="pictures", daemon=True)
        self._thread.start()

    def watch(self, study: Study) -> None:
        """From now on; and what an earlier start has left undrawn."""

        def on_event(event: dict[str, object]) -> None:
            if (
                event["event"] == "end"
                and event["state"] == "COMPLETE"
                and "repeat" not in event
                and event["value"] is not None
            ):
                self._add(_Undrawn(study, event["trial"], event["value"]))  # type: ignore[arg-type]

        study.observers.append(on_event)
        for trial in study.frozen_trials():
            if trial.state.name == "COMPLETE" and trial.value is not None:
                undrawn = _Undrawn(study, trial.number, trial.value)
                if not (undrawn.folder / _RECORDED).exists():
                    self._add(undrawn)

    def close(self, patience_s: float, enough: Callable[[], bool] = lambda: False) -> int:
        """Wait for the last pictures, at most so long, and until `enough`. Returns how many trials
        are left without: the next start of their studies draws them."""
        deadline = time.monotonic() + patience_s
        with self._changed:
            self._closing = True
            self._changed.notify()
        while self._thread.is_alive() and time.monotonic() < deadline and not enough():
            self._thread.join(0.05)
        with self._changed:
            self._given_up = True
            if self._process is not None:
                self._process.kill()
            left = len(self._waiting)
        self._thread.join()
        return left

    def _add(self, undrawn: _Undrawn) -> None:
        with self._changed:
            self._waiting.append(undrawn)
            self._changed.notify()

    def _work(self) -> None:
        while (undrawn := self._next()) is not None:
            self._draw(undrawn)
            self._drawn[undrawn.study.directory] += 1
            with self._changed:
                self._waiting.remove(undrawn)

    def _next(self) -> _Undrawn | None:
        """Of the study that has the fewest pictures the best trial: not all may be drawn when the
        last study ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if self._given_up or not self._waiting:
                return None
            return min(
                self._waiting,
                key=lambda undrawn: (self._drawn[undrawn.study.directory], -undrawn.value),
            )

    def _draw(self, undrawn: _Undrawn) -> None:
        folder, study = undrawn.folder, undrawn.study
        try:
            snapshots = sorted(s3.present_in(folder).glob("*.npz"))
        except (UserError, OSError):  # the next start draws them
            return
        if not snapshots:
            return
        title = f"{study.manifest.name} trial {undrawn.number}"
        command = [
            sys.executable,
            "-m",
            "trainables.plots.draw",
            "--title",
            title,
            *map(str, snapshots),
            str(folder / "plots"),
        ]
        if not self._ran(command):
            return
        try:
            for picture in sorted(folder.glob("plots/*.png")):
                study.emit(
                    "artifact",
                    trial=undrawn.number,
                    path=str(picture.relative_to(study.directory)),
                    to="plots",
                )
            (folder / _RECORDED).touch()
            with contextlib.suppress(UserError):
                s3.copy(folder / _RECORDED)
        except (UserError, OSError):
            return  # the disk is full: the study's own next write says so

    def _ran(self, command: list[str]) -> bool:
        """False where it was given up, or could not be had: a picture is not worth a study."""
        try:
            with self._changed:
                if self._given_up:
                    return False
                self._process = subprocess.Popen(
                    command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                # beside training, not before it: idle time of the machine only
                os.setpriority(os.PRIO_PROCESS, self._process.pid, 19)
            # a refused file is one that no later start can draw either
            return self._process.wait(_TIMEOUT_S) >= 0
        except (OSError, subprocess.SubprocessError):
            if self._process is not None:
                self._process.kill()
            return False
        finally:
            self._process = None
