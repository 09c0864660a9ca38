"""Loads a folder with a recognised layout as a DataSet: decodes it once into a store, and carves
splits that the layout lacks."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from trainables.data.carving import Carver, SplitRules, carver_of
from trainables.data.carving_v1 import groups_of
from trainables.data.decoding import MEGAPIXELS
from trainables.data.folder_splits import Rows, split_classes, split_rows
from trainables.data.grouping import grouped
from trainables.data.images import open_picture
from trainables.data.listing import Listing
from trainables.data.source import Source
from trainables.data.splits import DataSet, Split
from trainables.data.store import Store, open_store
from trainables.data.store_building import SKIPPED
from trainables.data.summarize import folder_summary
from trainables.errors import UserError

_SHOWN = 20  # corrupt files named in the message; the list file contains all


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
    """Load the splits of a folder.

    The test split is the layout's test part or, without one, its val part. Splits that are still
    missing are carved from train, stratified, with near-duplicates in one split. In given parts,
    training images with a near-duplicate in val or test are left out, and val images with one in
    test. In partly labelled data, only labelled images are used for validation and test.

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
    """Carver for a folder's store, by the version of the rules."""
    groups = groups_of(store) if rules.version == 1 else None
    return carver_of(rules, store.labels, listing.classes, store.contents, groups)


def source_clusters(
    listing: Listing,
    groups: np.ndarray,  # (N,) int64, near-duplicates
) -> np.ndarray:  # (N,) int64
    """Number the images by source, such as frames of one video.

    A source is a folder inside the folder that all images of one part and class share. Images
    directly in that shared folder belong together only with their near-duplicates.
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
    """Folders with which both paths begin."""
    common: list[str] = []
    for name, other in zip(first, second, strict=False):
        if name != other:
            break
        common.append(name)
    return common


def usable_rows(store: Store) -> np.ndarray:  # (N,) bool
    """Mark the rows that could be decoded."""
    usable = np.ones(len(store.labels), bool)
    usable[store.skipped_rows] = False
    return usable


# ---------------------------------------------------------------- refusals


def _without_images(listing: Listing, split: str, groups: np.ndarray) -> str:
    """Explain why a split has no images, with the remedy."""
    count = len(np.unique(groups))
    if 2 * count < len(groups):
        of_one = "1 group" if count == 1 else f"{count:,} groups"
        return (
            f"no images of {listing.root} are left for {split}: its {len(groups):,} images are "
            f"{of_one} of images that belong together (by default near-duplicates, such as "
            "frames of a fixed camera), which splits never separate; give folders train/, val/ and "
            "test/ of your own, or say what belongs together with "
            "--set data.group=none|folder|prefix"
        )
    return (
        f"data folder {listing.root} is too small: no images are left for {split} of "
        f"{len(listing.files)}; add images"
    )


def check_corrupt(listing: Listing, store: Store, skip_corrupt: bool) -> None:
    """Refuse files that could not be decoded, unless they may be left out.

    Raises:
        UserError: some files are corrupt and `skip_corrupt` is off, or all files are corrupt.
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
    """Check that every split has an image and, for "classify", that train has every class.

    Raises:
        UserError: a split is empty, or classes are missing.
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
