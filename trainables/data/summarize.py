"""The summary of a data set: what its layout said, and what can be counted in its splits.

    folder_summary   called by a loader: layout, folders, what was left out, origins of the splits
    with_counts      called at the end, when limits and notes are known: splits, classes, warnings

A warning is a fact that makes a claim worthless. It stands first on every page, and among the
reasons to doubt the study's answer.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from trainables.data.episodes import FewShotData
from trainables.data.listing import Listing
from trainables.data.splits import DataSet, Split
from trainables.data.store import Store
from trainables.data_summary import ClassCounts, DataSummary, Duplicates, LeftOut, SplitUse

_NAMED = 8  # classes that are named


def folder_summary(
    listing: Listing,
    store: Store,
    origins: Mapping[str, str],
    duplicates: Duplicates | None,
) -> DataSummary:
    """Everything that is known of a folder before its splits are counted.

    Args:
        origins: split -> origin, for splits that are no part of the layout.
    """
    left_out = list(listing.left_out)
    if store.skipped:
        path, reason = store.skipped[0]
        example = f"{path}: {reason}"
        left_out.append(LeftOut("that cannot be decoded", len(store.skipped), example))

    return DataSummary(
        layout=listing.layout,
        why=listing.why,
        folders=listing.folders,
        found=store.found,
        left_out=tuple(left_out),
        duplicates=duplicates,
        notes=listing.notes,
        warnings=listing.warnings,
        origins=dict(origins),
        hidden=len(listing.hidden),
    )


def with_counts(data: DataSet) -> DataSet:
    """The same data, with its splits and classes counted and its warnings complete."""
    summary = data.summary
    splits = [_split_use(name, split, summary.origins) for name, split in _splits(data)]
    if summary.hidden:
        splits.append(SplitUse("hidden test", summary.hidden, origin="no labels"))

    warnings = [*summary.warnings, *_warnings(data)]
    counted = replace(
        summary, splits=tuple(splits), classes=_class_counts(data), warnings=tuple(warnings)
    )
    return replace(data, summary=counted)


def _splits(data: DataSet) -> list[tuple[str, Split]]:
    """Names and splits; a gallery that is the training split is left out."""
    splits = [("train", data.train)]
    if data.gallery is not None and _has_own_gallery(data):
        splits.append(("gallery", data.gallery))
    return [*splits, ("val", data.val), ("test", data.test)]


def _has_own_gallery(data: DataSet) -> bool:
    """Tell if the gallery has other images than train."""
    gallery = data.gallery
    return gallery is not None and not np.array_equal(gallery.indices, data.train.indices)


# ---------------------------------------------------------------- splits


def _split_use(name: str, split: Split, origins: Mapping[str, str]) -> SplitUse:
    """One split as the summary names it."""
    classes = len(_labels_in(split))
    return SplitUse(name, len(split), classes, origins.get(name, ""))


# ---------------------------------------------------------------- classes


def _labels_in(split: Split) -> np.ndarray:
    """Labels of a split's images, each once; none for images without labels, and for those that
    have masks."""
    targets = split.targets()
    if targets is None or split.mask_images is not None:
        return np.zeros(0, np.int64)
    return np.unique(targets[targets >= 0])


def _class_counts(data: DataSet) -> ClassCounts | None:
    """Number and names of the classes, and the least and most frequent one.

    Counted are the images from which a class is learned: those of the gallery where it has images
    of its own, as in self-supervised training, else those of train. None for unlabeled data.
    """
    if not data.classes:
        return None
    if data.train.mask_images is not None:
        return ClassCounts(len(data.classes), data.classes[:_NAMED], unit="classes of pixels")

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
        unit="gallery images" if _has_own_gallery(data) else "training images",
    )


def _counted(data: DataSet, counts: np.ndarray, label: int) -> tuple[str, int]:
    """Name of a class, and its number."""
    name = data.classes[label]
    return name, int(counts[label])


def _known(split: Split) -> np.ndarray:  # (m,) int64
    """Labels of the images that have one."""
    targets = split.targets()
    assert targets is not None
    known: np.ndarray = targets[targets >= 0]
    return known


# ---------------------------------------------------------------- warnings


def _warnings(data: DataSet) -> list[str]:
    """Facts about the splits that make a claim on them worthless."""
    found: list[str] = []
    duplicates = data.summary.duplicates
    if duplicates is not None and duplicates.remaining:
        share = duplicates.remaining / duplicates.test
        found.append(
            f"{duplicates.remaining:,} of {duplicates.test:,} test images ({share:.0%}) are "
            "training images too: a test result flatters"
        )
    if data.classes and data.train.mask_images is None:
        found += _warnings_about_classes(data)
    return found


def _warnings_about_classes(data: DataSet) -> list[str]:
    """One class only, or classes that are asked for and were never shown.

    Few-shot learning asks for new classes: that is its task.
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
