"""Words in names that distinguish images from masks, and the keys that match both."""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainables.data.mask_words import (
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    Kind,
    bare_key,
    common_end,
)

KindAndKey = tuple[Kind, str]

_MASK_FOLDER = re.compile(
    r"(.+?)[_ -]?(?:masks?|labels?|L|gt|seg|segmentation|groundtruth|annot|annotations?)",
    re.IGNORECASE,
)
_IMAGES = ("", "_images", "_imgs", "_image", "_img", "-images", " images", "images")
"""Endings of the name of an image folder beside trainannot/, train_masks/, ..."""
FOLDERS: tuple[dict[str, Kind], ...] = (
    {
        "images": "image",
        "image": "image",
        "imgs": "image",
        "masks": "mask",
        "mask": "mask",
        "labels": "mask",
        "annotations": "mask",
    },
    {
        "img": "image",
        "jpegimages": "image",
        "label": "mask",
        "annotation": "mask",
        "annots": "mask",
        "gt": "mask",
        "groundtruth": "mask",
        "ground_truth": "mask",
        "segmentation": "mask",
        "segmentationclass": "mask",
    },
)
"""Names of image and mask folders. Those of the first version come first, so paths that contain one
of them keep their role."""
RARER_FOLDERS: dict[str, Kind] = {
    **dict.fromkeys(IMAGE_FOLDERS, "image"),
    **dict.fromkeys(MASK_FOLDERS, "mask"),
}
"""More such names, for folders in which `FOLDERS` does not find both kinds."""


@dataclass(frozen=True)
class PairedFiles:
    """Images and masks of a folder by the key that both share, such as "train/0000"."""

    images: dict[str, str] = field(default_factory=dict)
    masks: dict[str, str] = field(default_factory=dict)
    twice: tuple[tuple[str, str], ...] = ()
    """Two images, or two masks, with the same key."""
    lists: dict[str, str] | None = None
    """Key -> part ("" for none), if files of the layout name the parts."""
    masks_needed: bool = True
    """True if an image without a mask is an error; otherwise such images are left out."""
    end: str = ""
    """Ending of the names of all masks, such as "_P", if no known word marks them."""

    @property
    def pairs(self) -> int:
        """Number of images that have a mask."""
        return len(self.images.keys() & self.masks.keys())


def paired(files: Sequence[str], key_of: Callable[[str], KindAndKey | None]) -> PairedFiles:
    """Pair files by key; then pair the rest by their keys without words such as _mask.

    Args:
        key_of: file -> its kind and key; None for a file that the layout ignores.
    """
    found: dict[Kind, dict[str, str]] = {"image": {}, "mask": {}}
    twice: list[tuple[str, str]] = []
    for file in files:
        kind_and_key = key_of(file)
        if kind_and_key is None:
            continue
        kind, key = kind_and_key
        other = found[kind].setdefault(key, file)
        if other != file:
            twice.append((other, file))

    images = found["image"]
    masks = found["mask"]
    image_of = _alone_by_bare_key("image", images, masks)
    mask_of = _alone_by_bare_key("mask", masks, images)
    for bare in image_of.keys() & mask_of.keys():
        masks[image_of[bare]] = masks.pop(mask_of[bare])

    end = ""
    if not images.keys() & masks.keys():
        end = common_end(masks, images.keys())
        if end:
            masks = {key.removesuffix(end): file for key, file in masks.items()}
    return PairedFiles(images, masks, tuple(twice), end=end)


def _alone_by_bare_key(
    kind: Kind, files: dict[str, str], partners: dict[str, str]
) -> dict[str, str]:
    """Bare key -> key, for files without partner whose bare key is unique."""
    keys: dict[str, list[str]] = defaultdict(list)
    for key in files.keys() - partners.keys():
        keys[bare_key(kind, key)].append(key)
    return {bare: found[0] for bare, found in keys.items() if len(found) == 1}


def without_ending(file: str) -> str:
    """The path without the extension of its name: "a/b.png" -> "a/b"."""
    folder, slash, name = file.rpartition("/")
    return f"{folder}{slash}{Path(name).stem}"


def folders_of(files: Sequence[str]) -> set[str]:
    """All folders that contain images, directly or below."""
    folders: set[str] = set()
    for folder in {file.rpartition("/")[0] for file in files}:
        names = folder.split("/")
        for depth in range(1, len(names) + 1):
            folders.add("/".join(names[:depth]))
    return folders


def described_folder(folder: str, folders: set[str]) -> str | None:
    """The folder whose masks are in `folder`: "train/a" for "trainannot/a".

    None if no folder on the path is named after another one beside it.
    """
    names = folder.split("/")
    for position, name in enumerate(names):
        match = _MASK_FOLDER.fullmatch(name)
        if match is None:
            continue
        for end in _IMAGES:
            for ending in (end, end.title()):
                start = [*names[:position], match[1] + ending]
                if "/".join(start) in folders:
                    return "/".join([*start, *names[position + 1 :]])
    return None
