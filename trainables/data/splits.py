"""Splits of a store: who trains, who selects, who is claimed on; and the rules by which they are
carved where a layout has none."""

from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from torch import Tensor

CARVED = 0.15
"""Fraction of each class that is carved for validation, and again for test, where the layout has
none."""
CARVED_CLASSES = 0.2
"""Fraction of the classes that is carved for few-shot validation, and again for test, where the
layout has none."""
GALLERY = 10_000
"""At most so many labelled images, class-balanced, serve kNN and the linear probe."""
UNLABELED = 5_000
"""At most so many images are carved from unlabeled data for each of val and test."""
IGNORE = 255
"""In masks: a pixel without class. In a store its class is unknown; an augmented mask has it also
where there is no image (padding)."""


@dataclass(frozen=True, eq=False)
class Split:
    """Some rows of a store; the images themselves are shared by all splits and processes."""

    images: np.ndarray  # (N, 3, S, S) uint8, memory-mapped
    labels: np.ndarray | None  # (N,) int64 of the whole store, -1 = unlabeled
    indices: np.ndarray  # (n,) int64 rows of this split
    # (N, S, S) uint8, memory-mapped: [0, C) or IGNORE; None for data without masks
    mask_images: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def batch(
        self,
        positions: np.ndarray | Tensor,  # (B,) int, positions within this split
    ) -> Tensor:  # (B, 3, S, S) uint8, a copy
        """One gather from the memory map."""
        rows = self.indices[np.asarray(positions)]
        return torch.from_numpy(self.images[rows])

    def masks(
        self,
        positions: np.ndarray | Tensor,  # (B,) int, positions within this split
    ) -> Tensor:  # (B, S, S) uint8, a copy: [0, C) or IGNORE
        """The masks of `batch(positions)`; of data with masks only."""
        assert self.mask_images is not None
        rows = self.indices[np.asarray(positions)]
        return torch.from_numpy(self.mask_images[rows])

    def targets(self) -> np.ndarray | None:  # (n,) int64, -1 = unlabeled
        """Labels of this split's rows, in its order; None for data without labels."""
        return None if self.labels is None else self.labels[self.indices]


@dataclass(frozen=True, eq=False)
class DataSet:
    """What a trial trains, selects and is judged on."""

    name: str
    fingerprint: str
    classes: tuple[str, ...]
    """Names of the labels 0, 1, ...; empty for unlabeled data."""
    train: Split
    """What is trained on; self-supervised training uses no labels of it."""
    gallery: Split | None
    """Labelled images for kNN and the linear probe; None where there are no labels."""
    val: Split
    """Selects: the queries of kNN. Of unlabeled data, images only."""
    test: Split
    """For claims only; no search sees it."""
    skipped: tuple[tuple[str, str], ...]
    """(path, reason) of files left out by skip_corrupt."""
    notes: tuple[str, ...] = ()
    """How the splits came about, and what a reader of the results should know, one sentence
    each."""
    colors: tuple[tuple[int, int, int], ...] = ()
    """Of data with masks: red, green, blue (0-255) of each class, for pictures."""

    @cached_property
    def chance(self) -> float:
        """Accuracy of guessing among the classes that can be answered: those of the gallery, else
        of train. NaN for unlabeled data."""
        known = (self.gallery or self.train).targets()
        present = np.unique(known[known >= 0]) if known is not None else np.empty(0)
        return 1 / len(present) if len(present) else float("nan")

    def summary(self) -> str:
        """One line for the console."""
        sizes = [f"{len(self.train):,} train", f"{len(self.val):,} val", f"{len(self.test):,} test"]
        if self.gallery is not None:
            sizes.insert(1, f"{len(self.gallery):,} gallery")
        if self.train.mask_images is not None:
            labels = f"{len(self.classes)} classes of pixels"
        else:
            labels = (
                f"{round(1 / self.chance)} classes (chance {self.chance:.2g})"
                if self.classes
                else "no labels"
            )
        skipped = f", {len(self.skipped)} corrupt files skipped" if self.skipped else ""
        side = self.train.images.shape[-1]
        return f"{self.name}: {', '.join(sizes)} images of {side} px, {labels}{skipped} [{self.fingerprint[:8]}]"


def carve(
    rows: np.ndarray,  # (n,) rows to carve from
    labels: np.ndarray,  # (N,) int64, -1 = unlabeled
    groups: np.ndarray,  # (N,) int64
    fraction: float,  # in (0, 1), of each class
    seed: int,
    most: int | None = None,  # at most so many rows of all
) -> tuple[np.ndarray, np.ndarray]:  # (kept, carved), sorted
    """Stratified by class, whole groups at a time. No class loses its last group; one of two or
    more single rows gives at least one.

    A group belongs to the class of its first row. Groups larger than what is still wanted stay with
    the kept rows.
    """
    rows = np.sort(rows)
    if most is not None and len(rows):
        fraction = min(fraction, most / len(rows))
    _, first, group_of = np.unique(groups[rows], return_index=True, return_inverse=True)
    sizes = np.bincount(group_of, minlength=len(first))
    classes = labels[rows[first]]
    shuffled = np.random.default_rng([seed, len(rows)]).permutation(len(first))
    order = shuffled[np.argsort(classes[shuffled], kind="stable")]
    taken = np.zeros(len(first), bool)
    for members in np.split(order, np.flatnonzero(np.diff(classes[order])) + 1):
        left = max(1, round(fraction * sizes[members].sum()))
        for group in members[:-1]:
            if sizes[group] <= left:
                taken[group] = True
                left -= sizes[group]
    return rows[~taken[group_of]], rows[taken[group_of]]


def carve_classes(
    rows: np.ndarray,  # (n,) rows to carve from
    labels: np.ndarray,  # (N,) int64
    fraction: float,  # in (0, 1), of the classes
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:  # (kept, carved), sorted
    """Whole classes, at least one."""
    classes = np.unique(labels[rows])
    chosen = np.random.default_rng([seed, len(classes)]).permutation(classes)[
        : max(1, round(fraction * len(classes)))
    ]
    taken = np.isin(labels[rows], chosen)
    return np.sort(rows[~taken]), np.sort(rows[taken])


def balanced(
    rows: np.ndarray,  # (n,)
    labels: np.ndarray,  # (N,) int64
    most: int,
    seed: int,
) -> np.ndarray:  # sorted
    """At most `most` rows, drawn one by one from each class in turn, so that small classes are kept
    whole."""
    if len(rows) <= most:
        return np.sort(rows)
    shuffled = np.random.default_rng([seed, len(rows)]).permutation(np.sort(rows))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, start, count = np.unique(labels[by_class], return_index=True, return_counts=True)
    turn = np.arange(len(rows)) - np.repeat(start, count)
    return np.sort(by_class[np.argsort(turn, kind="stable")[:most]])


def limited(data: DataSet, limit: int, seed: int, by_class: bool) -> DataSet:
    """The same data with at most `limit` training images (0 = all), class-balanced if
    `by_class`."""
    train = data.train
    if not limit or len(train) <= limit:
        return data
    labels = (
        train.labels
        if by_class and train.labels is not None
        else np.zeros(len(train.images), np.int64)
    )
    rows = balanced(train.indices, labels, limit, seed)
    return replace(
        data,
        train=replace(train, indices=rows),
        notes=(*data.notes, f"training images limited to {limit:,}"),
    )


def near_duplicates(
    images: np.ndarray,  # (N, 3, S, S) uint8
) -> np.ndarray:  # (N,) int64 group of each row
    """Groups of one picture saved more than once: equal pixels, or re-encoded copies.

    Two rows are joined when their 8x8 thumbnails of luminance (Rec. 601; JPEG keeps it better than
    colour) differ by at most 2 of 255 levels, root mean square, and their RGB pixels correlate with
    r >= 0.98. Rows that are joined through others share a group. Crops, flips and recoloured copies
    are not found.
    """
    thumbnails, exact = _thumbnails(images)
    _, first, copy_of = np.unique(exact, return_index=True, return_inverse=True)
    distinct = thumbnails[first]
    radius = 2 * distinct.shape[1] ** 0.5
    centred = distinct - distinct.mean(0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    # a projection never lengthens a distance, so no pair is lost; principal axes prune best
    tree = cKDTree(centred @ axes[:, -16:])
    joined: list[tuple[int, int]] = []
    for start in range(0, len(first), 1024):
        near = tree.query_ball_point(tree.data[start : start + 1024], radius)
        for a, found in enumerate(near, start):
            others = np.array([b for b in found if b > a], int)
            close = others[np.linalg.norm(distinct[others] - distinct[a], axis=1) <= radius]
            joined += [(a, b) for b in close if _correlate(images[first[a]], images[first[b]])]
    left, right = np.array(joined, int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(left)), (left, right)), shape=(len(first), len(first)))
    return connected_components(graph, directed=False)[1][copy_of].astype(np.int64)


def _thumbnails(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, 64) float32 in [0, 255], and (N,) hashes of the exact pixels."""
    thumbnails = np.empty((len(images), 64), np.float32)
    luminance = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    exact = np.empty(len(images), np.int64)
    for start in range(0, len(images), 256):
        block = np.array(images[start : start + 256])
        thumbnails[start : start + 256] = (
            F.adaptive_avg_pool2d((torch.from_numpy(block) * luminance).sum(1), 8)
            .flatten(1)
            .numpy()
        )
        exact[start : start + 256] = [_hash(row.tobytes()) for row in block]
    return thumbnails, exact


def _hash(pixels: bytes) -> int:
    """The same in every process, unlike `hash`: the order of groups decides what is carved."""
    return int.from_bytes(blake2b(pixels, digest_size=8).digest(), "little", signed=True)


def _correlate(left: np.ndarray, right: np.ndarray) -> bool:
    a, b = (image.astype(np.float32).ravel() - image.mean() for image in (left, right))
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return norm > 0 and float(a @ b) / norm >= 0.98
