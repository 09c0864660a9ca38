"""Episodes of few-shot learning: N classes ("way"), K support images of each ("shot"), and query
images to be told apart.

Training episodes are drawn step by step (`EpisodeSampler`), evaluation episodes once
(`draw_episodes`) or read from a csv beside the label files, whose columns name support and query
images by the `id` of val.csv or test.csv:

    episode_id, class0_support0, class1_support0, ..., query0, query1, ...
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from trainables.data.listing import Listing
from trainables.data.splits import DataSet, Split
from trainables.data.store import digest
from trainables.data.tables import read_ids
from trainables.errors import UserError


@dataclass(frozen=True, eq=False)
class Episodes:
    """T fixed tasks over one split; no image is in the support and the query of the same task."""

    support: np.ndarray  # (T, N, K) positions in the split
    query: np.ndarray  # (T, M) positions
    truth: np.ndarray  # (T, M) of 0 to N - 1, the class in the order of `support`

    def __len__(self) -> int:
        return len(self.support)

    @property
    def way(self) -> int:
        return self.support.shape[1]

    @property
    def shot(self) -> int:
        return self.support.shape[2]


@dataclass(frozen=True, eq=False)
class FewShotData(DataSet):
    """Classes of val and test are new: train has none of them."""

    given: dict[str, Episodes] = field(default_factory=dict)
    """Split ("val", "test") -> the episodes that the folder prescribes."""

    def episodes(
        self, split: str, way: int, shot: int, query: int, count: int, seed: int
    ) -> Episodes:
        """The given episodes where they are of this way and shot, else `count` drawn by seed with
        `query` images of each class.

        Raises:
            UserError: the split has too few classes with enough images.
        """
        given = self.given.get(split)
        if given is not None and (given.way, given.shot) == (way, shot):
            return given
        targets: Any = getattr(self, split).targets()  # few-shot data has labels
        return draw_episodes(targets, way, shot, query, count, seed, split)

    def summary(self) -> str:
        splits: dict[str, Any] = {"train": self.train, "val": self.val, "test": self.test}
        parts = [
            f"{len(split):,} {name} of {len(np.unique(split.targets()))} classes"
            for name, split in splits.items()
        ]
        skipped = f", {len(self.skipped)} corrupt files skipped" if self.skipped else ""
        return f"{self.name}: {', '.join(parts)}, images of {self.train.images.shape[-1]} px{skipped} [{self.fingerprint[:8]}]"


class EpisodeSampler:
    """Training episodes: as many whole ones a step as fit into `batch_size` images, at least one,
    all drawn anew by (seed, step).

    The positions of a step are (E, N, K + Q), flattened: of every class K support images, then Q
    query images.

    Raises:
        UserError: too few classes have K + Q images.
    """

    def __init__(
        self, targets: np.ndarray, way: int, shot: int, query: int, batch_size: int, seed: int
    ):
        self.members = members_of(targets, way, shot, query, "train", "episode")
        self.way, self.each, self.seed = way, shot + query, seed
        self.unit = way * self.each
        self.per_step = max(1, batch_size // self.unit)
        self.batch_size = self.per_step * self.unit

    def positions(self, step: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, 1, step])
        return np.stack(
            [_draw(rng, self.members, self.way, self.each) for _ in range(self.per_step)]
        ).reshape(-1)


def draw_episodes(
    targets: np.ndarray,  # (n,) labels of a split
    way: int,  # N
    shot: int,  # K
    query: int,  # Q of each class
    count: int,  # T
    seed: int,
    split: str,
) -> Episodes:
    """Classes uniformly without replacement, then images of each likewise (Snell et al. 2017,
    algorithm 1).

    Raises:
        UserError: too few classes of the split have K + Q images.
    """
    members = members_of(targets, way, shot, query, split, "val")
    rng = np.random.default_rng([seed, 2, ("val", "test").index(split)])
    # (T, N, K + Q)
    drawn = np.stack([_draw(rng, members, way, shot + query) for _ in range(count)])
    truth = np.broadcast_to(np.repeat(np.arange(way), query), (count, way * query))
    return Episodes(drawn[:, :, :shot], drawn[:, :, shot:].reshape(count, -1), truth)


def members_of(
    targets: np.ndarray, way: int, shot: int, query: int, split: str, block: str
) -> list[np.ndarray]:
    """Positions of the images of every class that has shot + query of them; `block` is the
    config's, for the remedy."""
    order = np.argsort(targets, kind="stable")
    classes = np.split(order, np.flatnonzero(np.diff(targets[order])) + 1)
    members = [positions for positions in classes if len(positions) >= shot + query]
    if len(members) < way:
        raise UserError(
            f"{way}-way episodes of {shot} support and {query} query images need {way} classes with {shot + query} images, {split} has "
            f"{len(members)} (of {len(classes)}); lower {block}.way, {block}.shot or {block}.query with --set"
        )
    return members


# (N, K + Q)
def _draw(
    rng: np.random.Generator, members: Sequence[np.ndarray], way: int, each: int
) -> np.ndarray:
    chosen = rng.choice(len(members), way, replace=False)
    return np.stack([rng.choice(members[c], each, replace=False) for c in chosen])


def with_given_episodes(data: DataSet, listing: Listing | None) -> FewShotData:
    """The data set with the episodes that the folder prescribes; they are part of its fingerprint.

    Raises:
        UserError: a csv of episodes that cannot be used.
    """
    plain = FewShotData(**{f.name: getattr(data, f.name) for f in fields(DataSet)})
    tables = {} if listing is None else _episode_tables(listing.root)
    if listing is None or not tables:
        return plain
    given, notes = {}, []
    for part, path in tables.items():
        rows = _rows_by_id(listing, part)
        split = (
            "val"
            if np.isin(np.fromiter(rows.values(), np.int64), data.val.indices).any()
            else "test"
        )
        given[split] = read_episodes(path, rows, getattr(data, split))
        notes.append(
            f"{len(given[split])} {given[split].way}-way {given[split].shot}-shot episodes of {split} are those of {path.name}"
        )
    fingerprint = digest(data.fingerprint, *(path.read_bytes() for path in tables.values()))
    values = {f.name: getattr(data, f.name) for f in fields(DataSet)} | {
        "fingerprint": fingerprint,
        "notes": (*data.notes, *notes),
    }
    return FewShotData(**values, given=given)


def read_episodes(path: Path, rows: dict[str, int], split: Split) -> Episodes:
    """Episodes of a csv. Classes are numbered in the order in which an episode's support names
    them.

    Args:
        rows: id of an image -> row of the store.
    Raises:
        UserError: an unknown id, an image in support and query, a class without support, or
            episodes of different way or shot.
    """
    position = {int(row): at for at, row in enumerate(split.indices)}
    at = {number: position[row] for number, row in rows.items() if row in position}
    labels: Any = split.targets()  # few-shot data has some
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        read = [_read_line(f"{path} line {reader.line_num}", line, at, labels) for line in reader]
    shapes = {(support.shape, query.shape) for support, query, _ in read}
    if len(shapes) != 1:
        raise UserError(
            f"{path} must hold episodes of one way, shot and number of queries, found {len(shapes)} kinds; keep one"
        )
    support, query, truth = (np.stack(column) for column in zip(*read, strict=True))
    return Episodes(support, query, truth)


def _read_line(
    where: str, line: dict[str, str], at: dict[str, int], labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Support (N, K), query (M,) and truth (M,) of one episode."""
    found: dict[str, list[int]] = {"support": [], "query": []}
    for column, value in line.items():
        kind = next((kind for kind in found if kind in (column or "").lower()), None)
        if kind is not None:
            if (number := (value or "").strip()) not in at:
                raise UserError(
                    f"{where}: {column} is image {value!r}, which is not among the {len(at)} usable ones; mend or remove the line"
                )
            found[kind].append(at[number])
    support, query = (np.array(images) for images in found.values())
    if both := set(support.tolist()) & set(query.tolist()):
        raise UserError(
            f"{where}: {len(both)} images are support and query at once; every image must be one of them"
        )
    classes = list(dict.fromkeys(labels[support].tolist()))
    by_class = [support[labels[support] == c] for c in classes]
    if len({len(images) for images in by_class}) > 1 or not set(labels[query].tolist()) <= set(
        classes
    ):
        raise UserError(
            f"{where}: every class needs equally many support images, and every query must be of one of these classes"
        )
    return np.stack(by_class), query, np.array([classes.index(c) for c in labels[query].tolist()])


def _episode_tables(root: Path) -> dict[str, Path]:
    """Part ("val", "test") -> csv with columns for support and query images, whose name begins with
    the part."""
    tables: dict[str, Path] = {}
    for path in sorted(root.glob("*.csv")):
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            header = ",".join(next(csv.reader(file), [])).lower()
        if "support" not in header or "query" not in header:
            continue
        name = re.match(r"val|test", path.stem.lower())
        if name is None or name[0] in tables:
            raise UserError(
                f"{path} holds episodes; name it val_episodes.csv or test_episodes.csv, one file for each"
            )
        tables[name[0]] = path
    return tables


def _rows_by_id(listing: Listing, part: str) -> dict[str, int]:
    """Id of val.csv or test.csv -> row of the store."""
    path = next((p for p in sorted(listing.root.glob(f"{part}*.csv")) if p.stem == part), None)
    if path is None:
        raise UserError(
            f"{listing.root} holds episodes of {part} but no {part}.csv, which says what their ids are; add it"
        )
    suffixes: dict[str, int] = {}
    for row in listing.rows(part):
        pieces = listing.files[row].split("/")
        suffixes |= {"/".join(pieces[start:]): int(row) for start in range(len(pieces))}
    return {number: suffixes[name] for number, name in read_ids(path).items() if name in suffixes}
