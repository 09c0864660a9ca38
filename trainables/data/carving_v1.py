"""Version 1 of the rules that carve splits, for studies that began with it.

Near-duplicate groups are found in the pixels at training size, and a permutation of the groups, in
the order of pixel hashes, decides. So splits change with the image size.
"""

from dataclasses import dataclass

import numpy as np

from trainables.data.duplicates import near_duplicates
from trainables.data.store import Store
from trainables.files import atomic_file

_GROUPS = "groups.npy"  # in a store


@dataclass(frozen=True, eq=False)
class PermutationCarver:
    """`carving.Carver`, version 1."""

    labels: np.ndarray  # (N,) int64, -1 = unlabeled
    groups: np.ndarray  # (N,) int64
    seed: int

    def carve(
        self, rows: np.ndarray, fraction: float, most: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        return carve(rows, self.labels, self.groups, fraction, self.seed, most)

    def carve_classes(self, rows: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
        return carve_classes(rows, self.labels, fraction, self.seed)

    def balanced(self, rows: np.ndarray, labels: np.ndarray, most: int) -> np.ndarray:
        return balanced(rows, labels, most, self.seed)

    def without_copies(self, rows: np.ndarray, of: np.ndarray) -> np.ndarray:
        """Return all rows: version 1 counts near-duplicates across given splits but keeps them."""
        return rows


def groups_of(store: Store) -> np.ndarray:  # (N,) int64
    """Near-duplicate groups of a folder's store, cached in the store."""
    path = store.path / _GROUPS
    if path.exists():
        kept: np.ndarray = np.load(path)
        return kept
    groups = near_duplicates(store.images)
    with atomic_file(path) as file:
        np.save(file, groups)
    return groups


def carve(
    rows: np.ndarray,  # (n,) rows to carve from
    labels: np.ndarray,  # (N,) int64, -1 = unlabeled
    groups: np.ndarray,  # (N,) int64
    fraction: float,  # in (0, 1), of each class
    seed: int,
    most: int | None = None,  # largest number of rows to carve
) -> tuple[np.ndarray, np.ndarray]:  # (kept, carved), sorted
    """Carve rows stratified by class, in whole groups. No class loses its last group; a class of
    two or more single rows loses at least one.

    A group belongs to the class of its first row. Groups larger than the number of rows still
    wanted are kept.
    """
    rows = np.sort(rows)
    if most is not None and len(rows):
        fraction = min(fraction, most / len(rows))

    _, first, group_of = np.unique(groups[rows], return_index=True, return_inverse=True)
    sizes = np.bincount(group_of, minlength=len(first))
    classes = labels[rows[first]]
    rng = np.random.default_rng([seed, len(rows)])
    shuffled = rng.permutation(len(first))
    order = shuffled[np.argsort(classes[shuffled], kind="stable")]
    starts = np.flatnonzero(np.diff(classes[order])) + 1

    taken = np.zeros(len(first), bool)
    for members in np.split(order, starts):  # the groups of one class
        wanted = max(1, round(fraction * sizes[members].sum()))
        for group in members[:-1]:
            if sizes[group] <= wanted:
                taken[group] = True
                wanted -= sizes[group]

    carved = taken[group_of]
    return rows[~carved], rows[carved]


def carve_classes(
    rows: np.ndarray,  # (n,) rows to carve from
    labels: np.ndarray,  # (N,) int64
    fraction: float,  # in (0, 1), of the classes
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:  # (kept, carved), sorted
    """Carve whole classes, at least one."""
    classes = np.unique(labels[rows])
    count = max(1, round(fraction * len(classes)))
    rng = np.random.default_rng([seed, len(classes)])
    chosen = rng.permutation(classes)[:count]
    carved = np.isin(labels[rows], chosen)
    kept = np.sort(rows[~carved])
    taken = np.sort(rows[carved])
    return kept, taken


def balanced(
    rows: np.ndarray,  # (n,)
    labels: np.ndarray,  # (N,) int64
    most: int,
    seed: int,
) -> np.ndarray:  # sorted
    """Draw at most `most` rows, one from each class in turn, so that small classes stay whole."""
    if len(rows) <= most:
        return np.sort(rows)
    rng = np.random.default_rng([seed, len(rows)])
    shuffled = rng.permutation(np.sort(rows))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]

    _, start, count = np.unique(labels[by_class], return_index=True, return_counts=True)
    turn = np.arange(len(rows)) - np.repeat(start, count)  # position of each row in its class
    order = np.argsort(turn, kind="stable")
    return np.sort(by_class[order[:most]])
