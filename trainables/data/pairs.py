"""Folders of images with masks, for segmentation: recognised, checked and loaded as a `DataSet`.
`pair_layouts.py` defines the layouts."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from trainables.data.carving import SplitRules
from trainables.data.class_list import FILES, Color
from trainables.data.decoding import MEGAPIXELS
from trainables.data.folder_splits import split_rows
from trainables.data.folders import (
    check_corrupt,
    check_size,
    folder_carver,
    source_clusters,
    usable_rows,
)
from trainables.data.grouping import grouped
from trainables.data.images import open_picture, read_rgb
from trainables.data.layout_base import AUTO
from trainables.data.listing import Entry, Listing, fingerprint_of, shortened
from trainables.data.mask_code import MaskCode
from trainables.data.mask_pixels import mask_pixels
from trainables.data.masks import mask_values, read_mask
from trainables.data.pair_layouts import VOC_LISTS
from trainables.data.pair_reading import (
    folder_uses,
    left_out,
    mask_code,
    recognize,
    use_files,
)
from trainables.data.scan import scan_folder
from trainables.data.source import Source
from trainables.data.splits import IGNORE, DataSet, Split
from trainables.data.store import Store, digest, open_store, path_beside
from trainables.data.store_building import VERSION
from trainables.data.summarize import folder_summary
from trainables.data.whole import WholeImages, open_whole, resized_whole
from trainables.errors import UserError

_SHOWN = 8  # most classes that a warning names


@dataclass(frozen=True, eq=False)
class Pairs:
    """A recognised folder of pairs. Rows as in `listing`, which has no classes, because images have
    no labels."""

    listing: Listing
    masks: tuple[str, ...]  # N paths, relative to the root
    code: MaskCode

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the pixel classes."""
        return self.code.names

    @property
    def colors(self) -> tuple[Color, ...]:
        """Colours of the classes in pictures."""
        return self.code.colors


def read_pairs(
    root: Path, ignore: int = IGNORE, cache_dir: Path | None = None, layout: str = AUTO
) -> Pairs:
    """Recognise the layout of `root`. Nothing is decoded, except masks of two classes, whose values
    are read once.

    Args:
        ignore: mask value that is not a class (`data.ignore`).
        layout: name of the only layout to try; "auto" tries all.
    Raises:
        UserError: the folder does not exist, there are no masks, an image or mask has no partner,
            or there is no usable class file.
    """
    root = root.expanduser()
    if not root.is_dir():
        raise UserError(
            f"data folder {root} is not an existing folder; "
            "give one with images and masks, or --data earth"
        )
    scan = scan_folder(root, _is_read)
    found = recognize(root, scan.images, layout, scan.left_out)
    used = use_files(root, scan.images, found.files)

    masks = [Entry(mask, "mask") for mask in used.masks]
    content = fingerprint_of(root, [*used.entries, *masks])
    paths = [root / mask for mask in used.masks]
    remembered = path_beside(root.resolve().name, content, cache_dir, "mask-values-v1.json")
    code = mask_code(root, found.layout, paths, ignore, remembered)

    listing = Listing(
        root=root,
        layout=found.layout.name,
        files=tuple(entry.path for entry in used.entries),
        parts=np.array([entry.part for entry in used.entries]),
        labels=np.full(len(used.entries), -1, np.int64),
        classes=(),
        fingerprint=digest("pairs 1", found.layout.name, content, *code.names, *code.identity),
        notes=code.notes,
        why=found.why,
        folders=folder_uses(used),
        left_out=left_out(used, scan),
        hidden=used.hidden,
    )
    return Pairs(listing, used.masks, code)


def _is_read(path: str) -> bool:
    """True if a file names classes or parts."""
    return path in FILES or path.endswith(VOC_LISTS)


def load_pairs(
    pairs: Pairs,
    size: int,  # S, pixels
    rules: SplitRules,
    skip_corrupt: bool,
    cache_dir: Path | None = None,
    progress: bool = False,
    megapixels: int = MEGAPIXELS,
    *,
    whole: bool = False,
) -> DataSet:
    """Split a folder of pairs as `load_folder` does: without a test part, the val part becomes the
    test split, and val is carved from train.

    Args:
        megapixels: largest image, in millions of pixels.
        whole: also keep val and test images whole, uncropped.
    Raises:
        UserError: without skip_corrupt, pairs are damaged, differ in size, or have unknown values;
            or there are too few for three splits.
    """
    listing = pairs.listing
    name = listing.root.resolve().name
    store = open_store(
        name,
        listing.fingerprint,
        size,
        lambda: _source(pairs, megapixels),
        cache_dir,
        progress,
        rules.contents,
    )
    check_corrupt(listing, store, skip_corrupt)
    store = replace(store, contents=grouped(store.contents, listing.files, rules.group))
    usable = usable_rows(store)
    carver = folder_carver(listing, store, rules)
    rows = split_rows(listing, store.labels, usable, carver, "segment")
    check_size(listing, rows, "segment", store.contents.groups[usable])
    pixels = mask_pixels(store, len(pairs.classes))
    listing = _with_lost_classes(pairs, pixels, rows.train, store.rectangles)

    judged = np.union1d(rows.val, rows.test)
    images = None
    if whole and store.rectangles:
        images = _open_whole(pairs, store, judged, megapixels)

    def split(chosen: np.ndarray) -> Split:
        return Split(store.images, None, chosen, store.masks)

    def judged_split(chosen: np.ndarray) -> Split:
        return replace(split(chosen), whole=images)

    return DataSet(
        name=name,
        fingerprint=listing.fingerprint,
        classes=pairs.classes,
        train=split(rows.train),
        gallery=None,
        val=judged_split(rows.val),
        test=judged_split(rows.test),
        skipped=store.skipped,
        summary=folder_summary(listing, store, rows.origins, rows.duplicates),
        colors=pairs.colors,
        contents=store.contents,
        files=listing.files,
        clusters=source_clusters(listing, carver.groups),
        levels=None if store.deep is None else store.deep.levels,
    )


def _open_whole(
    pairs: Pairs,
    store: Store,
    rows: np.ndarray,  # (n,) int64
    megapixels: int,
) -> WholeImages:
    """Whole images of some rows, stored beside the store."""
    listing = pairs.listing
    size = store.images.shape[-1]
    levels = None if store.deep is None else store.deep.levels

    def read(row: int) -> tuple[np.ndarray, np.ndarray]:
        image = listing.root / listing.files[row]
        values = mask_values(listing.root / pairs.masks[row], image, pairs.code)
        return resized_whole(read_rgb(image, megapixels, levels), values, size)

    chosen = digest(np.ascontiguousarray(rows, np.int64).tobytes())[:16]
    folder = store.path.name.removesuffix(f"-v{VERSION}")
    path = store.path.with_name(f"{folder}-whole-{chosen}-v1")
    return open_whole(path, rows, read)


def _source(pairs: Pairs, megapixels: int) -> Source:
    listing = pairs.listing
    images = [listing.root / file for file in listing.files]
    masks = [listing.root / file for file in pairs.masks]
    return Source(
        count=len(images),
        open=lambda row: open_picture(images[row], megapixels),
        open_scaled=lambda row, levels: open_picture(images[row], megapixels, levels),
        describe=lambda row: listing.files[row],
        labels=listing.labels,
        read_mask=lambda row, size: read_mask(masks[row], images[row], size, pairs.code),
    )


def _with_lost_classes(
    pairs: Pairs,
    pixels: np.ndarray,  # (N, C)
    train: np.ndarray,  # (n,) rows
    rectangles: bool,
) -> Listing:
    """The listing with warnings about classes that occur in no mask, or in no training mask.

    Args:
        rectangles: True if some masks extend beyond the squares whose pixels were counted.
    """
    nowhere = pixels.sum(0) == 0
    untrained = (pixels[train].sum(0) == 0) & ~nowhere
    warnings: list[str] = []
    if nowhere.any():
        named = _named(pairs.classes, nowhere)
        where, so = "", "no metric tells anything about it"
        if rectangles:
            where, so = (
                " in its centred square",
                "training, which sees no more, learns nothing of it",
            )
        warnings.append(f"no mask shows {named}{where}: {so}")
    if untrained.any():
        named = _named(pairs.classes, untrained)
        warnings.append(f"no training mask shows {named}: nothing can be learned about it")
    return replace(pairs.listing, warnings=(*pairs.listing.warnings, *warnings))


def _named(
    classes: tuple[str, ...],
    chosen: np.ndarray,  # (C,) bool
) -> str:
    """Names of the chosen classes; only the first few if there are many."""
    names = [classes[number] for number in np.flatnonzero(chosen)]
    return shortened(names, _SHOWN)
