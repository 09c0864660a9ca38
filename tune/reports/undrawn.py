"""Pictures that a study lacks, and the files in its folder that say so."""

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
"""In a study's folder: images that stand for its data (`trainables/plots/data_sample.py`)."""
_BEST = 3
_RECORDED = "plots/.recorded"
"""In the folder of a trial or of the study: all its pictures are drawn and in the event log.
Without this file whoever draws next draws them again."""
_WANTED = ".pictures.json"
"""In a study's folder: the trials whose pictures its last start wanted."""


@dataclass(frozen=True)
class Undrawn:
    """A trial, or a study's data, whose pictures are not drawn yet."""

    study: Path
    """Folder of the study."""
    title: str
    number: int | None
    """None: the data."""
    value: float
    """The trial's objective."""

    @property
    def folder(self) -> Path:
        """The folder of the trial or, for the data, of the study."""
        if self.number is None:
            return self.study
        return self.study / "trials" / f"{self.number:04d}"

    @property
    def is_recorded(self) -> bool:
        """True where its pictures are drawn and in the event log."""
        return (self.folder / _RECORDED).exists()

    @property
    def may_be_drawn(self) -> bool:
        """False where there are no arrays to draw: a function or a script need not write any, and
        those of an overtaken trial are removed. An object store is not asked."""
        in_store = s3.address(self.study) is not None
        return self.number is None or in_store or any(self.folder.glob("*.npz"))

    def snapshots(self) -> list[Path]:
        """Files to be drawn.

        Raises:
            UserError: the object store does not give them.
        """
        if self.number is None:
            return [self.folder / DATA]
        return sorted(s3.present_in(self.folder).glob("*.npz"))

    def record(self, emit: Callable[..., object]) -> None:
        """Put its pictures on record, and mark them as drawn.

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
    """Tell if the picture of a study's data is drawn and on record."""
    return (folder / _RECORDED).exists()


def of_data(folder: Path, manifest: Manifest) -> Undrawn:
    """The study's data."""
    title = f"{manifest.name}: {manifest.data['name']}"
    return Undrawn(folder, title, None, math.inf)


def of_trial(folder: Path, manifest: Manifest, number: int, value: float) -> Undrawn:
    """A completed trial."""
    return Undrawn(folder, f"{manifest.name} trial {number}", number, value)


def undrawn(
    folder: Path, manifest: Manifest, completed: Mapping[int, float], which: Drawn
) -> list[Undrawn]:
    """All that is shown, lacks its pictures and may be drawn: the data, then the trials.

    Args:
        folder: of the study.
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
    """Tell if the pictures of a trial (None: of the data) are wanted, as things stand.

    Args:
        completed: trial -> objective.
    """
    if which == "all" or not number:  # the data, and the default
        return which != "none"
    return which == "best" and number in heapq.nlargest(_BEST, completed, key=completed.__getitem__)


def still_wanted(
    folder: Path, manifest: Manifest, completed: Mapping[int, float], which: Drawn
) -> Drawn:
    """The trials that a start draws: all where the one before wanted all of them, and has said that
    they are drawn behind it, which they are not yet; `none` is a word against it."""
    if which != "best" or read_wanted(folder) != "all":
        return which
    return "all" if undrawn(folder, manifest, completed, "all") else which


def write_wanted(folder: Path, which: Drawn) -> None:
    """Note in a study's folder which trials shall be drawn, for those who draw after its run."""
    if read_wanted(folder) != which:
        write_atomically(folder / _WANTED, json.dumps({"pictures": which}) + "\n")


def read_wanted(folder: Path) -> Drawn | None:
    """The trials that a study's last start wanted drawn; None where none has said so."""
    try:
        found = json.loads((folder / _WANTED).read_text())["pictures"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found in get_args(Drawn) else None
