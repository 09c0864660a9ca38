"""The layout with labels in file names, and file names that contain no label: those of cameras,
phones and splits."""

import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

from trainables.data.class_layouts import of_tree
from trainables.data.layout_base import Contents, Folder, Match
from trainables.data.listing import shortened
from trainables.data.split_names import split_of
from trainables.errors import UserError

_PREFIX = re.compile(r"(.+)_\d+\.\w+")
_NEARLY_ALL = 0.9  # smallest share of names in a folder that are <label>_<n>

_DATE = re.compile(r"(?<!\d)(19|20)\d\d[-_.]?(0[1-9]|1[0-2])[-_.]?(0[1-9]|[12]\d|3[01])(?!\d)")
_WORD = re.compile(r"[^\W\d_]+")

_CAMERAS = frozenset(
    [
        "img",
        "dsc",
        "dscn",
        "dscf",
        "mg",
        "pxl",
        "cimg",
        "imag",
        "pict",
        "gopr",
        "dji",
        "mvi",
        "mov",
        "vid",
        "hpim",
        "fb",
        "received",
        "mmexport",
        "whatsapp",
        "screenshot",
        "screenshots",
        "snapchat",
    ]
)
"""First words of names that cameras, phones and messengers give."""
_AFTER_CAMERA = frozenset(
    [
        "am",
        "at",
        "burst",
        "copy",
        "from",
        "hdr",
        "image",
        "images",
        "img",
        "mp",
        "night",
        "pano",
        "photo",
        "pm",
        "portrait",
        "shot",
        "video",
        "wa",
    ]
)
_WITH_A_DATE = frozenset(
    ["p", "wp", "win", "vid", "video", "pano", "photo", "image", "scan", "screen", "recording"]
)
"""Words that indicate a camera if a date is beside them: P_20240131."""
_GENERIC = frozenset(
    [
        "image",
        "images",
        "photo",
        "photos",
        "picture",
        "pictures",
        "pic",
        "pics",
        "scan",
        "frame",
        "file",
        "capture",
        "snapshot",
        "screen",
        "pano",
        "panorama",
        "untitled",
        "unnamed",
        "download",
        "original",
        "resized",
        "cropped",
        "edited",
        "page",
        "slide",
    ]
)
"""Words that name no class. A name with one is a label only if there are other labels."""


class PrefixedNames:
    """Labels in file names, `<label>_<n>.png`: nearly all names have this form, there are at least
    two labels, and a label has at least two images on average."""

    name = "file-name prefix"
    expects = "<label>_<n>.jpg"

    def matches(self, folder: Folder) -> Match:
        names = [path[-1] for path in folder.tree.training_paths]
        prefixes = _labels_of(names)
        labels = Counter(prefix for prefix in prefixes if prefix is not None)
        named = labels.total()
        if named < _NEARLY_ALL * len(names):
            return Match(_too_few(names, named))
        if len(labels) < 2:
            return Match(f"{next(iter(labels))!r} is the only label")
        if named < 2 * len(labels):
            return Match(f"{len(labels):,} different labels in {named:,} names")
        return Match(why=f"{named:,} of {len(names):,} names are <label>_<n>")

    def read(self, folder: Folder) -> Contents:
        tree = folder.tree
        names = [path[-1] for path in tree.inner]
        labels = _labels_of(names)
        _check_labels_are_no_splits(folder, {label for label in labels if label is not None})
        return of_tree(tree, labels)


def label_of(name: str) -> str | None:
    """Label in `<label>_<n>.png`; None for other names, and for names given by cameras."""
    match = _PREFIX.fullmatch(name)
    if match is None or is_camera_name(match[1]):
        return None
    return match[1]


@lru_cache(maxsize=4096)
def is_camera_name(prefix: str) -> bool:
    """True for the start of a name that a camera, a phone or a program gave: IMG, DSC,
    PXL_20240131, "WhatsApp Image 2024-01-31 at 12.00.00", 20240131."""
    words = _WORD.findall(prefix.lower())
    if _DATE.search(prefix) and set(words) <= _CAMERAS | _AFTER_CAMERA | _WITH_A_DATE:
        return True
    return bool(words) and words[0] in _CAMERAS and set(words[1:]) <= _CAMERAS | _AFTER_CAMERA


def _labels_of(names: Iterable[str]) -> list[str | None]:
    """Labels in file names; all None if they only say `image` or `frame`."""
    labels = [label_of(name) for name in names]
    words: set[str] = set()
    for label in set(labels):
        if label is not None:
            words.update(_WORD.findall(label.lower()) or ["<number>"])
    if words <= _GENERIC:
        return [None] * len(labels)
    return labels


def _too_few(names: Iterable[str], named: int) -> str:
    every = list(names)
    matches = [_PREFIX.fullmatch(name) for name in every]
    cameras = [match[0] for match in matches if match and is_camera_name(match[1])]
    reason = f"{named:,} of {len(every):,} names are <label>_<n>"
    if cameras:
        reason += f"; names such as {cameras[0]} come from a camera"
    return reason


def _check_labels_are_no_splits(folder: Folder, labels: Iterable[str]) -> None:
    """Refuse train_0001.png beside test_0001.png."""
    looks = {label: split_of(label) for label in sorted(labels)}
    parts = {look.part for look in looks.values() if look is not None}
    if len(parts) > 1 and None not in looks.values():
        raise UserError(
            f"names in {folder.root} begin with {shortened(list(looks))}: splits, not labels; move "
            "the images into folders train/, val/ and test/"
        )
