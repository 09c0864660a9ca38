"""The images shown in pictures of predicted masks.

The course reports had to show three files of the satellite layout by name, at the first, middle and
last epoch: 0013, 0062 and 0104 in one year, 0010, 0097 and 0107 in another. For other data, these
are the first, the middle and the last image of the validation split, and the three worst.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.data.listing import part_of
from trainables.data.splits import DataSet

REPORTED = (("0013", "0062", "0104"), ("0010", "0097", "0107"))
"""Ids of the images that the course reports show, in groups of three."""

_SATELLITE = re.compile(r"(\d+)_sat\.\w+")
_PARTS = ("val", "test", None)  # if two files have the same id, the earlier part's is shown
_WORST = ("worst", "second worst", "third worst")


@dataclass(frozen=True)
class Shown:
    """Rows of the store, and a caption for each."""

    rows: np.ndarray  # (n,) int64
    captions: tuple[str, ...]


def shown_images(
    data: DataSet,
    accuracies: np.ndarray,  # (n,) of the validation images, from which the worst are chosen
) -> Shown:
    """Choose the images of a picture. These are the ones named in the course reports, if the data
    has them, even if its own validation part is the test split; otherwise validation images.

    Nothing is chosen by test scores: the named files are the same in every trial.
    """
    named = _reported(data)
    if named:
        names = [Path(data.files[row]).name for row in named]
        return Shown(np.array(named), tuple(names))

    count = len(data.val)
    roles = {0: "first"}  # position -> its caption
    roles.setdefault((count - 1) // 2, "middle")
    roles.setdefault(count - 1, "last")
    worst_first = np.argsort(accuracies, kind="stable").tolist()
    others = [position for position in worst_first if position not in roles]
    for position, role in zip(others, _WORST, strict=False):
        roles[position] = role

    rows = data.val.indices[list(roles)]
    captions: list[str] = []
    for row, position in zip(rows, roles, strict=True):
        name = f"{position:04d}"
        if data.files:
            name = Path(data.files[row]).name
        captions.append(f"{name} ({roles[position]})")
    return Shown(rows, tuple(captions))


def _reported(data: DataSet) -> list[int]:
    """Rows of the images that the reports name; all or none of each group of three.

    Empty if the data has neither group.
    """
    if not data.files:
        return []
    row_of = _satellite_rows(data)
    found: list[int] = []
    for ids in REPORTED:
        rows = [row_of[number] for number in ids if number in row_of]
        if len(rows) == len(ids):
            found += rows
    return found


def _satellite_rows(data: DataSet) -> dict[str, int]:
    """Id -> row of images in val and test; training images are not shown."""
    judged = np.concatenate([data.val.indices, data.test.indices])
    found: dict[str, tuple[int, int]] = {}  # id -> (place of its part, row)
    for row in judged.tolist():
        *folders, name = data.files[row].split("/")
        match = _SATELLITE.fullmatch(name)
        part = _part(folders)
        if match is None or part not in _PARTS:
            continue
        number = match[1]
        candidate = (_PARTS.index(part), row)
        found[number] = min(candidate, found.get(number, candidate))
    return {number: row for number, (_, row) in found.items()}


def _part(folders: list[str]) -> str | None:
    """Part of the first folder that names one; None if there is none."""
    for folder in folders:
        part = part_of(folder)
        if part is not None:
            return part
    return None
