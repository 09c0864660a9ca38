"""The speed of a run's first epoch, in a file of the run's folder, for whoever tells the time left:
an epoch may take an hour, and its first steps say so at once. Imports no torch."""

import contextlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from trainables.files import write_atomically

PACE = ".pace.json"
"""In a run's folder while its first epoch is trained. The dot keeps it on this machine."""
_FIRST_S = 1.0
"""Steps are timed for so long before the file is written, and for twice as long each further
time."""
_FORWARD_SHARE = 1 / 3
"""Judging an image costs so much of training on it: the backward pass takes twice as long as the
forward pass."""


@dataclass(frozen=True)
class Pace:
    """The time that the first steps of an epoch have taken."""

    steps: int
    """Steps that have been taken."""
    step_s: float
    """Seconds of a step. The first step, which prepares much, is left out."""
    epoch_steps: int
    """Steps of an epoch."""
    validation_s: float
    """Seconds of a validation, as its number of images lets expect."""

    @property
    def epoch_s(self) -> float:
        """Seconds of an epoch."""
        return self.epoch_steps * self.step_s + self.validation_s


class PaceFile:
    """Writes the pace of a run's first epoch from time to time.

    Args:
        folder: of the run.
        epoch_steps: steps of an epoch.
        judged: images of a validation, in batches of training.
    """

    def __init__(self, folder: Path, epoch_steps: int, judged: float):
        self._path = folder / PACE
        self._epoch_steps = epoch_steps
        self._judged = judged
        self._first: tuple[int, float] | None = None
        """Steps and time of the first look."""
        self._next_s = _FIRST_S
        self.remove()  # that of an attempt which was killed

    def look(self, steps: int) -> None:
        """Note that so many steps of the epoch have been taken, and that the device has done
        them."""
        now = time.perf_counter()
        if self._first is None:
            self._first = steps, now
            return

        before, began = self._first
        seconds = now - began
        if seconds < self._next_s:
            return

        self._next_s = 2 * seconds
        step_s = seconds / (steps - before)
        validation_s = step_s * self._judged * _FORWARD_SHARE
        pace = Pace(steps, step_s, self._epoch_steps, validation_s)
        with contextlib.suppress(OSError):  # a full disk costs the estimate alone
            write_atomically(self._path, json.dumps(asdict(pace)), durable=False)

    def remove(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def read_pace(folder: Path) -> Pace | None:
    """Read the pace of the run in a folder; None where its first epoch is not being trained, or has
    not been timed yet."""
    try:
        return Pace(**json.loads((folder / PACE).read_text()))
    except (OSError, ValueError, TypeError):
        return None
