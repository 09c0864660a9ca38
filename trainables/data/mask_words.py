"""Words that distinguish images from masks: folder names, and endings of file names."""

import re
from collections.abc import Iterable, Set
from typing import Literal

Kind = Literal["image", "mask"]

_WORDS = (
    *("mask", "masks", "label", "labels", "gt", "groundtruth"),
    *("seg", "segmentation", "annot", "annotation", "annotations"),
)
_MASK_STEM = re.compile(rf"(.+)[_-](?:(?i:{'|'.join(_WORDS)})|L)")
_MASK_ENDS = tuple(f"{separator}{word}" for separator in "_-" for word in (*_WORDS, "l"))
_IMAGE_STEM = re.compile(r"(.+)[_-](?i:sat|image|img|im|rgb|leftimg8bit)")
_SEPARATORS = "_- ."  # before the ending that all masks share

NO_CLASSES = frozenset(["images", "imgs", "jpegimages", "leftimg8bit"])
"""Folders that contain images and never name a class."""
USUAL_IMAGE_FOLDERS = NO_CLASSES | {"image", "img"}
"""Folders that contain images, and are no class if only mask folders are beside them."""
IMAGE_FOLDERS = USUAL_IMAGE_FOLDERS | frozenset(
    [
        "jpg",
        "jpeg",
        "photo",
        "photos",
        "picture",
        "pictures",
        "frame",
        "frames",
        "input",
        "inputs",
        "original",
        "originals",
        "rgb",
        "sat",
        "x",
    ]
)
"""Folders that may contain the images of masks beside them."""
MASK_FOLDERS = frozenset(
    [
        "mask",
        "masks",
        "label",
        "labels",
        "labelled",
        "label_images",
        "pixel_labels",
        "annotation",
        "annotations",
        "annot",
        "annots",
        "anno",
        "gt",
        "gtfine",
        "gt_fine",
        "groundtruth",
        "ground_truth",
        "segmentation",
        "segmentations",
        "segmentationclass",
        "segmentationobject",
        "seg",
        "y",
    ]
)
"""Folders that may contain the masks of images beside them."""
FOLDER_ENDS = ("_mask", "_masks", "_label", "_labels", "_gt", "_seg", "_segmentation", "annot")
"""Endings of mask folder names, in lower case: train_masks, trainannot."""


def may_be_mask(file: str) -> bool:
    """Quick test if a file name may end with a word for masks."""
    return file.rpartition(".")[0].lower().endswith(_MASK_ENDS)


def bare_key(kind: Kind, key: str) -> str:
    """The key without the word for its kind: "train/a_mask" -> "train/a"."""
    folder, slash, stem = key.rpartition("/")
    pattern = _MASK_STEM if kind == "mask" else _IMAGE_STEM
    match = pattern.fullmatch(stem)
    return f"{folder}{slash}{match[1]}" if match else key


def common_end(masks: Iterable[str], images: Set[str]) -> str:
    """The ending that the keys of all masks have and those of their images lack, such as "_P";
    empty if there is none."""
    keys = sorted(masks)
    if not keys:
        return ""
    ends = [keys[0][len(key) :] for key in images if keys[0].startswith(key)]
    for end in sorted(ends, key=len):
        begins = end[:1] and end[0] in _SEPARATORS
        if begins and all(key.endswith(end) and key.removesuffix(end) in images for key in keys):
            return end
    return ""
