"""The summary of a data set: facts about its layout, and counts of its splits.

    layout_summary   facts from the layout; nothing is decoded yet
    folder_summary   called by a loader: adds facts from the files, and the origins of the splits
    with_counts      called last, when limits and notes are known: adds splits, classes, warnings

A warning is a fact that makes a result worthless. It comes first on every page, and is among the
reasons to doubt the study's answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from trainables.data.episodes import FewShotData
from trainables.data.listing import Listing
from trainables.data.splits import DataSet, Split
from trainables.data.store import Store
from trainables.data_summary import ClassCounts, DataSummary, Duplicates, LeftOut, SplitUse

_NAMED = 8  # most classes that are named
_PIXELS = 1 << 26  # most mask pixels that are counted


@dataclass(frozen=True, eq=False)
class MaskCounts:
    """Number of masks that contain each class."""

    counts: np.ndarray  # (C,) int64
    """Number of masks with at least one pixel of each class."""
    looked_at: int
    """Number of masks that were read."""


def layout_summary(listing: Listing) -> DataSummary:
    """Everything known about a folder before an image is decoded."""
    return DataSummary(
        layout=listing.layout,
        why=listing.why,
        folders=listing.folders,
        left_out=listing.left_out,
        notes=listing.notes,
        warnings=listing.warnings,
        hidden=len(listing.hidden),
    )


def folder_summary(
    listing: Listing,
    store: Store,
    origins: Mapping[str, str],
    duplicates: Duplicates | None,
) -> DataSummary:
    """Everything known about a folder before its splits are counted.

    Args:
        origins: split -> origin, for splits that do not come from the layout.
    """
    said = layout_summary(listing)
    left_out, notes = said.left_out, said.notes
    if store.skipped:
        path, reason = store.skipped[0]
        example = f"{path}: {reason}"
        unread = LeftOut("that cannot be decoded", len(store.skipped), example)
        left_out = (*left_out, unread)
    if store.deep is not None:
        notes = (*notes, store.deep.describe())

    return replace(
        said,
        found=store.found,
        left_out=left_out,
        duplicates=duplicates,
        notes=notes,
        origins=dict(origins),
    )


def with_counts(data: DataSet) -> DataSet:
    """The same data, with its splits and classes counted and its warnings complete."""
    summary = data.summary
    splits = [_split_use(name, split, summary.origins) for name, split in data.named_splits()]
    if summary.hidden:
        splits.append(SplitUse("hidden test", summary.hidden, origin="no labels"))

    warnings = [*summary.warnings, *_warnings_about_copies(summary.duplicates)]
    if data.train.mask_images is not None:
        masks = masks_with_class(data.train, len(data.classes))
        classes = _pixel_classes(data, masks)
        warnings += _warnings_about_masks(data, masks)
    elif data.classes:
        classes = _class_counts(data)
        warnings += _warnings_about_classes(data)
    else:
        classes = None

    counted = replace(summary, splits=tuple(splits), classes=classes, warnings=tuple(warnings))
    return replace(data, summary=counted)


# ---------------------------------------------------------------- splits


def _split_use(name: str, split: Split, origins: Mapping[str, str]) -> SplitUse:
    """One split as shown in the summary."""
    classes = len(_labels_in(split))
    return SplitUse(name, len(split), classes, origins.get(name, ""))


# ---------------------------------------------------------------- classes


def _labels_in(split: Split) -> np.ndarray:
    """Distinct labels of a split's images; empty if they have no labels, or masks instead."""
    targets = split.targets()
    if targets is None or split.mask_images is not None:
        return np.zeros(0, np.int64)
    return np.unique(targets[targets >= 0])


def _class_counts(data: DataSet) -> ClassCounts:
    """Number and names of the classes, with the least and the most frequent one.

    The counted images are those from which a class is learned: those of the gallery if it differs
    from train, as in self-supervised training, otherwise those of train.
    """
    learned = data.gallery or data.train
    labels = [_labels_in(split) for split in (learned, data.val, data.test)]
    present = np.unique(np.concatenate(labels))
    names = [data.classes[label] for label in present]

    counts = np.bincount(_known(learned), minlength=len(data.classes))
    trained = np.flatnonzero(counts)
    fewest_first = trained[np.argsort(counts[trained], kind="stable")]
    smallest = int(fewest_first[0])
    largest = int(fewest_first[-1])
    return ClassCounts(
        total=len(names),
        names=tuple(names[:_NAMED]),
        smallest=_counted(data, counts, smallest),
        largest=_counted(data, counts, largest),
        unit="training images" if data.own_gallery is None else "gallery images",
    )


def _pixel_classes(data: DataSet, masks: MaskCounts) -> ClassCounts:
    """Pixel classes, and the number of training masks that contain each; without these numbers if
    not all masks were read."""
    named = ClassCounts(len(data.classes), data.classes[:_NAMED], unit="training masks")
    if masks.looked_at < len(data.train):
        return named

    fewest_first = np.argsort(masks.counts, kind="stable")
    return replace(
        named,
        smallest=_counted(data, masks.counts, int(fewest_first[0])),
        largest=_counted(data, masks.counts, int(fewest_first[-1])),
    )


def masks_with_class(split: Split, classes: int) -> MaskCounts:
    """Count the masks of a split that contain each class, in at most 67 million pixels of masks
    spread evenly over it, which takes a few hundred milliseconds."""
    assert split.mask_images is not None
    pixels = split.mask_images.shape[-2] * split.mask_images.shape[-1]
    most = max(1, _PIXELS // pixels)
    spread = np.linspace(0, len(split) - 1, min(most, len(split)))
    positions = np.unique(spread.round().astype(int))

    counts = np.zeros(classes, np.int64)
    for row in split.indices[positions]:
        values = np.bincount(split.mask_images[row].ravel(), minlength=256)
        counts += values[:classes] > 0
    return MaskCounts(counts, len(positions))


def _counted(data: DataSet, counts: np.ndarray, label: int) -> tuple[str, int]:
    """Name of a class, and its count."""
    name = data.classes[label]
    return name, int(counts[label])


def _known(split: Split) -> np.ndarray:  # (m,) int64
    """Labels of the images that have one."""
    targets = split.targets()
    assert targets is not None
    known: np.ndarray = targets[targets >= 0]
    return known


# ---------------------------------------------------------------- warnings


def _warnings_about_copies(duplicates: Duplicates | None) -> list[str]:
    """Warning about test images that are also training images."""
    if duplicates is None or not duplicates.remaining:
        return []
    share = duplicates.remaining / duplicates.test
    return [
        f"{duplicates.remaining:,} of {duplicates.test:,} test images ({share:.0%}) are "
        "training images too: a test result flatters"
    ]


def _warnings_about_masks(data: DataSet, masks: MaskCounts) -> list[str]:
    """Warning about classes in no training mask. Loading a folder has already checked all masks."""
    if data.files:
        return []
    absent = np.flatnonzero(masks.counts == 0)
    if not len(absent):
        return []

    named = ", ".join(data.classes[label] for label in absent[:_NAMED])
    more = ", ..." if len(absent) > _NAMED else ""
    where = "no training mask"
    if masks.looked_at < len(data.train):
        where = f"none of {masks.looked_at:,} training masks that were looked at"
    return [f"{where} shows {named}{more}: nothing can be learned about it"]


def _warnings_about_classes(data: DataSet) -> list[str]:
    """Warnings about a single class, and about classes in val or test that training lacks.

    Few-shot learning is exempt from the latter: new classes are its task.
    """
    learned = _labels_in(data.gallery or data.train)
    asked = np.concatenate([_labels_in(data.val), _labels_in(data.test)])
    known = np.union1d(learned, asked)
    if len(known) == 1:
        name = data.classes[known[0]]
        return [f"there is one class only ({name}): every model is right"]
    if isinstance(data, FewShotData):
        return []

    unknown = np.setdiff1d(asked, learned)
    if not len(unknown):
        return []
    named = ", ".join(data.classes[label] for label in unknown[:_NAMED])
    more = ", ..." if len(unknown) > _NAMED else ""
    return [
        f"{len(unknown):,} classes of val or test have no training image ({named}{more}): "
        "no answer to them can be right"
    ]
