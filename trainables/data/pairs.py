"""Folders of images with masks, for segmentation: recognised, checked and loaded as a `DataSet`.
The layouts are those of `pair_layouts.py`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.data.carving import SplitRules
from trainables.data.folders import (
    check_corrupt,
    check_size,
    folder_carver,
    source_clusters,
    split_rows,
    usable_rows,
)
from trainables.data.images import open_picture
from trainables.data.layout_base import tried
from trainables.data.listing import Entry, Listing, find_images, fingerprint_of, part_of
from trainables.data.masks import ReadValues, read_mask
from trainables.data.pair_layouts import PAIR_LAYOUTS, Color, PairedFiles, PairLayout
from trainables.data.source import Source
from trainables.data.splits import DataSet, Split
from trainables.data.store import digest, open_store
from trainables.data.summarize import folder_summary
from trainables.errors import UserError


@dataclass(frozen=True, eq=False)
class Pairs:
    """A recognised folder of pairs; rows as in `listing`, which has no classes: an image has no
    label."""

    listing: Listing
    masks: tuple[str, ...]  # N paths, relative to the root
    classes: tuple[str, ...]
    colors: tuple[Color, ...]  # of the classes
    read_values: ReadValues


def read_pairs(root: Path) -> Pairs:
    """Recognises the layout of `root`; nothing is decoded.

    Raises:
        UserError: no such folder, no masks, an image or mask without partner (all are named), no
            usable classes.txt.
    """
    root = root.expanduser()
    if not root.is_dir():
        raise UserError(
            f"data folder {root} is not an existing folder; "
            "give one with images and masks, or --data earth"
        )
    layout, found = _recognize(root)
    _check_partners(root, found)
    classes = layout.classes(root)

    keys = sorted(found.images, key=lambda key: found.images[key])
    masks = tuple(found.masks[key] for key in keys)
    images = [found.images[key] for key in keys]
    entries = [Entry(image, _part_of_path(image)) for image in images]
    _check_parts(root, entries)

    content = fingerprint_of(root, [*entries, *(Entry(mask, "mask") for mask in masks)])
    listing = Listing(
        root=root,
        layout=layout.name,
        files=tuple(entry.path for entry in entries),
        parts=np.array([entry.part for entry in entries]),
        labels=np.full(len(entries), -1, np.int64),
        classes=(),
        fingerprint=digest("pairs 1", layout.name, content, *classes),
    )
    return Pairs(
        listing, masks, tuple(classes), tuple(classes.values()), layout.values(len(classes))
    )


def load_pairs(
    pairs: Pairs,
    size: int,  # S, pixels
    rules: SplitRules,
    skip_corrupt: bool,
    cache_dir: Path | None = None,
    progress: bool = False,
) -> DataSet:
    """Splits a folder of pairs as `load_folder` does: without a test part the val part is the test
    split, and val is carved from train.

    Raises:
        UserError: without skip_corrupt, pairs that are damaged, of different sizes or with unknown
            values; too few for three splits.
    """
    listing = pairs.listing
    name = listing.root.resolve().name
    store = open_store(name, listing.fingerprint, size, lambda: _source(pairs), cache_dir, progress)
    check_corrupt(listing, store, skip_corrupt)
    carver = folder_carver(listing, store, rules)
    rows = split_rows(listing, store.labels, usable_rows(store), carver, "segment")
    check_size(listing, rows, "segment")

    def split(chosen: np.ndarray) -> Split:
        return Split(store.images, None, chosen, store.masks)

    return DataSet(
        name=name,
        fingerprint=listing.fingerprint,
        classes=pairs.classes,
        train=split(rows.train),
        gallery=None,
        val=split(rows.val),
        test=split(rows.test),
        skipped=store.skipped,
        summary=folder_summary(listing, store, rows.origins, rows.duplicates),
        colors=pairs.colors,
        contents=store.contents,
        files=listing.files,
        clusters=source_clusters(listing, carver.groups),
    )


def _source(pairs: Pairs) -> Source:
    listing = pairs.listing
    images = [listing.root / file for file in listing.files]
    masks = [listing.root / file for file in pairs.masks]
    return Source(
        count=len(images),
        open=lambda row: open_picture(images[row]),
        describe=lambda row: listing.files[row],
        labels=listing.labels,
        read_mask=lambda row, size: read_mask(masks[row], images[row], size, pairs.read_values),
    )


def _recognize(root: Path) -> tuple[PairLayout, PairedFiles]:
    files = find_images(root)
    why_not: dict[str, str] = {}
    for layout in PAIR_LAYOUTS:
        match = layout.matches(files)
        if not match:
            why_not[layout.name] = match.why_not
            continue
        found = layout.read(root, files)
        if found.images and found.masks:
            return layout, found
        images = len(found.images)
        masks = len(found.masks)
        why_not[layout.name] = f"{images:,} images and {masks:,} masks"
        break
    raise UserError(
        f"data folder {root} has no pairs of image and mask, segmentation needs them; "
        f"{tried(why_not)}"
    )


def _check_partners(root: Path, found: PairedFiles) -> None:
    without_mask = found.images.keys() - found.masks.keys()
    without_image = found.masks.keys() - found.images.keys()
    images_alone = [found.images[key] for key in without_mask]
    masks_alone = [found.masks[key] for key in without_image]
    alone = sorted(images_alone + masks_alone)
    if alone:
        raise UserError(
            f"{len(alone):,} files in {root} have no partner: {', '.join(alone)}; "
            "add their masks or images, or remove them"
        )


def _check_parts(root: Path, entries: Sequence[Entry]) -> None:
    parts = {entry.part for entry in entries}
    if "" in parts and len(parts) > 1:
        outside = next(entry.path for entry in entries if not entry.part)
        raise UserError(
            f"{root} has pairs inside and outside of train, val and test (such as {outside}); "
            "move them into one of these"
        )
    if "" not in parts and "train" not in parts:
        raise UserError(
            f"data folder {root} has no train folder; "
            "add train/, or give the folder of pairs itself"
        )


def _part_of_path(path: str) -> str:
    for folder in path.split("/")[:-1]:
        part = part_of(folder)
        if part is not None:
            return part
    return ""
