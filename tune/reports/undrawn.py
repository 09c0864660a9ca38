"""Find the pictures that a study lacks, and read and write the files in its folder that track
them."""

import contextlib
import heapq
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from trainables.errors import UserError
from trainables.files import write_atomically
from tune.object_store import s3
from tune.reports.drawing_process import Drawn
from tune.study.manifest import Manifest

DATA = "data.npz"
"""In a study's folder: sample images that represent its data
(`trainables/plots/data_sample.py`)."""
_BEST = 3
_RECORDED = "plots/.recorded"
"""In the folder of a trial or study: marks that all its pictures are drawn and in the event log.
Without this file the next drawing process draws them again."""
_WANTED = ".pictures.json"
"""In a study's folder: which trials' pictures its last start wanted."""


@dataclass(frozen=True)
class Undrawn:
    """A trial, or a study's data, whose pictures are not yet drawn."""

    study: Path
    """Folder of the study."""
    title: str
    number: int | None
    """Number of the trial; None for the data."""
    value: float
    """The trial's objective; infinite for the data."""

    @property
    def folder(self) -> Path:
        """The folder of the trial or, for the data, of the study."""
        if self.number is None:
            return self.study
        return self.study / "trials" / f"{self.number:04d}"

    @property
    def is_recorded(self) -> bool:
        """True if its pictures are drawn and in the event log."""
        return (self.folder / _RECORDED).exists()

    @property
    def may_be_drawn(self) -> bool:
        """False if there are no arrays to draw: functions and scripts need not write any, and those
        of a trial that is no longer among the best are removed. An object store is not queried."""
        in_store = s3.address(self.study) is not None
        return self.number is None or in_store or any(self.folder.glob("*.npz"))

    def snapshots(self) -> list[Path]:
        """Return the files to draw.

        Raises:
            UserError: the object store does not provide them.
        """
        if self.number is None:
            return [self.folder / DATA]
        return sorted(s3.present_in(self.folder).glob("*.npz"))

    def record(self, emit: Callable[..., object]) -> None:
        """Add its pictures to the event log, and mark them as drawn.

        Args:
            emit: appends an event to the study's log.
        Raises:
            UserError, OSError: the disk is full.
        """
        for picture in sorted(self.folder.glob("plots/*.png")):
            path = str(picture.relative_to(self.study))
            emit("artifact", trial=self.number, path=path, to="plots")

        (self.folder / _RECORDED).touch()
        with contextlib.suppress(UserError):
            s3.copy(self.folder / _RECORDED)


def data_is_drawn(folder: Path) -> bool:
    """True if the picture of a study's data is drawn and on record."""
    return (folder / _RECORDED).exists()


def of_data(folder: Path, manifest: Manifest) -> Undrawn:
    """Return the undrawn item for the study's data."""
    title = f"{manifest.name}: {manifest.data['name']}"
    return Undrawn(folder, title, None, math.inf)


def of_trial(folder: Path, manifest: Manifest, number: int, value: float) -> Undrawn:
    """Return the undrawn item for a completed trial."""
    return Undrawn(folder, f"{manifest.name} trial {number}", number, value)


def undrawn(
    folder: Path, manifest: Manifest, completed: Mapping[int, float], which: Drawn
) -> list[Undrawn]:
    """Return everything that is wanted, lacks its pictures and can be drawn: the data, then the
    trials.

    Args:
        folder: the study's folder.
        completed: trial -> objective.
    """
    if which == "none":
        return []
    found = [of_data(folder, manifest)] if (folder / DATA).exists() else []
    for number, value in completed.items():
        if is_shown(number, completed, which):
            found.append(of_trial(folder, manifest, number, value))
    return [one for one in found if not one.is_recorded and one.may_be_drawn]


def is_shown(number: int | None, completed: Mapping[int, float], which: Drawn) -> bool:
    """True if the pictures of a trial (None: of the data) are currently wanted.

    Args:
        completed: trial -> objective.
    """
    if which == "all" or not number:  # the data, and the default
        return which != "none"
    return which == "best" and number in heapq.nlargest(_BEST, completed, key=completed.__getitem__)


def still_wanted(
    folder: Path, manifest: Manifest, completed: Mapping[int, float], which: Drawn
) -> Drawn:
    """Return the trials to draw in this run. If the previous run wanted all and left some undrawn,
    "best" becomes "all", because that run announced that they would be drawn later. "none"
    overrules that."""
    if which != "best" or read_wanted(folder) != "all":
        return which
    return "all" if undrawn(folder, manifest, completed, "all") else which


def write_wanted(folder: Path, which: Drawn) -> None:
    """Note in a study's folder which trials to draw, for processes that draw after its run."""
    if read_wanted(folder) != which:
        write_atomically(folder / _WANTED, json.dumps({"pictures": which}) + "\n")


def read_wanted(folder: Path) -> Drawn | None:
    """Return which trials the study's last run wanted drawn; None if that is not on record."""
    try:
        found = json.loads((folder / _WANTED).read_text())["pictures"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found in get_args(Drawn) else None
