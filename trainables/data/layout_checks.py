"""Checks that refuse a folder: without any image, or unusable in its recognised layout."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from trainables.data.class_layouts import ClassFolders
from trainables.data.formats import USUAL_ENDINGS
from trainables.data.layout_base import Folder, Layout, tried, typed
from trainables.data.listing import Entry, shortened
from trainables.data.mask_names import MaskedImages
from trainables.data.mask_words import NO_CLASSES
from trainables.data.scan import Scan
from trainables.errors import UserError


def check_images(root: Path, scan: Scan, layouts: Sequence[Layout]) -> None:
    """Refuse a folder without images; the message names the known layouts."""
    if scan.images:
        return
    known = "; ".join(f"{layout.name} ({layout.expects})" for layout in layouts)
    seen = ", ".join(f"{found.files:,} {found.reason}" for found in scan.left_out[:3])
    there = f"; left out: {seen}" if seen else ""
    raise UserError(
        f"data folder {root} contains no images ({USUAL_ENDINGS} ...){there}; "
        f"known layouts: {known}; all but csv also in train/ and val/"
    )


def remedy(folder: Folder, why_not: Mapping[str, str]) -> str:
    """The end of an error message for a folder without labels.

    Args:
        why_not: layout -> what the folder lacks, for layouts tried before the one that matched.
    """
    if not why_not:
        return "fill in the column label"
    splits = [f"{name}/ is {part}" for name, part in folder.tree.part_folders.items()]
    understood = f"{', '.join(splits)}; " if splits else ""
    return understood + tried(why_not)


def check_masks(folder: Folder, entries: Sequence[Entry], masked: MaskedImages | None) -> None:
    """Refuse masks without labels for a task that needs labels."""
    if masked is None or any(entry.label is not None for entry in entries):
        return
    raise UserError(
        f"data folder {folder.root} has masks ({masked.where}) and no labels, {folder.task} needs "
        "labels: train on it by `segment`, or on its images alone by `ssl`"
    )


def check_names_of_classes(folder: Folder, classes: Sequence[str]) -> None:
    """Refuse a class with a name such as "images", unless the layout is forced."""
    images = [name for name in classes if name.lower() in NO_CLASSES]
    if not images or folder.forced:
        return
    others = [f"{name}/" for name in classes if name not in images]
    raise UserError(
        f"{images[0]}/ of {folder.root} names no class, and it is unclear what is in "
        f"{shortened(others)} beside it; move other folders away, or take all of them as classes "
        f"by --layout {typed(ClassFolders.name)}"
    )


def check_lost_classes(folder: Folder, scan: Scan) -> None:
    """Refuse a class folder that contains only pictures which cannot be read."""
    if not scan.unread:
        return
    name, ending = min(scan.unread.items())
    raise UserError(
        f"nothing in {name}/ of {folder.root} can be read (Pillow does not open {ending}), so its "
        "class would be lost; convert the files to JPEG or PNG, or move the folder away"
    )
