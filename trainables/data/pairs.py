"""Folders of images with masks, for segmentation. Two layouts, each with or without train/,
validation/ (val/) and test/:

satellite        0000_sat.jpg beside 0000_mask.png; seven colours, see `satellite_classes` images
and masks images/a.jpg and masks/a.png, of the same name; a mask is a palette or gray PNG whose
values are the lines of
                 classes.txt, counted from 0; 255 is unknown. train/images/ and images/train/ are equally good
"""

import colorsys
import io
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from trainables.data.folders import check_corrupt, check_size, split_rows
from trainables.data.images import CorruptImage, decode
from trainables.data.layouts import Entry, Listing, find_images, fingerprint_of, part_of
from trainables.data.splits import IGNORE, DataSet, Split, near_duplicates
from trainables.data.store import Source, digest, open_store
from trainables.errors import UserError

SATELLITE = {
    "urban": (0, 255, 255),
    "agriculture": (255, 255, 0),
    "rangeland": (255, 0, 255),
    "forest": (0, 255, 0),
    "water": (0, 0, 255),
    "barren": (255, 255, 255),
}
"""Classes 0 to 5 and their colours; black is unknown, pure red no class at all."""
_ILLEGAL = 254
_OF_CODE = np.array([IGNORE, 4, 3, 0, _ILLEGAL, 2, 1, 5], np.uint8)  # of 4 R + 2 G + B
_SUFFIX = re.compile(r"(.+)_(sat|mask)\.\w+")
_IMAGES, _MASKS = ("images", "image", "imgs"), ("masks", "mask", "labels", "annotations")
_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_LOOKED_FOR = "<id>_sat.jpg with <id>_mask.png, or images/ with masks/ and classes.txt; both also in train/ and val/"


@dataclass(frozen=True, eq=False)
class Pairs:
    """A recognised folder of pairs; rows as in `listing`, whose classes are empty: an image has no
    label."""

    listing: Listing
    masks: tuple[str, ...]  # N paths, relative to the root
    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]  # of the classes


def read_pairs(root: Path) -> Pairs:
    """Recognises the layout of `root`; nothing is decoded.

    Raises:
        UserError: no such folder, no masks, an image or mask without partner (all are named), no
            usable classes.txt.
    """
    root = root.expanduser()
    if not root.is_dir():
        raise UserError(
            f"data folder {root} is not an existing folder; give one with images and masks, or --data earth"
        )
    files = find_images(root)
    satellite = any(_SUFFIX.fullmatch(file.split("/")[-1]) for file in files)
    found: dict[str, dict[str, str]] = {"image": {}, "mask": {}}
    for file in files:
        kind, key = _satellite_key(file) if satellite else _folder_key(file)
        if kind and found[kind].setdefault(key, file) != file:
            raise UserError(
                f"{root} has {found[kind][key]} and {file} for one pair; keep one of them"
            )
    images, masks = found["image"], found["mask"]
    if not images or not masks:
        raise UserError(
            f"data folder {root} has no pairs of image and mask, segmentation needs them; looked for: {_LOOKED_FOR}"
        )
    alone = sorted(
        [images[key] for key in images.keys() - masks.keys()]
        + [masks[key] for key in masks.keys() - images.keys()]
    )
    if alone:
        raise UserError(
            f"{len(alone):,} files in {root} have no partner: {', '.join(alone)}; add their masks or images, or remove them"
        )
    classes, colors = (
        (tuple(SATELLITE), tuple(SATELLITE.values())) if satellite else _read_classes(root)
    )
    keys = sorted(images, key=lambda key: images[key])
    entries = [Entry(images[key], _part_of_path(images[key])) for key in keys]
    parts = np.array([entry.part for entry in entries])
    if "" in parts and set(parts.tolist()) != {""}:
        outside = next(entry.path for entry in entries if not entry.part)
        raise UserError(
            f"{root} has pairs inside and outside of train, val and test (such as {outside}); move them into one of these"
        )
    if "" not in parts and "train" not in parts:
        raise UserError(
            f"data folder {root} has no train folder; add train/, or give the folder of pairs itself"
        )
    layout = "satellite pairs" if satellite else "images and masks"
    content = fingerprint_of(root, [*entries, *(Entry(masks[key], "mask") for key in keys)])
    key = digest("pairs 1", layout, content, *classes)
    listing = Listing(
        root,
        layout,
        tuple(e.path for e in entries),
        parts,
        np.full(len(keys), -1, np.int64),
        (),
        key,
    )
    return Pairs(listing, tuple(masks[key] for key in keys), classes, colors)


def load_pairs(
    pairs: Pairs,
    size: int,  # S, pixels
    seed: int,
    skip_corrupt: bool,
    cache_dir: Path | None = None,
    progress: bool = False,
) -> DataSet:
    """Splits as of any folder (`load_folder`): without a test part the val part is the test, and
    val is carved from train.

    Raises:
        UserError: without skip_corrupt, pairs that are damaged, of different sizes or with unknown
            values; too few for three splits.
    """
    listing, name = pairs.listing, pairs.listing.root.resolve().name
    store = open_store(name, listing.fingerprint, size, lambda: _source(pairs), cache_dir, progress)
    check_corrupt(listing, store, skip_corrupt)
    usable = np.ones(len(store.labels), bool)
    usable[store.skipped_rows] = False
    rows = split_rows(listing, store, usable, seed, "segment")
    check_size(listing, rows, "segment")
    train, val, test = (
        Split(store.images, None, chosen, store.masks)
        for chosen in (rows.train, rows.val, rows.test)
    )
    notes = (f"layout: {listing.layout}", *rows.notes)
    return DataSet(
        name,
        listing.fingerprint,
        pairs.classes,
        train,
        None,
        val,
        test,
        store.skipped,
        notes,
        pairs.colors,
    )


def read_mask(
    path: Path,
    image: Path,
    size: int,  # S, pixels
    classes: int,  # C
    *,
    satellite: bool,
) -> np.ndarray:  # (S, S) uint8: [0, C), or IGNORE
    """The mask's largest centred square, resized by the nearest pixel: what `images.square` does to
    its image.

    Raises:
        CorruptImage: damaged, not of the image's size, or values that are no class; the message
            names the mask.
    """
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as file:
            file.load()
            values = _satellite_values(file) if satellite else _index_values(file, classes)
    except CorruptImage as error:
        raise CorruptImage(f"mask {path.name} {error}") from None
    except Exception as error:  # as in `images.decode`: Pillow's decoders raise many kinds
        raise CorruptImage(
            f"mask {path.name} is damaged: {' '.join(str(error).split())[:120] or type(error).__name__}"
        ) from None
    height, width = values.shape
    if (expected := _upright_size(image)) not in (None, (width, height)):
        assert expected is not None
        raise CorruptImage(
            f"mask {path.name} is {width}x{height} pixels, its image {expected[0]}x{expected[1]}"
        )
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(
        Image.fromarray(values).resize((size, size), Image.Resampling.NEAREST, box=box)
    )


def _satellite_values(image: Image.Image) -> np.ndarray:
    bits = np.asarray(image.convert("RGB")) >= 128
    values = _OF_CODE[bits @ np.array([4, 2, 1])]
    if illegal := int((values == _ILLEGAL).sum()):
        raise CorruptImage(f"has {illegal:,} red pixels (code 4), which are no class")
    return values


def _index_values(image: Image.Image, classes: int) -> np.ndarray:
    if image.mode not in ("P", "L", "1"):
        raise CorruptImage(
            f"has mode {image.mode}; save it as a palette or 8-bit gray image of class numbers"
        )
    values = np.asarray(image).astype(np.uint8)
    unknown = [
        value for value in np.unique(values).tolist() if value >= classes and value != IGNORE
    ]
    if unknown:
        raise CorruptImage(
            f"has the values {', '.join(map(str, unknown))}, but classes.txt has {classes} lines"
        )
    return values


def _upright_size(path: Path) -> tuple[int, int] | None:
    """Width and height as `decode` sees them; None of what it will refuse."""
    try:
        with Image.open(path) as image:
            return image.size[::-1] if image.getexif().get(0x0112) in _TURNED else image.size
    except Exception:
        return None


def _source(pairs: Pairs) -> Source:
    listing, satellite = pairs.listing, pairs.listing.layout == "satellite pairs"
    images, masks = (
        [listing.root / file for file in files] for files in (listing.files, pairs.masks)
    )
    return Source(
        count=len(images),
        read=lambda row, size: decode(images[row], size),
        describe=lambda row: listing.files[row],
        labels=listing.labels,
        group=near_duplicates,
        read_mask=lambda row, size: read_mask(
            masks[row], images[row], size, len(pairs.classes), satellite=satellite
        ),
    )


def _satellite_key(file: str) -> tuple[str, str]:
    folder, _, name = file.rpartition("/")
    match = _SUFFIX.fullmatch(name)
    return (
        ({"sat": "image", "mask": "mask"}[match[2]], f"{folder}/{match[1]}") if match else ("", "")
    )


def _folder_key(file: str) -> tuple[str, str]:
    """The path without its folder images/ or masks/ and without extension."""
    *folders, name = file.split("/")
    for position, folder in enumerate(folders):
        kind = "image" if folder.lower() in _IMAGES else "mask" if folder.lower() in _MASKS else ""
        if kind:
            return kind, "/".join([*folders[:position], *folders[position + 1 :], Path(name).stem])
    return "", ""


def _part_of_path(path: str) -> str:
    return next((part for folder in path.split("/")[:-1] if (part := part_of(folder))), "")


def _read_classes(root: Path) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    path = root / "classes.txt"
    try:
        names = [
            line.strip()
            for line in path.read_text(encoding="utf-8-sig").splitlines()
            if line.strip()
        ]
    except (OSError, UnicodeError):
        raise UserError(
            f"{path} cannot be read; write one class name a line, in the order of the values in the masks"
        ) from None
    twice = [name for name, count in Counter(names).items() if count > 1]
    if not 2 <= len(names) <= IGNORE - 1 or twice:
        counted = f"{len(names)}, {', '.join(twice)} twice" if twice else str(len(names))
        raise UserError(
            f"{path} must name 2 to {IGNORE - 1} different classes, one a line, but names {counted}"
        )
    hues = [
        colorsys.hsv_to_rgb(number / len(names), 0.75, 0.9 - 0.3 * (number % 2))
        for number in range(len(names))
    ]
    return tuple(names), tuple((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in hues)
