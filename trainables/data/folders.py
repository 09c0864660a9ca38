"""A folder in a recognised layout -> DataSet: decoded once into a store, and carved where the
layout lacks a split."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from trainables.data.carving import Carver, SplitRules, carver_of
from trainables.data.carving_v1 import groups_of
from trainables.data.decoding import MEGAPIXELS
from trainables.data.grouping import grouped
from trainables.data.images import open_picture
from trainables.data.listing import Listing
from trainables.data.source import Source
from trainables.data.splits import (
    CARVED,
    CARVED_CLASSES,
    GALLERY,
    UNLABELED,
    DataSet,
    Split,
)
from trainables.data.store import SKIPPED, Store, open_store
from trainables.data.summarize import folder_summary
from trainables.data_summary import Duplicates
from trainables.errors import UserError

_SHOWN = 20  # corrupt files named in the message; all are in the list file


@dataclass(frozen=True)
class Rows:
    """Rows of the store that make each split, (n,) int64 each."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    gallery: np.ndarray
    origins: dict[str, str]
    """Split -> origin, for splits that are no part of the layout."""
    duplicates: Duplicates | None = None


def load_folder(
    listing: Listing,
    size: int,  # S, pixels
    rules: SplitRules,
    task: str,
    skip_corrupt: bool,
    cache_dir: Path | None = None,
    progress: bool = False,
    megapixels: int = MEGAPIXELS,
) -> DataSet:
    """Loads the splits of a folder.

    A test part is the test split; without one the layout's val part is. Splits that are still
    missing are carved from train, stratified, with near-duplicates on one side. Of given parts, a
    training image with a near-duplicate in val or test is left out, and one of val with a
    near-duplicate in test. In partly labelled data only labelled images are validated and tested
    on.

    Raises:
        UserError: corrupt files without skip_corrupt, or too few images for three splits.
    """
    name = listing.root.resolve().name
    store = open_store(
        name,
        listing.fingerprint,
        size,
        lambda: _source(listing, megapixels),
        cache_dir,
        progress,
        rules.contents,
    )
    store = replace(store, contents=grouped(store.contents, listing.files, rules.group))
    check_corrupt(listing, store, skip_corrupt)
    usable = usable_rows(store)
    carver = folder_carver(listing, store, rules)
    if task == "fewshot":
        rows = split_classes(listing, store.labels, usable, carver)
    else:
        rows = split_rows(listing, store.labels, usable, carver, task)
    check_size(listing, rows, task, store.contents.groups[usable])

    labels = store.labels if listing.classes else None

    def split(chosen: np.ndarray) -> Split:
        return Split(store.images, labels, chosen)

    has_gallery = bool(listing.classes) and task != "fewshot"
    return DataSet(
        name=name,
        fingerprint=listing.fingerprint,
        classes=listing.classes,
        train=split(rows.train),
        gallery=split(rows.gallery) if has_gallery else None,
        val=split(rows.val),
        test=split(rows.test),
        skipped=store.skipped,
        summary=folder_summary(listing, store, rows.origins, rows.duplicates),
        contents=store.contents,
        files=listing.files,
        clusters=source_clusters(listing, carver.groups),
        levels=None if store.deep is None else store.deep.levels,
    )


def _source(listing: Listing, megapixels: int) -> Source:
    paths = [listing.root / file for file in listing.files]
    return Source(
        count=len(paths),
        open=lambda row: open_picture(paths[row], megapixels),
        open_scaled=lambda row, levels: open_picture(paths[row], megapixels, levels),
        describe=lambda row: listing.files[row],
        labels=listing.labels,
    )


def folder_carver(listing: Listing, store: Store, rules: SplitRules) -> Carver:
    """The rules for a folder's store, by their version."""
    groups = groups_of(store) if rules.version == 1 else None
    return carver_of(rules, store.labels, listing.classes, store.contents, groups)


def source_clusters(
    listing: Listing,
    groups: np.ndarray,  # (N,) int64, near-duplicates
) -> np.ndarray:  # (N,) int64
    """Number the images that come from one source, such as frames of one video.

    A source is a folder inside the folder that all images of one part and class share. Images
    directly in that folder belong together only with their near-duplicates.
    """
    folders = [file.split("/")[:-1] for file in listing.files]
    shared: dict[tuple[str, int], list[str]] = {}
    keys = list(zip(listing.parts.tolist(), listing.labels.tolist(), strict=True))
    for key, folder in zip(keys, folders, strict=True):
        shared[key] = _common_start(shared.get(key, folder), folder)

    number_of_folder: dict[str, int] = {}
    clusters = groups.copy()
    for row, (key, folder) in enumerate(zip(keys, folders, strict=True)):
        if len(folder) > len(shared[key]):
            path = "/".join(folder)
            number = number_of_folder.setdefault(path, len(number_of_folder))
            clusters[row] = -1 - number  # groups are numbered from 0
    return clusters


def _common_start(first: list[str], second: list[str]) -> list[str]:
    """Folders that two paths begin with."""
    common: list[str] = []
    for name, other in zip(first, second, strict=False):
        if name != other:
            break
        common.append(name)
    return common


def usable_rows(store: Store) -> np.ndarray:  # (N,) bool
    """Marks the rows that could be decoded."""
    usable = np.ones(len(store.labels), bool)
    usable[store.skipped_rows] = False
    return usable


# ---------------------------------------------------------------- splits


def split_rows(
    listing: Listing,
    labels: np.ndarray,  # (N,) int64, -1 = unlabeled
    usable: np.ndarray,  # (N,) bool
    carver: Carver,
    task: str,
) -> Rows:
    """Splits images whose classes are the same everywhere; see `load_folder`."""
    # unlabeled images cannot be queries where others have labels
    answerable = usable & (labels >= 0) if listing.classes else usable
    given = _given_parts(listing, usable, answerable)
    origins = dict(given.origins)
    test = given.test
    val = carver.without_copies(given.val, test)
    train = carver.without_copies(given.train, np.concatenate([val, test]))
    left_out = len(given.val) + len(given.train) - len(val) - len(train)

    candidates = train[answerable[train]]
    unlabeled = train[~answerable[train]]
    most = None if listing.classes else UNLABELED
    missing = _missing(val, test)
    if not len(test):
        candidates, test = carver.carve(candidates, CARVED, most)
        origins["test"] = f"carved from train by seed {carver.seed}"
    if not len(val):
        fraction = _remaining_fraction(CARVED, missing)
        candidates, val = carver.carve(candidates, fraction, most)
        origins["val"] = f"carved from train by seed {carver.seed}"

    apart = carver.without_copies(unlabeled, np.concatenate([val, test]))
    left_out += len(unlabeled) - len(apart)

    gallery = candidates if listing.classes else candidates[:0]
    if task == "ssl" and listing.classes:
        val, lent_by_val = _lend_new_classes(val, gallery, labels, carver)
        test, lent_by_test = _lend_new_classes(test, gallery, labels, carver)
        gallery = np.concatenate([gallery, lent_by_val, lent_by_test])

    train = np.sort(np.concatenate([candidates, apart]))
    duplicates = _duplicates(carver.groups, given, np.concatenate([train, val]), test, left_out)
    gallery = carver.balanced(gallery, labels, GALLERY)
    return Rows(train, val, test, gallery, origins, duplicates)


def split_classes(
    listing: Listing,
    labels: np.ndarray,  # (N,) int64
    usable: np.ndarray,  # (N,) bool
    carver: Carver,
) -> Rows:
    """Splits for few-shot learning: train, val and test have no class in common. Without a test
    part the layout's val classes are the test classes."""
    given = _given_parts(listing, usable, usable)
    train, val, test = given.train, given.val, given.test
    origins = dict(given.origins)

    missing = _missing(val, test)
    if not len(test):
        train, test = carver.carve_classes(train, CARVED_CLASSES)
        origins["test"] = f"classes chosen from train by seed {carver.seed}"
    if not len(val):
        fraction = _remaining_fraction(CARVED_CLASSES, missing)
        train, val = carver.carve_classes(train, fraction)
        val = carver.without_copies(val, test)
        origins["val"] = f"classes chosen from train by seed {carver.seed}"

    apart = carver.without_copies(train, np.concatenate([val, test]))
    left_out = len(train) - len(apart)
    duplicates = _duplicates(carver.groups, given, np.concatenate([apart, val]), test, left_out)
    no_gallery = train[:0]
    return Rows(apart, val, test, no_gallery, origins, duplicates)


def _given_parts(
    listing: Listing,
    usable: np.ndarray,  # (N,) bool
    answerable: np.ndarray,  # (N,) bool: may be in val or test
) -> Rows:
    """The parts that the layout has; without a test part its val part is the test."""
    in_train = np.isin(listing.parts, ("", "train"))
    train = np.flatnonzero(usable & in_train)
    val = np.flatnonzero(answerable & (listing.parts == "val"))
    test = np.flatnonzero(answerable & (listing.parts == "test"))
    no_gallery = train[:0]
    if len(val) and not len(test):
        return Rows(train, test, val, no_gallery, {"test": "the layout's val"})
    return Rows(train, val, test, no_gallery, {})


def _missing(val: np.ndarray, test: np.ndarray) -> int:
    """Number of splits, of val and test, that have to be carved."""
    return int(not len(val)) + int(not len(test))


def _remaining_fraction(fraction: float, missing: int) -> float:
    """Fraction for val of what is left once test, if it was missing too, has been carved."""
    return fraction / (1 - fraction * (missing - 1))


def _lend_new_classes(
    queries: np.ndarray,  # (n,) rows
    gallery: np.ndarray,  # rows
    labels: np.ndarray,
    carver: Carver,
) -> tuple[np.ndarray, np.ndarray]:  # the remaining queries; rows lent to the gallery
    """Lends half of the images of every class that the gallery lacks (few-shot layouts) to it:
    otherwise no query of these classes could be answered."""
    new = ~np.isin(labels[queries], labels[gallery])
    lent, asked = carver.carve(queries[new], 0.5)
    remaining = np.sort(np.concatenate([queries[~new], asked]))
    return remaining, lent


def _duplicates(
    groups: np.ndarray,  # (N,) int64
    given: Rows,
    used: np.ndarray,  # rows of train and val
    test: np.ndarray,
    left_out: int,
) -> Duplicates | None:
    """Counts the test images that are in train or val too, as given and as used."""
    before = np.concatenate([given.train, given.val])
    in_given = int(np.isin(groups[given.test], groups[before]).sum())
    in_used = int(np.isin(groups[test], groups[used]).sum())
    if not in_given and not in_used and not left_out:
        return None
    return Duplicates(test=len(test), given=in_given, remaining=in_used, left_out=left_out)


# ---------------------------------------------------------------- refusals


def _without_images(listing: Listing, split: str, groups: np.ndarray) -> str:
    """Say why a split has no images, and what to do."""
    count = len(np.unique(groups))
    if 2 * count < len(groups):
        of_one = "1 group" if count == 1 else f"{count:,} groups"
        return (
            f"no images of {listing.root} are left for {split}: its {len(groups):,} images are "
            f"{of_one} of images that belong together (by default near-duplicates, as of a fixed "
            "camera), which splits never separate; give folders train/, val/ and test/ of your "
            "own, or say what belongs together with --set data.group=none|folder|prefix"
        )
    return (
        f"data folder {listing.root} is too small: no images are left for {split} of "
        f"{len(listing.files)}; add images"
    )


def check_corrupt(listing: Listing, store: Store, skip_corrupt: bool) -> None:
    """Refuses files that could not be decoded, unless they may be left out.

    Raises:
        UserError: some files are corrupt and `skip_corrupt` is off, or all are.
    """
    if not store.skipped:
        return
    shown = store.skipped[:_SHOWN]
    reasons = [f"{path}: {reason}" for path, reason in shown]
    if len(store.skipped) > _SHOWN:
        reasons.append("...")
    corrupt = len(store.skipped)
    total = len(listing.files)
    found = (
        f"{corrupt:,} of {total:,} images in {listing.root} cannot be used ({'; '.join(reasons)})"
    )
    if corrupt == total:
        raise UserError(f"{found}; none is left: give a folder of readable images")
    if not skip_corrupt:
        raise UserError(
            f"{found}; full list in {store.path / SKIPPED}; "
            "repair them, or leave them out with --skip-corrupt"
        )


def check_size(
    listing: Listing,
    rows: Rows,
    task: str,
    groups: np.ndarray,  # (n,) of the images that can be used
) -> None:
    """Checks that every split has an image and, for "classify", that train has every class.

    Raises:
        UserError: it names the empty split, or the classes.
    """
    for name, chosen in (("train", rows.train), ("val", rows.val), ("test", rows.test)):
        if not len(chosen):
            raise UserError(_without_images(listing, name, groups))
    if task == "classify":
        present = set(listing.labels[rows.train].tolist())
        lost = [name for label, name in enumerate(listing.classes) if label not in present]
        if lost:
            raise UserError(
                f"classes without a usable training image in {listing.root}: "
                f"{', '.join(lost[:10])}; add images or remove them"
            )
