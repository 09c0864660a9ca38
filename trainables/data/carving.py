"""Rules that carve splits which a layout lacks, as a function of contents and seed.

Images of a class are ordered by sha256(seed, content), and carved splits are taken from the front.
So a split depends neither on the image size nor on names and folders. All experiments that split a
folder by one seed get the same split, and adding an image moves no other (except by rounding).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from trainables.data.carving_v1 import PermutationCarver
from trainables.data.contents import Contents
from trainables.data.grouping import Grouping
from trainables.data.source import BICUBIC, REDUCED


@dataclass(frozen=True)
class SplitRules:
    """The rules with which a study began."""

    version: int = 3
    """1, 2 or 3."""
    seed: int = 0
    group: Grouping = "near"
    """Images that belong together."""

    @property
    def contents(self) -> int:
        """Version of a folder's contents, which decides the thumbnails that are searched for
        near-duplicates."""
        return REDUCED if self.version >= 3 else BICUBIC


class Carver(Protocol):
    """One version of the rules, applied to the rows of one store with one seed."""

    @property
    def seed(self) -> int: ...
    @property
    def groups(self) -> np.ndarray: ...  # (N,) int64, of near-duplicates

    def carve(
        self,
        rows: np.ndarray,  # (n,) rows to carve from
        fraction: float,  # in (0, 1), of each class
        most: int | None = None,  # largest number of rows to carve
    ) -> tuple[np.ndarray, np.ndarray]:  # (kept, carved), sorted
        """Carve rows stratified by class, in whole groups of near-duplicates. No class loses its
        last group."""

    def carve_classes(
        self,
        rows: np.ndarray,  # (n,) rows to carve from
        fraction: float,  # in (0, 1), of the classes
    ) -> tuple[np.ndarray, np.ndarray]:  # (kept, carved), sorted
        """Carve whole classes, at least one."""

    def balanced(
        self,
        rows: np.ndarray,  # (n,)
        labels: np.ndarray,  # (N,) int64
        most: int,
    ) -> np.ndarray:  # sorted
        """Choose at most `most` rows, one from each class in turn, so that small classes stay
        whole."""

    def without_copies(
        self,
        rows: np.ndarray,  # (n,)
        of: np.ndarray,  # (m,) rows
    ) -> np.ndarray:
        """Return the rows that are not near-duplicates of rows in `of`."""


@dataclass(frozen=True, eq=False)
class ContentCarver:
    """Versions 2 and 3 of the rules."""

    labels: np.ndarray  # (N,) int64, -1 = unlabeled
    classes: Sequence[str]
    """Names of the labels."""
    contents: Contents
    seed: int

    @property
    def groups(self) -> np.ndarray:  # (N,) int64
        return self.contents.groups

    def carve(
        self, rows: np.ndarray, fraction: float, most: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Carver`. A group belongs to the class of its smallest content. Groups larger than
        the share are kept; the last group that is carved may exceed the share."""
        rows = np.sort(rows)
        if most is not None and len(rows):
            fraction = min(fraction, most / len(rows))

        heads, group_of = np.unique(self.contents.representatives[rows], return_inverse=True)
        sizes = np.bincount(group_of, minlength=len(heads))
        places = self._places[heads]
        labels = self.labels[heads]

        taken = np.zeros(len(heads), bool)
        for label in np.unique(labels):
            members = np.flatnonzero(labels == label)
            in_order = members[np.argsort(places[members], kind="stable")]
            chosen = _front(in_order, sizes, fraction)
            taken[chosen] = True

        carved = taken[group_of]
        return rows[~carved], rows[carved]

    def carve_classes(self, rows: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
        """Carve the classes with the smallest sha256(seed, name)."""
        present = np.unique(self.labels[rows]).tolist()
        count = max(1, round(fraction * len(present)))
        in_order = sorted(present, key=self._place_of_class)

        carved = np.isin(self.labels[rows], in_order[:count])
        return np.sort(rows[~carved]), np.sort(rows[carved])

    def balanced(self, rows: np.ndarray, labels: np.ndarray, most: int) -> np.ndarray:
        """Choose from the end of the order; splits are carved from its front."""
        rows = np.sort(rows)
        if len(rows) <= most:
            return rows
        latest_first = rows[np.argsort(self._places[rows], kind="stable")[::-1]]
        by_class = latest_first[np.argsort(labels[latest_first], kind="stable")]

        _, start, count = np.unique(labels[by_class], return_index=True, return_counts=True)
        turn = np.arange(len(rows)) - np.repeat(start, count)  # position of each row in its class
        order = np.argsort(turn, kind="stable")
        return np.sort(by_class[order[:most]])

    def without_copies(self, rows: np.ndarray, of: np.ndarray) -> np.ndarray:
        """Compare by group."""
        copied = np.isin(self.groups[rows], self.groups[of])
        return rows[~copied]

    @cached_property
    def _places(self) -> np.ndarray:  # (N,) uint64
        """Place of each row in the seed's order: the place of its group's smallest content."""
        heads, group_of = np.unique(self.contents.representatives, return_inverse=True)
        digests = self.contents.digests[heads]
        places = [place(self.seed, digest.tobytes()) for digest in digests]
        return np.array(places, np.uint64)[group_of]

    def _place_of_class(self, label: int) -> int:
        return place(self.seed, self.classes[label].encode())


def place(seed: int, content: bytes) -> int:
    """Place of a content in a seed's order: the first eight bytes of sha256(seed, content)."""
    key = hashlib.sha256(f"{seed} ".encode() + content).digest()
    return int.from_bytes(key[:8], "big")


def _front(
    in_order: np.ndarray,  # groups of one class
    sizes: np.ndarray,  # rows per group
    fraction: float,
) -> list[int]:
    """Groups from the front until the share is reached, except groups that are larger than the
    share and the last group."""
    wanted = max(1, round(fraction * int(sizes[in_order].sum())))
    chosen: list[int] = []
    reached = 0
    for group in in_order[:-1].tolist():
        if reached >= wanted:
            break
        if sizes[group] <= wanted:
            chosen.append(group)
            reached += int(sizes[group])
    return chosen


def carver_of(
    rules: SplitRules,
    labels: np.ndarray,  # (N,) int64, -1 = unlabeled
    classes: Sequence[str],
    contents: Contents,
    groups_v1: np.ndarray | None = None,  # (N,) int64; None: every row is its own group
) -> Carver:
    """Apply the rules to the rows of a store."""
    if rules.version == 1:
        alone = np.arange(len(labels))
        groups = alone if groups_v1 is None else groups_v1
        return PermutationCarver(labels, groups, rules.seed)
    return ContentCarver(labels, classes, contents, rules.seed)
