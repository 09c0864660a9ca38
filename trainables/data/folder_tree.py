"""Images of a folder by part: top folders that are splits, or splits inside class folders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from trainables.data.csv_layout import tables_without_labels
from trainables.data.listing import Entry, shortened
from trainables.data.split_names import (
    Look,
    are_pieces,
    firm_looks,
    part_of,
    parts_of_looks,
    split_of,
)
from trainables.errors import UserError

_CONTAINERS = {"images", "image", "imgs", "img", "data", "jpg", "jpeg", "png", "jpegimages"}
"""Folder names that only say that there are images inside."""
_FORCE = "--layout folder-per-class"


@dataclass(frozen=True, eq=False)
class Tree:
    """Images of a folder, sorted into the parts that its folders name."""

    entries: tuple[Entry, ...]
    """Images inside the parts, or all images if there are no parts; without labels."""
    inner: tuple[tuple[str, ...], ...]
    """Folders and file name of each entry, without the enclosing folders and the part."""
    outside: tuple[str, ...] = ()
    """Images outside the parts, which are left out."""
    problem: str = ""
    """The reason why the meaning of the folders is unclear, with the remedy; empty if it is
    clear."""
    part_folders: Mapping[str, str] = field(default_factory=dict)
    """Top folder -> part."""

    @cached_property
    def training_paths(self) -> list[tuple[str, ...]]:
        """Inner paths of the training images, from which the layout is recognised."""
        paths: list[tuple[str, ...]] = []
        for entry, path in zip(self.entries, self.inner, strict=True):
            if entry.part in ("", "train"):
                paths.append(path)
        return paths


@dataclass(frozen=True)
class _Parts:
    """Parts that top folders name."""

    of_folder: Mapping[str, str] = field(default_factory=dict)
    """{"train_50": "train", ...}; empty if the top folders are not parts."""
    problem: str = ""


def read_tree(root: Path, files: Sequence[str]) -> Tree:
    """Sort the images of a folder by part.

    Raises:
        UserError: there are parts but no train folder, or two folders of one part.
    """
    depth = _common_folders(files)
    paths = [tuple(file.split("/")[depth:]) for file in files]
    found = _part_folders(root, paths)
    if found.of_folder:
        return _by_part(files, paths, found)

    inside_classes = _splits_inside_classes(root, files, paths)
    if inside_classes is not None:
        return inside_classes
    return Tree(
        entries=tuple(Entry(file) for file in files),
        inner=tuple(_without_containers(paths)),
        problem=found.problem,
    )


def _by_part(files: Sequence[str], paths: Sequence[tuple[str, ...]], parts: _Parts) -> Tree:
    entries: list[Entry] = []
    inner: list[tuple[str, ...]] = []
    outside: list[str] = []
    for file, path in zip(files, paths, strict=True):
        part = parts.of_folder.get(path[0])
        if part is None:
            outside.append(file)
            continue
        entries.append(Entry(file, part))
        inner.append(path)

    around = _folders_around(paths, parts.of_folder)
    return Tree(
        entries=tuple(entries),
        inner=tuple(_without_containers([path[around[path[0]] :] for path in inner])),
        outside=tuple(outside),
        part_folders=parts.of_folder,
    )


def _folders_around(paths: Sequence[tuple[str, ...]], parts: Mapping[str, str]) -> dict[str, int]:
    """Part folder -> number of folders that enclose all its images: 2 for
    seg_train/seg_train/<class>.

    An inner folder counts if it is the only one there and its name is not a class: the name of a
    split, or `images`.
    """
    around: dict[str, int] = {}
    for top in parts:
        inside = [path for path in paths if path[0] == top]
        depth = 1
        while True:
            names = {path[depth] if len(path) > depth + 1 else "" for path in inside}
            if len(names) > 1:
                break
            name = names.pop()
            if not name or not (name.lower() in _CONTAINERS or split_of(name)):
                break
            depth += 1
        around[top] = depth
    return around


def _without_containers(paths: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The paths without a second-level folder that only says that there are images inside, if it is
    the same in all top folders: <domain>/images/<class>/."""
    seconds = {path[1] for path in paths if len(path) > 2}
    if len(seconds) != 1 or seconds.pop().lower() not in _CONTAINERS:
        return list(paths)
    return [(path[0], *path[2:]) if len(path) > 2 else path for path in paths]


def _common_folders(files: Sequence[str]) -> int:
    """Number of folders that enclose everything and are not parts: root/images/*.jpg is treated
    like root/*.jpg."""
    # the files are sorted, so these two differ the most
    first = files[0].split("/")[:-1]
    last = files[-1].split("/")[:-1]
    depth = 0
    for name, other in zip(first, last, strict=False):
        if name != other or part_of(name):
            break
        depth += 1
    return depth


# ---------------------------------------------------------------- splits at the top


def _part_folders(root: Path, paths: Sequence[tuple[str, ...]]) -> _Parts:
    tops = sorted({path[0] for path in paths if len(path) > 1})
    loose = any(len(path) == 1 for path in paths)
    exact = {name: part for name in tops if (part := part_of(name))}

    looks = firm_looks(tops)
    usual = parts_of_looks(looks)
    one_of_a_kind = len(set(usual.values())) == len(usual)
    more = len(usual) > len(exact) and one_of_a_kind  # holdout beside train and val
    if _complete(exact, tops, loose) and not more:
        _check_parts(root, exact)
        return _Parts(exact)

    if _complete(usual, tops, loose):
        _check_parts(root, usual)
        return _Parts(usual)

    if not usual:
        return _Parts(problem=_about_folds(root, tops))
    if len(tops) == 1 and _has_classes(paths, tops[0]):
        return _Parts(usual)  # train/<class>/ and loose images beside it
    return _Parts(problem=_about_mixture(root, paths, tops, looks))


def _complete(parts: Mapping[str, str], tops: Sequence[str], loose: bool) -> bool:
    """True if everything is in a part, or if there is train and another part."""
    found = set(parts.values())
    all_inside = len(parts) == len(tops) and not loose
    train_and_more = "train" in found and len(found) > 1
    return bool(parts) and (all_inside or train_and_more)


def _check_parts(root: Path, parts: Mapping[str, str]) -> None:
    found = set(parts.values())
    if "train" not in found:
        raise UserError(
            f"data folder {root} has {shortened(list(parts))} but no train folder; "
            "add train/, or give the folder of images itself"
        )
    if len(parts) > len(found):
        raise UserError(
            f"data folder {root} has several folders of one kind ({', '.join(parts)}); "
            "keep one for each of train, val, test"
        )


def _about_folds(root: Path, tops: Sequence[str]) -> str:
    """Error message for folders such as fold0, fold1, ...; empty for others."""
    if not are_pieces(tops):
        return ""
    lacking = "".join(f"; {text}" for text in tables_without_labels(root))
    return (
        f"the folders {shortened(tops)} of {root} look like pieces of one set, not like classes"
        f"{lacking}; list their labels in a csv (filename,label), name them train/, val/ and "
        f"test/, take one of them by --set data.domain={tops[0]}, or take them as classes by "
        f"{_FORCE} or as unlabeled images by --layout flat-folder-without-labels"
    )


def _about_mixture(
    root: Path,
    paths: Sequence[tuple[str, ...]],
    tops: Sequence[str],
    looks: Mapping[str, Look],
) -> str:
    """Error message for splits among other folders; empty if all of them can be classes."""
    others = [name for name in tops if name not in looks]
    if not others:
        return ""  # loose images beside one folder: a flat folder
    vehicle = list(looks) == ["train"] and len(others) > 1
    if vehicle and not _has_classes(paths, "train"):
        return ""
    kinds = " and ".join(f"{name}/" for name in looks)
    verb = "looks like a split" if len(looks) == 1 else "look like splits"
    return (
        f"{kinds} of {root} {verb}, {shortened([f'{name}/' for name in others])} not: unclear what "
        "is a class; name the splits train/, val/ and test/ and move other folders away, or take "
        f"all of them as classes by {_FORCE}"
    )


def _has_classes(paths: Sequence[tuple[str, ...]], top: str) -> bool:
    """True if a top folder contains at least two folders with images."""
    return len({path[1] for path in paths if path[0] == top and len(path) > 2}) > 1


# ---------------------------------------------------------------- splits inside class folders


def _splits_inside_classes(
    root: Path, files: Sequence[str], paths: Sequence[tuple[str, ...]]
) -> Tree | None:
    """Tree of <class>/train/*.jpg and <class>/test/*.jpg; None for other folders."""
    tops = sorted({path[0] for path in paths})
    seconds = {path[1] for path in paths if len(path) > 2}
    if len(tops) < 2 or any(len(path) < 3 for path in paths):
        return None
    parts = parts_of_looks(firm_looks(seconds))
    found = set(parts.values())
    one_of_a_kind = len(parts) == len(found) == len(seconds)
    if "train" not in found or len(found) < 2 or not one_of_a_kind:
        return None

    entries = [Entry(file, parts[path[1]]) for file, path in zip(files, paths, strict=True)]
    inner = [(path[0], *path[2:]) for path in paths]
    problem = ""
    if any(len(path) > 2 for path in inner):
        # MVTec's <object>/train/good/
        problem = (
            f"{shortened(tops)} of {root} have {' and '.join(sorted(seconds))} of their own, with "
            "folders inside: data sets of their own; take one of them by --set 'data.domain="
            f"{tops[0]}', or take them as classes by {_FORCE}"
        )
    return Tree(tuple(entries), tuple(inner), problem=problem)
