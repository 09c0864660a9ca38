"""The images in pictures of predicted masks.

The course reports had to show three files of the satellite layout by name, at the first, middle and
last epoch: 0013, 0062 and 0104 in one year, 0010, 0097 and 0107 in another. Other data shows the
first, the middle and the last image of the validation split, and the three worst.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.data.listing import part_of
from trainables.data.splits import DataSet

REPORTED = (("0013", "0062", "0104"), ("0010", "0097", "0107"))
"""Ids of the images that the course reports show, together."""

_SATELLITE = re.compile(r"(\d+)_sat\.\w+")
_PARTS = ("val", "test", None)  # of two files of one id, the one of the earlier part is shown
_WORST = 3  # images


@dataclass(frozen=True)
class Shown:
    """Rows of the store, and a caption for each."""

    rows: np.ndarray  # (n,) int64
    captions: tuple[str, ...]


def shown_images(
    data: DataSet,
    accuracies: np.ndarray,  # (n,) of the validation images, by which the worst are chosen
) -> Shown:
    """Choose the images of a picture: those that the course reports name, where the data has them,
    even if its own validation part is the test split; otherwise of the validation split."""
    named = _reported(data)
    if named:
        files = [data.files[row] for row in named]
        return Shown(np.array(named), tuple(Path(file).name for file in files))

    count = len(data.val)
    roles = {0: "first"}  # position -> its caption
    roles.setdefault((count - 1) // 2, "middle")
    roles.setdefault(count - 1, "last")
    worst = [p for p in np.argsort(accuracies, kind="stable").tolist() if p not in roles]
    for place, position in enumerate(worst[:_WORST]):
        roles[position] = ("worst", "second worst", "third worst")[place]

    rows = data.val.indices[list(roles)]
    captions = []
    for row, (position, role) in zip(rows.tolist(), roles.items(), strict=True):
        name = Path(data.files[row]).name if data.files else f"{position:04d}"
        captions.append(f"{name} ({role})")
    return Shown(rows, tuple(captions))


def _reported(data: DataSet) -> list[int]:
    """Rows of the images that the reports name; of each three, all or none."""
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
    """Id -> row, of the images of the val and test splits; what train has is not shown."""
    judged = np.concatenate([data.val.indices, data.test.indices]).tolist()
    found: dict[str, tuple[int, int]] = {}  # id -> (place of its part, row)
    for row in judged:
        *folders, name = data.files[row].split("/")
        match = _SATELLITE.fullmatch(name)
        part = next((part for part in map(part_of, folders) if part is not None), None)
        if match is None or part not in _PARTS:
            continue
        candidate = (_PARTS.index(part), row)
        found[match[1]] = min(candidate, found.get(match[1], candidate))
    return {number: row for number, (_, row) in found.items()}
