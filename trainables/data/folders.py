"""A folder in a recognised layout -> DataSet: decoded once into a store, carved where the layout
lacks a split."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.data.images import decode
from trainables.data.layouts import Listing
from trainables.data.splits import (
    CARVED,
    CARVED_CLASSES,
    GALLERY,
    UNLABELED,
    DataSet,
    Split,
    balanced,
    carve,
    carve_classes,
    near_duplicates,
)
from trainables.data.store import SKIPPED, Source, Store, open_store
from trainables.errors import UserError

_SHOWN = 20  # corrupt files named in the message; all are in the list file


@dataclass(frozen=True)
class _Rows:
    train: np.ndarray  # (n,) rows, as are the others
    val: np.ndarray
    test: np.ndarray
    gallery: np.ndarray
    notes: tuple[str, ...]


def load_folder(
    listing: Listing,
    size: int,  # S, pixels
    seed: int,
    task: str,
    skip_corrupt: bool,
    cache_dir: Path | None = None,
    progress: bool = False,
) -> DataSet:
    """Splits of a folder.

    A test part is the test split; without one the layout's val part is, untouched. What is missing
    then is carved from train by seed, stratified, near-duplicates on one side. Of partly labelled
    data only labelled images select and test.

    Raises:
        UserError: corrupt files without skip_corrupt, or too few images for three splits.
    """
    name = listing.root.resolve().name
    store = open_store(
        name, listing.fingerprint, size, lambda: _source(listing), cache_dir, progress
    )
    check_corrupt(listing, store, skip_corrupt)
    usable = np.ones(len(store.labels), bool)
    usable[store.skipped_rows] = False
    rows = (
        _split_classes(listing, store, usable, seed)
        if task == "fewshot"
        else split_rows(listing, store, usable, seed, task)
    )
    labels = store.labels if listing.classes else None
    check_size(listing, rows, task)

    def split(chosen: np.ndarray) -> Split:
        return Split(store.images, labels, chosen)

    return DataSet(
        name=name,
        fingerprint=listing.fingerprint,
        classes=listing.classes,
        train=split(rows.train),
        gallery=split(rows.gallery) if listing.classes and task != "fewshot" else None,
        val=split(rows.val),
        test=split(rows.test),
        skipped=store.skipped,
        notes=(f"layout: {listing.layout}", *listing.notes, *rows.notes),
    )


def split_rows(listing: Listing, store: Store, usable: np.ndarray, seed: int, task: str) -> _Rows:
    labels, groups = store.labels, store.groups
    labelled = labels >= 0
    # unlabeled images cannot be queries where others have labels
    answerable = usable & (labelled | (not listing.classes))
    train = np.flatnonzero(usable & np.isin(listing.parts, ("", "train")))
    val, test = (np.flatnonzero(answerable & (listing.parts == part)) for part in ("val", "test"))
    notes: list[str] = []
    if len(val) and not len(test):
        val, test = test, val
        notes.append("the layout's val is the test split")
    candidates, rest = train[answerable[train]], train[~answerable[train]]
    most = None if listing.classes else UNLABELED
    missing = int(not len(val)) + int(not len(test))
    if not len(test):
        candidates, test = carve(candidates, labels, groups, CARVED, seed, most)
        notes.append(f"test is carved from train by seed {seed} ({len(test):,} images)")
    if not len(val):
        candidates, val = carve(
            candidates, labels, groups, CARVED / (1 - CARVED * (missing - 1)), seed, most
        )
        notes.append(f"val is carved from train by seed {seed} ({len(val):,} images)")
    gallery = candidates if listing.classes else candidates[:0]
    if task == "ssl" and listing.classes:
        val, more_val = _novel(val, gallery, labels, groups, seed)
        test, more_test = _novel(test, gallery, labels, groups, seed)
        gallery = np.concatenate([gallery, more_val, more_test])
    train = np.sort(np.concatenate([candidates, rest]))
    shared = (
        np.isin(groups[test], groups[np.concatenate([train, val])]).sum()
        + np.isin(groups[val], groups[train]).sum()
    )
    if shared:
        notes.append(f"{shared:,} images of val and test have a near-duplicate in train or val")
    return _Rows(train, val, test, balanced(gallery, labels, GALLERY, seed), tuple(notes))


def _split_classes(listing: Listing, store: Store, usable: np.ndarray, seed: int) -> _Rows:
    """For few-shot learning: train, val and test have no class in common. Without a test part the
    layout's val classes are the test."""
    train = np.flatnonzero(usable & np.isin(listing.parts, ("", "train")))
    val, test = (np.flatnonzero(usable & (listing.parts == part)) for part in ("val", "test"))
    notes: list[str] = []
    if len(val) and not len(test):
        val, test = test, val
        notes.append("the layout's val classes are the test classes")
    missing = int(not len(val)) + int(not len(test))
    if not len(test):
        train, test = carve_classes(train, store.labels, CARVED_CLASSES, seed)
        notes.append(
            f"{len(np.unique(store.labels[test]))} test classes are chosen from train by seed {seed}"
        )
    if not len(val):
        train, val = carve_classes(
            train, store.labels, CARVED_CLASSES / (1 - CARVED_CLASSES * (missing - 1)), seed
        )
        notes.append(
            f"{len(np.unique(store.labels[val]))} val classes are chosen from train by seed {seed}"
        )
    return _Rows(train, val, test, train[:0], tuple(notes))


def _novel(
    queries: np.ndarray, gallery: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:  # (queries, their gallery)
    """Classes that train does not have (few-shot layouts) lend half of their images to the gallery,
    otherwise no query could be right."""
    novel = ~np.isin(labels[queries], labels[gallery])
    lent, asked = carve(queries[novel], labels, groups, 0.5, seed)
    return np.sort(np.concatenate([queries[~novel], asked])), lent


def _source(listing: Listing) -> Source:
    paths = [listing.root / file for file in listing.files]
    return Source(
        count=len(paths),
        read=lambda row, size: decode(paths[row], size),
        describe=lambda row: listing.files[row],
        labels=listing.labels,
        group=near_duplicates,
    )


def check_corrupt(listing: Listing, store: Store, skip_corrupt: bool) -> None:
    if not store.skipped:
        return
    shown = "; ".join(f"{path}: {reason}" for path, reason in store.skipped[:_SHOWN])
    found = f"{len(store.skipped):,} of {len(listing.files):,} images in {listing.root} cannot be used ({shown}"
    more = "; ..." if len(store.skipped) > _SHOWN else ""
    if len(store.skipped) == len(listing.files):
        raise UserError(f"{found}{more}); none is left: give a folder of readable images")
    if not skip_corrupt:
        raise UserError(
            f"{found}{more}); full list in {store.path / SKIPPED}; mend them, or leave them out with --skip-corrupt"
        )


def check_size(listing: Listing, rows: _Rows, task: str) -> None:
    for name, chosen in (("train", rows.train), ("val", rows.val), ("test", rows.test)):
        if not len(chosen):
            raise UserError(
                f"data folder {listing.root} is too small: no images are left for {name} of {len(listing.files)}; add images"
            )
    if task == "classify":
        present = set(listing.labels[rows.train].tolist())
        lost = [name for label, name in enumerate(listing.classes) if label not in present]
        if lost:
            raise UserError(
                f"classes without a usable training image in {listing.root}: {', '.join(lost[:10])}; add images or remove them"
            )
