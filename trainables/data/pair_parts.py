"""The part (train, val, test) of every image in a folder with masks, from its enclosing folders."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from trainables.data.listing import part_of, shortened
from trainables.data.pairing import PairedFiles
from trainables.data.split_names import firm_looks, parts_of_looks
from trainables.errors import UserError


def parts_of_images(root: Path, found: PairedFiles) -> dict[str, str]:
    """Key -> part of its image, from the lists of its layout or from folders that name splits.

    "" if there are no parts, and for an image that is in no list.

    Raises:
        UserError: the names of some folders are splits, and the meaning of the others is unclear.
    """
    if found.lists is not None:
        return {key: found.lists.get(key, "") for key in found.images}

    folders = {key: file.split("/")[:-1] for key, file in found.images.items()}
    exact = {key: _part_of_folders(names) for key, names in folders.items()}
    if all(exact.values()):
        return exact

    deepest = max((len(names) for names in folders.values()), default=0)
    for depth in range(deepest):
        names = {folder[depth] for folder in folders.values() if len(folder) > depth}
        of_name = parts_of_looks(firm_looks(names))
        if _are_splits(of_name, names):
            return {key: _named(of_name, folder, depth) for key, folder in folders.items()}
        if not any(exact.values()):
            _check_clear(root, of_name, names)
    return exact


def _named(of_name: Mapping[str, str], folders: Sequence[str], depth: int) -> str:
    """Part of the folder at this depth; "" for an image above it."""
    return of_name[folders[depth]] if len(folders) > depth else ""


def _part_of_folders(names: Sequence[str]) -> str:
    """Part that the first of these folders names; "" if none does."""
    for name in names:
        part = part_of(name)
        if part is not None:
            return part
    return ""


def _are_splits(of_name: Mapping[str, str], names: set[str]) -> bool:
    """True if the folders are train and at least one other split, one of each."""
    found = set(of_name.values())
    one_of_a_kind = len(found) == len(of_name) == len(names)
    return "train" in found and len(found) > 1 and one_of_a_kind


def _check_clear(root: Path, of_name: Mapping[str, str], names: set[str]) -> None:
    """Refuse splits beside folders that are not splits, or without a train folder.

    Raises:
        UserError: there are such folders.
    """
    all_train = set(of_name.values()) == {"train"} and len(of_name) == len(names)
    if not of_name or len(names) == 1 or all_train:
        return
    others = [f"{name}/" for name in sorted(names) if name not in of_name]
    splits = [f"{name}/ ({of_name[name]})" for name in sorted(of_name)]
    beside = f" beside {shortened(others)}" if others else ""
    raise UserError(
        f"{root} has {', '.join(splits)}{beside}: unclear what is trained on; name the folders "
        "train/, val/ and test/, one of each, and move others away"
    )
