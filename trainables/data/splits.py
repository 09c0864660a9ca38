"""Splits of a store: one for training, one for selection, one for claims."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from trainables.data.carving import Carver
from trainables.data.contents import Contents
from trainables.data.levels import Levels
from trainables.data.paging import fetch
from trainables.data.whole import WholeImages
from trainables.data_summary import DataSummary

CARVED = 0.15
"""Fraction of each class that is carved for validation, and again for test, if the layout lacks
them."""
CARVED_CLASSES = 0.2
"""Fraction of the classes that is carved for few-shot validation, and again for test, if the layout
lacks them."""
GALLERY = 10_000
"""Largest number of labelled images, class-balanced, for kNN and the linear probe."""
UNLABELED = 5_000
"""Largest number of images carved from unlabeled data for val, and again for test."""
IGNORE = 255
"""Mask value of a pixel without class. In a store, the class is unknown; in an augmented mask, it
also marks padding."""


class Rows(Protocol):
    """Rows of a store's array, on any device."""

    def take(
        self,
        rows: np.ndarray,  # (B,) int64
    ) -> Tensor: ...  # (B, ...) uint8, a copy


@dataclass(frozen=True, eq=False)
class Split:
    """Some rows of a store. All splits and processes share the images themselves."""

    images: np.ndarray  # (N, 3, S, S) uint8, memory-mapped
    labels: np.ndarray | None  # (N,) int64 of the whole store, -1 = unlabeled
    indices: np.ndarray  # (n,) int64 rows of this split
    # (N, S, S) uint8, memory-mapped: [0, C) or IGNORE; None for data without masks
    mask_images: np.ndarray | None = None
    whole: WholeImages | None = None
    """Whole images of these rows, on which segmentation is evaluated. None if all images are
    square, or if evaluation uses the squares."""
    device_images: Rows | None = None
    """The same images on a GPU, if the store fits (`placement.py`)."""
    device_masks: Rows | None = None
    """The same masks on a GPU."""

    def __len__(self) -> int:
        return len(self.indices)

    def batch(
        self,
        positions: np.ndarray | Tensor,  # (B,) int, positions within this split
    ) -> Tensor:  # (B, 3, S, S) uint8, a copy
        """Read images from the memory map."""
        rows = self.indices[np.asarray(positions)]
        fetch(self.images, rows)
        return torch.from_numpy(self.images[rows])

    def masks(
        self,
        positions: np.ndarray | Tensor,  # (B,) int, positions within this split
    ) -> Tensor:  # (B, S, S) uint8, a copy: [0, C) or IGNORE
        """Read the masks of `batch(positions)`; only for data with masks."""
        assert self.mask_images is not None
        rows = self.indices[np.asarray(positions)]
        fetch(self.mask_images, rows)
        return torch.from_numpy(self.mask_images[rows])

    def input_batch(
        self,
        positions: np.ndarray,  # (B,) int, positions within this split
    ) -> Tensor:  # (B, 3, S, S) uint8, a copy, on the GPU or on the CPU
        """Gather the images of `batch(positions)` from the GPU if they are there."""
        if self.device_images is None:
            return self.batch(positions)
        return self.device_images.take(self.indices[positions])

    def input_masks(
        self,
        positions: np.ndarray,  # (B,) int, positions within this split
    ) -> Tensor:  # (B, S, S) uint8, a copy, on the device of `input_batch`
        """Gather the masks of `input_batch(positions)`; only for data with masks."""
        if self.device_masks is None:
            return self.masks(positions)
        return self.device_masks.take(self.indices[positions])

    def whole_batch(
        self,
        positions: np.ndarray,  # (B,) int, of images of one shape
    ) -> Tensor:  # (B, 3, h, w) uint8, a copy
        """Read whole images; only if there are any."""
        assert self.whole is not None
        images = [self.whole.image(row) for row in self.indices[positions]]
        return torch.from_numpy(np.stack(images))

    def whole_masks(
        self,
        positions: np.ndarray,  # (B,) int, of images of one shape
    ) -> Tensor:  # (B, h, w) uint8, a copy: [0, C) or IGNORE
        """Read the masks of `whole_batch(positions)`."""
        assert self.whole is not None
        masks = [self.whole.mask(row) for row in self.indices[positions]]
        return torch.from_numpy(np.stack(masks))

    def targets(self) -> np.ndarray | None:  # (n,) int64, -1 = unlabeled
        """Labels of this split's rows, in order; None for data without labels."""
        return None if self.labels is None else self.labels[self.indices]


@dataclass(frozen=True, eq=False)
class DataSet:
    """The data on which a trial is trained, selected and tested."""

    name: str
    fingerprint: str
    """Hash of images, labels and splits as stored."""
    classes: tuple[str, ...]
    """Names of the labels 0, 1, ...; empty for unlabeled data."""
    train: Split
    """Training images; self-supervised training ignores their labels."""
    gallery: Split | None
    """Labelled images for kNN and the linear probe; None if there are no labels."""
    val: Split
    """Validation images, on which a search selects: the queries of kNN."""
    test: Split
    """Images only for claims; no search sees them."""
    skipped: tuple[tuple[str, str], ...]
    """(path, reason) of files left out by skip_corrupt."""
    summary: DataSummary = field(default_factory=DataSummary)
    """Everything that was found out about the data."""
    colors: tuple[tuple[int, int, int], ...] = ()
    """Red, green, blue (0-255) of each class, for pictures; only for data with masks."""
    contents: Contents | None = None
    """Identity of every row in the store; None if unknown."""
    files: tuple[str, ...] = ()
    """Path of every row in the store, relative to the folder; empty if images are not files."""
    clusters: np.ndarray | None = None  # (N,) int64 of the whole store
    """Groups of images, such as drawings of one letter. An interval over test images treats a group
    as one draw. None: every image is its own group."""
    levels: Levels | None = None
    """Range of values that was mapped to 0 to 255, for images with more than 8 bits; None without
    any."""
    carved_from: str = ""
    """Hash of all images before they are split; "" if `fingerprint` is that hash."""

    @property
    def pool(self) -> str:
        """Hash of all images before they are split. Data sets of one pool have the same rows, and
        splits that may overlap."""
        return self.carved_from or self.fingerprint

    @cached_property
    def chance(self) -> float:
        """Accuracy of guessing among the classes that can be predicted: those of the gallery or, if
        there is none, of train. NaN for unlabeled data."""
        count = self._answerable_classes()
        return 1 / count if count else float("nan")

    @property
    def own_gallery(self) -> Split | None:
        """The gallery, if it has other images than train."""
        gallery = self.gallery
        if gallery is None or np.array_equal(gallery.indices, self.train.indices):
            return None
        return gallery

    def named_splits(self) -> list[tuple[str, Split]]:
        """Names and splits, without a gallery that equals the training split."""
        splits = [("train", self.train)]
        gallery = self.own_gallery
        if gallery is not None:
            splits.append(("gallery", gallery))
        return [*splits, ("val", self.val), ("test", self.test)]

    def _answerable_classes(self) -> int:
        known = (self.gallery or self.train).targets()
        if known is None:
            return 0
        return len(np.unique(known[known >= 0]))

    def headline(self) -> str:
        """One line for the console."""
        sizes = [f"{len(self.train):,} train"]
        if self.gallery is not None:
            sizes.append(f"{len(self.gallery):,} gallery")
        sizes.append(f"{len(self.val):,} val")
        sizes.append(f"{len(self.test):,} test")

        side = self.train.images.shape[-1]
        skipped = f", {len(self.skipped)} corrupt files skipped" if self.skipped else ""
        return (
            f"{self.name}: {', '.join(sizes)} images of {side} px, {self._label_summary()}{skipped}"
            f" [{self.fingerprint[:8]}]"
        )

    def _label_summary(self) -> str:
        if self.train.mask_images is not None:
            return f"{len(self.classes)} classes of pixels"
        if not self.classes:
            return "no labels"
        count = round(1 / self.chance)
        classes = "class" if count == 1 else "classes"
        return f"{count} {classes} (chance {self.chance:.2g})"


def limited(data: DataSet, limit: int, carver: Carver, by_class: bool) -> DataSet:
    """The same data with at most `limit` training images (0 = all), class-balanced if
    `by_class`."""
    train = data.train
    if not limit or len(train) <= limit:
        return data
    if by_class and train.labels is not None:
        labels = train.labels
    else:
        labels = np.zeros(len(train.images), np.int64)

    rows = carver.balanced(train.indices, labels, limit)
    note = f"training images limited to {limit:,}"
    return with_note(replace(data, train=replace(train, indices=rows)), note)


def transductive(data: DataSet) -> DataSet:
    """The same data with the images of val and test added to the training images, for training
    without labels."""
    queries = np.concatenate([data.val.indices, data.test.indices])
    rows = np.union1d(data.train.indices, queries)
    note = f"transductive: trained on {len(queries):,} images of val and test, without labels"
    return with_note(replace(data, train=replace(data.train, indices=rows)), note)


def with_note(data: DataSet, note: str) -> DataSet:
    """The same data with one more note in its summary."""
    notes = (*data.summary.notes, note)
    return replace(data, summary=replace(data.summary, notes=notes))
