"""The shape that all places have to which a study is projected: MLflow, TensorBoard, W&B, tables.

    Replay  --connect-->  Destination  --gives-->  Connection  <--apply, remember--  Replay

`Replay` (`replay.py`) reads the event log, folds it (`projection.py`) and hands the changes of runs
to the connection, stretch by stretch. The place itself keeps how far it has the log, so that a
place that was deleted or restored from a copy is completed, and nothing is in it twice.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tune.tracking.projection import Changes, Event, ProjectedRun

__all__ = ["Connection", "Destination", "Opening"]


def _no_beat(seconds: float) -> None:
    """Give no sign of life."""


def _fits(offset: object) -> bool:
    """Trust what is remembered."""
    return True


def _no_words(sentence: str) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class Opening:
    """Everything that a place learns when a study is opened in it."""

    study_dir: Path
    """Folder of the event log."""
    first: Event
    """The log's first event, a `study`."""
    study_id: str
    beat: Callable[[float], None] = _no_beat
    """Called with the seconds that the next call may take, before it; a sign of life for whoever
    waits."""
    fits: Callable[[object], bool] = _fits
    """Tells if an event of the log begins at a byte, or the log ends there: after a line was
    deleted, what a place remembers may not."""
    tell: Callable[[str], None] = _no_words
    """Called with a sentence for the user."""


class Connection(Protocol):
    """One study in a place, opened."""

    offset: int
    """Bytes of the event log that the place has."""

    def lacks(self, runs: Collection[str]) -> bool:
        """Tell if runs that the place should have are gone for good: all is sent again."""

    def check(self) -> None:
        """Raise where the place is not the one that was opened."""

    def recall(self, run: ProjectedRun, changes: Changes) -> None:
        """Learn what the place has already: all changes of a run up to `offset`."""

    def apply(self, run: ProjectedRun, changes: Changes) -> None:
        """Bring one run up to date. May be repeated with the same changes."""

    def remember(self, study: ProjectedRun, offset: int) -> None:
        """Note in the place that it has all events before byte `offset`."""

    def close(self) -> None:
        """Give the place back, with all that was applied in it."""


class Destination(Protocol):
    """A place that shows runs."""

    name: str
    """One word: the value of `--log`, or mlflow."""
    title: str
    """The place as people know it, such as "MLflow"."""
    logarithms: bool
    """It is given the logarithms of some parameters as metrics."""

    def where(self, study_dir: Path) -> str:
        """The place of a study, fit to be shown: an address, or a folder."""

    def remedy(self, study_dir: Path) -> str:
        """The action that may help where the place takes nothing."""

    def connect(self, opening: Opening) -> Connection:
        """Find the study in the place, or begin it there.

        Raises:
            Exception: the place's own, or of a disk or network; connect again to try again.
        """

    def mend(self, error: Exception) -> str | None:
        """Replace a damaged place by a new one. Returns what was done, in a sentence without its
        end; None where damage was not the reason of `error`."""
