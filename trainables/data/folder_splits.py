"""Rows of a folder's store for each split: parts that the layout has, and carved splits that it
lacks, without near-duplicates across splits."""

from dataclasses import dataclass

import numpy as np

from trainables.data.carving import Carver
from trainables.data.listing import Listing
from trainables.data.splits import CARVED, CARVED_CLASSES, GALLERY, UNLABELED
from trainables.data_summary import Duplicates


@dataclass(frozen=True)
class Rows:
    """Rows of the store in each split, (n,) int64 each."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    gallery: np.ndarray
    origins: dict[str, str]
    """Split -> origin, for splits that do not come from the layout."""
    duplicates: Duplicates | None = None


def split_rows(
    listing: Listing,
    labels: np.ndarray,  # (N,) int64, -1 = unlabeled
    usable: np.ndarray,  # (N,) bool
    carver: Carver,
    task: str,
) -> Rows:
    """Split images whose classes are the same in all splits; see `load_folder`."""
    # unlabeled images cannot be queries if other images have labels
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
    """Split for few-shot learning: train, val and test share no class. Without a test part, the
    layout's val classes become the test classes."""
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
    """The layout's parts; without a test part, its val part becomes test."""
    in_train = np.isin(listing.parts, ("", "train"))
    train = np.flatnonzero(usable & in_train)
    val = np.flatnonzero(answerable & (listing.parts == "val"))
    test = np.flatnonzero(answerable & (listing.parts == "test"))
    no_gallery = train[:0]
    if len(val) and not len(test):
        return Rows(train, test, val, no_gallery, {"test": "the layout's val"})
    return Rows(train, val, test, no_gallery, {})


def _missing(val: np.ndarray, test: np.ndarray) -> int:
    """Number of splits, out of val and test, that must be carved."""
    return int(not len(val)) + int(not len(test))


def _remaining_fraction(fraction: float, missing: int) -> float:
    """Fraction for val of what remains after test, if it was missing too, has been carved."""
    return fraction / (1 - fraction * (missing - 1))


def _lend_new_classes(
    queries: np.ndarray,  # (n,) rows
    gallery: np.ndarray,  # rows
    labels: np.ndarray,
    carver: Carver,
) -> tuple[np.ndarray, np.ndarray]:  # the remaining queries; rows lent to the gallery
    """Lend the gallery half of the images of every class that it lacks (few-shot layouts).
    Otherwise no query of these classes could be answered."""
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
    """Count the test images that are also in train or val, as given and as used."""
    before = np.concatenate([given.train, given.val])
    in_given = int(np.isin(groups[given.test], groups[before]).sum())
    in_used = int(np.isin(groups[test], groups[used]).sum())
    if not in_given and not in_used and not left_out:
        return None
    return Duplicates(test=len(test), given=in_given, remaining=in_used, left_out=left_out)
