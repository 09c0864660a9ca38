"""Masks among the images of a folder: a set for segmentation, of which other tasks take the images
alone."""

from collections.abc import Sequence
from dataclasses import dataclass

_IMAGE_FOLDERS = {
    *[
        "image",
        "images",
        "img",
        "imgs",
        "jpegimages",
        "jpg",
        "jpeg",
        "photo",
        "photos",
        "picture",
        "pictures",
        "frame",
        "frames",
    ],
    *["input", "inputs", "original", "originals", "rgb", "sat", "x", "leftimg8bit"],
}
_MASK_FOLDERS = {
    *[
        "mask",
        "masks",
        "label",
        "labels",
        "labelled",
        "annotation",
        "annotations",
        "annot",
        "annots",
        "anno",
    ],
    *[
        "gt",
        "groundtruth",
        "ground_truth",
        "segmentation",
        "segmentations",
        "segmentationclass",
        "seg",
        "y",
    ],
    *["gtfine", "gt_fine", "pixel_labels", "label_images"],
}
_MASK_ENDS = ("_mask", "_masks", "_label", "_labels", "_gt", "_seg", "_segmentation", "annot")
_IMAGE_ENDS = ("_sat", "_image", "_img", "_rgb", "_leftimg8bit", "")
_ENOUGH = 0.5  # of the images must have a mask


@dataclass(frozen=True)
class MaskedImages:
    """Images and masks of a folder, told apart by their names."""

    images: tuple[str, ...]
    masks: tuple[str, ...]
    where: str
    """The masks in a few words: "masks/ beside images/"."""

    def __str__(self) -> str:
        return f"{len(self.masks):,} masks ({self.where}) are left out: only images are taken"


def find_masks(files: Sequence[str]) -> MaskedImages | None:
    """Tells masks from images; None where a folder has no masks."""
    return _by_folder(files) or _by_ending(files)


def _by_folder(files: Sequence[str]) -> MaskedImages | None:
    """images/a.jpg with masks/a.png, or train/a.jpg with train_masks/a_mask.png."""
    images: dict[str, dict[str, str]] = {}  # folder of images -> {stem: file}
    masks: list[tuple[str, str]] = []  # (folder of its images, file)
    partners: dict[str, str] = {}
    folders = {_folders(file) for file in files}
    for path in folders:
        partner = _partner(path, folders)
        if partner:
            partners[path] = partner

    if not partners:
        return None
    for file in files:
        path = _folders(file)
        if path in partners:
            masks.append((partners[path], file))
        else:
            images.setdefault(path, {})[_stem(file)] = file

    matched = 0
    needed = set(partners.values())
    for path, file in masks:
        stems = images.get(path, {})
        matched += any(stem in stems for stem in _stems_of_image(_stem(file)))
    total = sum(len(images.get(path, {})) for path in needed)
    if not matched or matched < _ENOUGH * max(total, len(masks)):
        return None
    folder = min(partners)
    where = f"{folder}/ beside {partners[folder] or '.'}/"
    return _told_apart(files, {file for _, file in masks}, where)


def _partner(path: str, folders: set[str]) -> str:
    """The folder whose images the masks in `path` belong to; empty where it holds no masks."""
    pieces = path.split("/")
    for position, piece in enumerate(pieces):
        for name in _partner_names(piece, folders, pieces, position):
            partner = "/".join([*pieces[:position], name, *pieces[position + 1 :]])
            if partner in folders:
                return partner
    return ""


def _partner_names(
    piece: str, folders: set[str], pieces: Sequence[str], position: int
) -> list[str]:
    lower = piece.lower()
    names: list[str] = []
    if lower in _MASK_FOLDERS:
        before = pieces[:position]
        for folder in sorted(folders):
            other = folder.split("/")
            same_start = other[:position] == list(before)
            if same_start and len(other) > position and other[position].lower() in _IMAGE_FOLDERS:
                names.append(other[position])
    for end in _MASK_ENDS:
        if lower.endswith(end) and len(lower) > len(end):
            start = piece[: -len(end)]
            names += [start, f"{start}_images", f"{start}_imgs", f"{start}_image"]
    return names


def _by_ending(files: Sequence[str]) -> MaskedImages | None:
    """a.jpg with a_mask.png, in one folder."""
    if not any(_stem(file).lower().endswith(_MASK_ENDS) for file in files):
        return None
    stems = {f"{_folders(file)}/{_stem(file)}": file for file in files}
    masks: set[str] = set()
    pictured: set[str] = set()
    for path, file in stems.items():
        folder = path[: -len(_stem(file))]
        for stem in _stems_of_image(_stem(file), itself=False):
            if folder + stem in stems:
                masks.add(file)
                pictured.add(folder + stem)
                break
    if not masks or len(pictured) < _ENOUGH * (len(files) - len(masks)):
        return None
    return _told_apart(files, masks, f"names such as {min(masks).rpartition('/')[2]}")


def _stems_of_image(stem: str, itself: bool = True) -> list[str]:
    """Stems that the image of a mask may have: 1_sat, 1_image or 1 for 1_mask."""
    found = [stem] if itself else []
    for end in _MASK_ENDS[:-1]:
        if stem.lower().endswith(end):
            start = stem[: -len(end)]
            found += [start + image_end for image_end in _IMAGE_ENDS]
    return found


def _told_apart(files: Sequence[str], masks: set[str], where: str) -> MaskedImages:
    images = tuple(file for file in files if file not in masks)
    return MaskedImages(images, tuple(sorted(masks)), where)


def _folders(file: str) -> str:
    return file.rpartition("/")[0]


def _stem(file: str) -> str:
    return file.rpartition("/")[2].rpartition(".")[0]
