"""Finds masks among the images of a folder. It is then a segmentation set, and other tasks use only
its images."""

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from trainables.data.mask_words import (
    FOLDER_ENDS,
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    NO_CLASSES,
    USUAL_IMAGE_FOLDERS,
    bare_key,
    common_end,
    may_be_mask,
)
from trainables.data.pair_layouts import NamesOfMasks

_ENOUGH = 0.5  # smallest share of masks with an image; in one folder, of images with a mask
_ENDS_OF_IMAGES = ("", "_images", "_imgs", "_image")
"""Endings of the name of the image folder beside train_masks/."""

_CALLED_MASKS = re.compile(
    r".*(?:masks?|labels?|annotations?|ground_?truth|segmentations?)", re.IGNORECASE
)
"""Folders such as ISIC2018_Task1_Training_GroundTruth, beside an image folder of any name."""

Stems = Mapping[str, Set[str]]
"""Folder -> names of its images without extension."""


@dataclass(frozen=True)
class MaskedImages:
    """Images and masks of a folder, distinguished by their names."""

    images: tuple[str, ...]
    masks: tuple[str, ...]
    where: str
    """Location of the masks, in a few words: "masks/ beside images/"."""

    def __str__(self) -> str:
        return f"{len(self.masks):,} masks ({self.where}) are left out: only images are taken"


def find_masks(files: Sequence[str]) -> MaskedImages | None:
    """Separate masks from images; None if the folder has no masks."""
    return _by_folder(files) or _beside_images(files)


def _beside_images(files: Sequence[str]) -> MaskedImages | None:
    """a.jpg with a_mask.png, in one folder."""
    if not any(map(may_be_mask, files)):
        return None
    found = NamesOfMasks().read(Path(), files)
    masks = set(found.masks.values())
    if not found.pairs or found.pairs < _ENOUGH * len(found.images):
        return None
    return _told_apart(files, masks, f"names such as {min(masks).rpartition('/')[2]}")


def _by_folder(files: Sequence[str]) -> MaskedImages | None:
    """images/a.jpg with masks/a.png, or train/a.jpg with train_masks/a_mask.png."""
    inside: dict[str, set[str]] = {}
    for file in files:
        folder, _, stem = file.rpartition(".")[0].rpartition("/")
        inside.setdefault(folder, set()).add(stem)

    beside = _children(inside)
    partners: dict[str, str] = {}
    for path in filter(None, inside):
        partner = _folder_of_images(path, inside, beside)
        if partner:
            partners[path] = partner
    if not partners:
        return None

    masks = {file for file in files if file.rpartition("/")[0] in partners}
    folder = min(partners)
    return _told_apart(files, masks, f"{folder}/ beside {partners[folder]}/")


def _children(inside: Stems) -> dict[str, set[str]]:
    """Folder -> folders inside it that contain images at any depth."""
    found: dict[str, set[str]] = {}
    for path in filter(None, inside):  # images at the root are in no folder
        pieces = path.split("/")
        for position, piece in enumerate(pieces):
            found.setdefault("/".join(pieces[:position]), set()).add(piece)
    return found


def _folder_of_images(path: str, inside: Stems, beside: Mapping[str, set[str]]) -> str:
    """The folder with the images of the masks in `path`; empty if `path` contains no masks."""
    pieces = path.split("/")
    for position, piece in enumerate(pieces):
        names = beside["/".join(pieces[:position])]
        if _is_usual_pair(piece, names):
            usual = sorted(name for name in names if name.lower() in USUAL_IMAGE_FOLDERS)
            return "/".join([*pieces[:position], usual[0]])
        for name in _partner_names(piece, names):
            partner = "/".join([*pieces[:position], name, *pieces[position + 1 :]])
            if partner in inside and _belong_together(inside[path], inside[partner]):
                return partner
        if not _CALLED_MASKS.fullmatch(piece):
            continue
        for name in sorted(names - {piece}):
            partner = "/".join([*pieces[:position], name, *pieces[position + 1 :]])
            if partner in inside and _are_called_masks(inside[path], inside[partner]):
                return partner
    return ""


def _is_usual_pair(piece: str, names: Set[str]) -> bool:
    """True for masks/ beside images/ with nothing but more of both. Whatever their files are
    called, they are not two classes."""
    if piece.lower() not in MASK_FOLDERS - {"y"}:
        return False
    lower = {name.lower() for name in names}
    return bool(lower & USUAL_IMAGE_FOLDERS) and lower <= USUAL_IMAGE_FOLDERS | MASK_FOLDERS


def _partner_names(piece: str, names: Set[str]) -> list[str]:
    """Folders beside a possible mask folder that may contain its images."""
    lower = piece.lower()
    found: list[str] = []
    if lower in MASK_FOLDERS:
        # beside other folders, "image" and "label" may be classes
        alone = {name.lower() for name in names} <= IMAGE_FOLDERS | MASK_FOLDERS
        images = IMAGE_FOLDERS if alone else NO_CLASSES
        found += sorted(name for name in names if name.lower() in images)
    for end in FOLDER_ENDS:
        if lower.endswith(end) and len(lower) > len(end):
            start = piece[: -len(end)]
            found += [start + ending for ending in _ENDS_OF_IMAGES]
    return [name for name in found if name in names]


def _belong_together(masks: Set[str], images: Set[str]) -> bool:
    """True if the names match as images and masks do: 1, 1_mask or 1_L for 1 or 1_sat."""
    if common_end(masks, images):
        return True
    bare = {bare_key("image", stem) for stem in images} | images
    matched = sum(stem in images or bare_key("mask", stem) in bare for stem in masks)
    return matched >= _ENOUGH * len(masks)


def _are_called_masks(masks: Set[str], images: Set[str]) -> bool:
    """True if the names of the masks say that they are masks: 1_segmentation for 1."""
    bare = [bare_key("mask", stem) for stem in masks if stem not in images]
    matched = sum(key in images for key in bare)
    return matched >= _ENOUGH * len(masks)


def _told_apart(files: Sequence[str], masks: Set[str], where: str) -> MaskedImages:
    images = tuple(file for file in files if file not in masks)
    return MaskedImages(images, tuple(sorted(masks)), where)
