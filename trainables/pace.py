"""The speed of a run's first epoch, in a file in the run's folder, for estimates of the time left.
An epoch may take an hour, but its first steps show its speed. This module imports no torch."""

import contextlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from trainables.files import write_atomically

PACE = ".pace.json"
"""In a run's folder while its first epoch trains. Because of the dot it is never uploaded."""
_FIRST_S = 1.0
"""Seconds of steps that are timed before the file is first written; each further write waits until
the total has doubled."""
_FORWARD_SHARE = 1 / 3
"""Cost of evaluating an image, relative to training on it: the backward pass takes twice as long as
the forward pass."""


@dataclass(frozen=True)
class Pace:
    """Times of the first steps of an epoch."""

    steps: int
    """Number of steps taken so far."""
    step_s: float
    """Seconds per step, without the first step, which does extra preparation."""
    epoch_steps: int
    """Number of steps in an epoch."""
    validation_s: float
    """Seconds of a validation, estimated from its number of images."""

    @property
    def epoch_s(self) -> float:
        """Seconds of an epoch with its validation."""
        return self.epoch_steps * self.step_s + self.validation_s


class PaceFile:
    """Writes the pace of a run's first epoch to a file from time to time.

    Args:
        folder: the run's folder.
        epoch_steps: number of steps in an epoch.
        judged: size of a validation, in training batches.
    """

    def __init__(self, folder: Path, epoch_steps: int, judged: float):
        self._path = folder / PACE
        self._epoch_steps = epoch_steps
        self._judged = judged
        self._first: tuple[int, float] | None = None
        """Step count and time of the first call of `look`."""
        self._next_s = _FIRST_S
        self.remove()  # a file left by a killed attempt

    def look(self, steps: int) -> None:
        """Record that this many steps of the epoch are done, on the device too."""
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
        with contextlib.suppress(OSError):  # a full disk costs only the estimate
            write_atomically(self._path, json.dumps(asdict(pace)), durable=False)

    def remove(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def read_pace(folder: Path) -> Pace | None:
    """Read the pace of the run in a folder; None if its first epoch is not being trained, or has
    not been timed yet."""
    try:
        return Pace(**json.loads((folder / PACE).read_text()))
    except (OSError, ValueError, TypeError):
        return None
