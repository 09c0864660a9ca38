"""Pictures of finished trials, drawn by a patient process of its own, off the training path."""

import os
import queue
import subprocess
import sys
import threading
from pathlib import Path

from trainables.errors import UserError
from tune.study import Study

_TIMEOUT_S = 300
_END = (float("inf"), -1)  # comes after every trial
_RECORDED = "plots/.recorded"
"""In a trial's folder: all its pictures are drawn, and in the event log. Without it they are drawn again."""


class Pictures:
    """An observer of the study: what a completed trial leaves behind (`*.npz`) becomes pictures, and `artifact` events."""

    def __init__(self, study: Study):
        self.study = study
        # The best first: where trials take a second each, the pictures of all of them may not be ready when the study ends.
        self._queue: queue.PriorityQueue[tuple[float, int]] = queue.PriorityQueue()
        self._thread = threading.Thread(target=self._work, name="pictures", daemon=True)

    def start(self) -> None:
        """Begin with what an earlier start has left undrawn."""
        for trial in self.study.frozen_trials():
            if trial.value is not None and trial.state.name == "COMPLETE" and not (self._folder(trial.number) / _RECORDED).exists():
                self._queue.put((-trial.value, trial.number))
        self._thread.start()

    def on_event(self, event: dict[str, object]) -> None:
        if event["event"] == "end" and event["state"] == "COMPLETE" and "repeat" not in event and event["value"] is not None:
            self._queue.put((-event["value"], event["trial"]))  # type: ignore[operator, arg-type]

    def close(self, patience_s: float) -> None:
        """Wait for the last pictures, at most so long; the next start draws what is left."""
        self._queue.put(_END)
        self._thread.join(patience_s)

    def _folder(self, number: int) -> Path:
        return self.study.directory / "trials" / f"{number:04d}"

    def _work(self) -> None:
        while (item := self._queue.get()) != _END:
            number = item[1]
            folder = self._folder(number)
            snapshots = sorted(folder.glob("*.npz"))
            if not snapshots:
                continue
            title = f"{self.study.manifest.name} trial {number}"
            command = [sys.executable, "-m", "trainables.draw", "--title", title, *map(str, snapshots), str(folder / "plots")]
            try:
                # Beside training, not before it: idle time of the machine only.
                subprocess.run(command, preexec_fn=lambda: os.nice(19), capture_output=True, timeout=_TIMEOUT_S, check=False)
            except (OSError, subprocess.SubprocessError):
                continue  # a picture is not worth a study
            try:
                for picture in sorted(folder.glob("plots/*.png")):
                    self.study.emit("artifact", trial=number, path=str(picture.relative_to(self.study.directory)), to="plots")
                (folder / _RECORDED).touch()
            except (UserError, OSError):
                return  # the disk is full: the study's own next write says so
