"""Interface of all destinations that a study is sent to: MLflow, TensorBoard, W&B, CSV tables.

    Replay  --connect-->  Destination  --gives-->  Connection  <--apply, remember--  Replay

`Replay` (`replay.py`) reads the event log, folds it (`projection.py`) and passes the changes of
runs to the connection, chunk by chunk. The destination itself stores how much of the log it has. So
one that was deleted or restored from a copy is brought up to date, and nothing is in it twice.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tune.tracking.projection import Changes, Event, ProjectedRun

__all__ = ["Connection", "Destination", "Opening"]


def _no_beat(seconds: float) -> None:
    """Give no sign of life (default of `Opening.beat`)."""


def _fits(offset: object) -> bool:
    """Trust the remembered offset."""
    return True


def _no_words(sentence: str) -> None:
    """Print nothing (default of `Opening.tell`)."""


@dataclass(frozen=True)
class Opening:
    """Everything that a destination is told when a study is opened in it."""

    study_dir: Path
    """Folder of the event log."""
    first: Event
    """First event of the log, a `study` event."""
    study_id: str
    beat: Callable[[float], None] = _no_beat
    """Sign of life. Called before a slow step with the seconds that it may take."""
    fits: Callable[[object], bool] = _fits
    """Returns True if an event of the log begins at a byte or the log ends there. After a line was
    deleted, a remembered offset may not fit."""
    tell: Callable[[str], None] = _no_words
    """Called with a message for the user."""


class Connection(Protocol):
    """An open study in a destination."""

    offset: int
    """Number of bytes of the event log that the destination has."""

    def lacks(self, runs: Collection[str]) -> bool:
        """True if runs that the destination should have are gone for good. Then everything is sent
        again."""

    def check(self) -> None:
        """Raise if the destination is no longer the one that was opened."""

    def recall(self, run: ProjectedRun, changes: Changes) -> None:
        """Receive all changes of a run up to `offset`, which the destination already has."""

    def apply(self, run: ProjectedRun, changes: Changes) -> None:
        """Update one run. May be repeated with the same changes."""

    def remember(self, study: ProjectedRun, offset: int) -> None:
        """Record in the destination that it has all events before byte `offset`."""

    def close(self) -> None:
        """Release the destination, with everything applied to it."""


class Destination(Protocol):
    """A system that shows runs."""

    name: str
    """Identifier: the value of `--log`, or mlflow."""
    title: str
    """Display name, such as "MLflow"."""
    logarithms: bool
    """True if it also receives the logarithms of some parameters as metrics."""

    def where(self, study_dir: Path) -> str:
        """Return where a study is shown, without secrets: an address or a folder."""

    def remedy(self, study_dir: Path) -> str:
        """Return what the user can do if the destination rejects everything."""

    def connect(self, opening: Opening) -> Connection:
        """Find the study in the destination, or create it there.

        Raises:
            Exception: an error of the destination, a disk or the network; connect again to retry.
        """

    def mend(self, error: Exception) -> str | None:
        """Replace a damaged destination by a new one. Return a clause that says what was done; None
        if damage was not the cause of `error`."""
