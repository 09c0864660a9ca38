"""Evaluation episodes that a folder gives: a csv beside the label files, with columns of support
and query images, identified by the `id` in val.csv or test.csv.

    episode_id, class0_support0, class1_support0, ..., query0, query1, ...
"""

import csv
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from trainables.data.episodes import Episodes, FewShotData, targets_of
from trainables.data.listing import Listing
from trainables.data.splits import DataSet, Split
from trainables.data.store import digest
from trainables.data.tables import columns_of, is_of_episodes, read_ids
from trainables.errors import UserError

_Episode = tuple[np.ndarray, np.ndarray, np.ndarray]  # support (N, K), query (M,), truth (M,)


def with_given_episodes(data: DataSet, listing: Listing | None) -> FewShotData:
    """The data set with the episodes that its folder gives; they become part of its fingerprint.

    Raises:
        UserError: a csv of episodes cannot be used.
    """
    values: dict[str, Any] = {field.name: getattr(data, field.name) for field in fields(DataSet)}
    if listing is None:
        return FewShotData(**values)
    tables = _episode_tables(listing.root)
    if not tables:
        return FewShotData(**values)

    given: dict[str, Episodes] = {}
    notes: list[str] = []
    for part, path in tables.items():
        rows = _rows_by_id(listing, part)
        split = _split_of(rows, data)
        episodes = read_episodes(path, rows, getattr(data, split))
        given[split] = episodes
        notes.append(
            f"{len(episodes)} {episodes.way}-way {episodes.shot}-shot episodes of {split} "
            f"are those of {path.name}"
        )
    contents = [path.read_bytes() for path in tables.values()]
    values["fingerprint"] = digest(data.fingerprint, *contents)
    values["carved_from"] = data.pool
    values["summary"] = replace(data.summary, notes=(*data.summary.notes, *notes))
    return FewShotData(**values, given=given)


def read_episodes(
    path: Path,
    rows: Mapping[str, int],  # id of an image -> row of the store
    split: Split,
) -> Episodes:
    """Read the episodes of a csv. Classes are numbered in the order in which they first occur in an
    episode's support.

    Raises:
        UserError: an id is unknown, an image is support and query, a class has no support, or
            episodes differ in way or shot.
    """
    position_of_row = {int(row): position for position, row in enumerate(split.indices)}
    positions = {
        number: position_of_row[row] for number, row in rows.items() if row in position_of_row
    }
    labels = targets_of(split)
    episodes: list[_Episode] = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        for line in reader:
            where = f"{path} line {reader.line_num}"
            episodes.append(_read_line(where, line, positions, labels))

    shapes = {(support.shape, query.shape) for support, query, _ in episodes}
    if len(shapes) != 1:
        raise UserError(
            f"{path} must contain episodes of one way, shot and number of queries, "
            f"found {len(shapes)} kinds; keep one"
        )
    return Episodes(
        support=np.stack([support for support, _, _ in episodes]),
        query=np.stack([query for _, query, _ in episodes]),
        truth=np.stack([truth for _, _, truth in episodes]),
    )


def _read_line(
    where: str,
    line: Mapping[str, str],
    positions: Mapping[str, int],  # id -> position in the split
    labels: np.ndarray,  # (n,) of the split
) -> _Episode:
    support, query = _positions_of_line(where, line, positions)
    both = set(support.tolist()) & set(query.tolist())
    if both:
        raise UserError(
            f"{where}: {len(both)} images are support and query at once; "
            "every image must be one of them"
        )
    classes = list(dict.fromkeys(labels[support].tolist()))
    by_class = [support[labels[support] == label] for label in classes]
    shots = {len(images) for images in by_class}
    queried = labels[query].tolist()
    if len(shots) > 1 or not set(queried) <= set(classes):
        raise UserError(
            f"{where}: every class needs equally many support images, "
            "and every query must be of one of these classes"
        )
    truth = np.array([classes.index(label) for label in queried])
    return np.stack(by_class), query, truth


def _positions_of_line(
    where: str, line: Mapping[str, str], positions: Mapping[str, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of support and query images, in column order."""
    found: dict[str, list[int]] = {"support": [], "query": []}
    for column, value in line.items():
        kind = _kind_of_column(column)
        if kind is None:
            continue
        number = (value or "").strip()
        if number not in positions:
            raise UserError(
                f"{where}: {column} is image {value!r}, which is not among the {len(positions)} "
                "usable ones; correct or remove the line"
            )
        found[kind].append(positions[number])
    return np.array(found["support"]), np.array(found["query"])


def _kind_of_column(column: str | None) -> str | None:
    for kind in ("support", "query"):
        if kind in (column or "").lower():
            return kind
    return None


def _episode_tables(root: Path) -> dict[str, Path]:
    """Part ("val", "test") -> csv with columns of support and query images, whose name begins with
    the part."""
    tables: dict[str, Path] = {}
    for path in sorted(root.glob("*.csv")):
        if not is_of_episodes(columns_of(path).names):
            continue
        part = re.match(r"val|test", path.stem.lower())
        if part is None or part[0] in tables:
            raise UserError(
                f"{path} holds episodes; "
                "name it val_episodes.csv or test_episodes.csv, one file for each"
            )
        tables[part[0]] = path
    return tables


def _rows_by_id(listing: Listing, part: str) -> dict[str, int]:
    """Id in val.csv or test.csv -> row of the store."""
    path = listing.root / f"{part}.csv"
    if not path.exists():
        raise UserError(
            f"{listing.root} has episodes of {part} but no {part}.csv, "
            "which says what their ids are; add it"
        )
    row_of_name: dict[str, int] = {}  # under every trailing part of its path
    for row in listing.rows(part):
        pieces = listing.files[row].split("/")
        for start in range(len(pieces)):
            name = "/".join(pieces[start:])
            row_of_name[name] = int(row)

    rows: dict[str, int] = {}
    for number, name in read_ids(path).items():
        if name in row_of_name:
            rows[number] = row_of_name[name]
    return rows


def _split_of(rows: Mapping[str, int], data: DataSet) -> str:
    """The split that contains the rows; a layout's val part may be the test split."""
    found = np.fromiter(rows.values(), np.int64)
    return "val" if np.isin(found, data.val.indices).any() else "test"
