"""Folders of images without masks: their layout, and the part (train, val, test) and label of each
file. Nothing is decoded here.

A single folder around everything is entered. The layouts are tried in this order:

    csv                train.csv [val.csv] [test.csv] with columns filename, label; images in
                       train/ val/ test/, in images/ or beside the csv
    folder per class   [train/ val/ test/] <class>/*.jpg
    file-name prefix   [train_50/ val_50/ test_50/] <label>_<n>.png, for nearly all names
    flat folder        [train/ val/ test/] *.jpg without labels

A new layout is one more class with `matches` and `read`, and one more entry of `LAYOUTS`.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from trainables.data.csv_layout import label_tables, read_label_tables
from trainables.data.images import EXTENSIONS
from trainables.data.listing import (
    Entry,
    Listing,
    find_images,
    fingerprint_of,
    part_of,
    shortened,
)
from trainables.errors import UserError

_PREFIX = re.compile(r"(.+)_\d+\.\w+")
_NEARLY_ALL = 0.9  # share of the names in a folder that must be <label>_<n>


@dataclass(frozen=True)
class Match:
    """Answer of `matches`; true where the folder has the layout."""

    why_not: str = ""
    """The thing that the folder lacks, in a few words; empty for a match."""

    def __bool__(self) -> bool:
        return not self.why_not


@dataclass(frozen=True)
class Contents:
    """Images of a folder as one layout reads them."""

    entries: Sequence[Entry]
    notes: Sequence[str] = ()
    """Facts that a reader of the results should know, one sentence each."""


@dataclass(frozen=True, eq=False)
class Tree:
    """The images of a folder, sorted into the parts that its top folders name."""

    entries: tuple[Entry, ...]
    """Images inside the parts; all images where there are no parts. Without labels."""
    depth: int
    """Number of leading folders of a path that are the same for all images of a part."""
    notes: tuple[str, ...]

    def inner_path(self, entry: Entry) -> list[str]:
        """Folders and file name below the part."""
        return entry.path.split("/")[self.depth :]

    @cached_property
    def training_paths(self) -> list[list[str]]:
        """Inner paths of the training images, by which a layout is recognised."""
        return [self.inner_path(entry) for entry in self.entries if entry.part in ("", "train")]


class Folder:
    """A folder that may have any of the layouts.

    Args:
        files: all images, relative to `root` and sorted; at least one.
        need_labels: refuse images that no label file lists, instead of training on them unlabeled.
    """

    def __init__(self, root: Path, files: Sequence[str], need_labels: bool):
        self.root = root
        self.files = files
        self.need_labels = need_labels

    @cached_property
    def tables(self) -> dict[str, Path]:
        """Part -> label file; empty where there are none."""
        return label_tables(self.root)

    @cached_property
    def tree(self) -> Tree:
        """The images by part.

        Raises:
            UserError: parts without a train folder, or two folders of one part.
        """
        return _read_tree(self.root, self.files)


class Layout(Protocol):
    """One way in which people arrange images and labels."""

    name: str
    """Name in notes and messages."""
    expects: str
    """Contents of such a folder, for messages."""

    def matches(self, folder: Folder) -> Match:
        """Tells if `folder` has this layout, and what it lacks otherwise."""

    def read(self, folder: Folder) -> Contents:
        """Reads a folder that matches.

        Raises:
            UserError: the folder contradicts itself, or a file in it cannot be read.
        """


class CsvLayout:
    """Label files train.csv, val.csv, test.csv (`csv_layout.py`)."""

    name = "csv"
    expects = "train.csv (filename, label)"

    def matches(self, folder: Folder) -> Match:
        return Match() if folder.tables else Match("no train.csv")

    def read(self, folder: Folder) -> Contents:
        entries, notes = read_label_tables(
            folder.root, folder.tables, folder.files, need_labels=folder.need_labels
        )
        return Contents(entries, notes)


class ClassFolders:
    """A folder per class, for more than half of the training images and at least two classes."""

    name = "folder per class"
    expects = "<class>/*.jpg"

    def matches(self, folder: Folder) -> Match:
        paths = folder.tree.training_paths
        classes = [path[0] for path in paths if len(path) > 1]
        if len(classes) * 2 <= len(paths):
            return Match(f"{len(classes):,} of {len(paths):,} images are in a subfolder")
        if len(set(classes)) < 2:
            return Match("only one subfolder")
        return Match()

    def read(self, folder: Folder) -> Contents:
        tree = folder.tree
        entries: list[Entry] = []
        for entry in tree.entries:
            path = tree.inner_path(entry)
            label = path[0] if len(path) > 1 else None
            entries.append(replace(entry, label=label))
        return Contents(entries, tree.notes)


class PrefixedNames:
    """Labels in the file names, `<label>_<n>.png`: nearly all names are like that, there are at
    least two labels, and a label has two images on average."""

    name = "file-name prefix"
    expects = "<label>_<n>.jpg"

    def matches(self, folder: Folder) -> Match:
        names = [path[-1] for path in folder.tree.training_paths]
        prefixes = [_prefix(name) for name in names]
        labels = Counter(prefix for prefix in prefixes if prefix is not None)
        named = labels.total()
        if named < _NEARLY_ALL * len(names):
            return Match(f"{named:,} of {len(names):,} names are <label>_<n>")
        if len(labels) < 2:
            return Match(f"{next(iter(labels))!r} is the only label")
        if named < 2 * len(labels):
            return Match(f"{len(labels):,} different labels in {named:,} names")
        return Match()

    def read(self, folder: Folder) -> Contents:
        tree = folder.tree
        entries = [
            replace(entry, label=_prefix(entry.path.split("/")[-1])) for entry in tree.entries
        ]
        return Contents(entries, tree.notes)


class FlatFolder:
    """Images without labels."""

    name = "flat folder without labels"
    expects = "a flat folder of images"

    def matches(self, folder: Folder) -> Match:
        return Match()

    def read(self, folder: Folder) -> Contents:
        return Contents(folder.tree.entries, folder.tree.notes)


LAYOUTS: tuple[Layout, ...] = (CsvLayout(), ClassFolders(), PrefixedNames(), FlatFolder())
"""All layouts, in the order in which they are tried."""


def read_layout(root: Path, task: str = "ssl") -> Listing:
    """Recognises the layout of `root` and checks its labels for `task`.

    "classify" needs a label for every image and every class in train; "fewshot" needs labels too,
    and no class in two of train, val and test.

    Raises:
        UserError: no such folder, no images, a csv that cannot be used, files without labels or
            labels without files.
    """
    root = root.expanduser()
    _check_folder(root)
    folder = Folder(root, _list_images(root), need_labels=task != "ssl")

    layout, why_not_others = recognize(folder)
    contents = layout.read(folder)
    entries = sorted(contents.entries, key=lambda entry: entry.path)
    if task != "ssl":
        _check_labels(root, layout, entries, task, why_not_others)

    names = {entry.label for entry in entries if entry.label is not None}
    classes = sorted(names, key=_natural)
    number: dict[str | None, int] = {name: i for i, name in enumerate(classes)}
    number[None] = -1
    return Listing(
        root=root,
        layout=layout.name,
        files=tuple(entry.path for entry in entries),
        parts=np.array([entry.part for entry in entries]),
        labels=np.array([number[entry.label] for entry in entries], np.int64),
        classes=tuple(classes),
        fingerprint=fingerprint_of(root, entries),
        notes=tuple(contents.notes),
    )


def recognize(folder: Folder) -> tuple[Layout, dict[str, str]]:
    """The first layout that matches, and {layout: what it lacks} of those tried before."""
    why_not: dict[str, str] = {}
    for layout in LAYOUTS:
        match = layout.matches(folder)
        if match:
            return layout, why_not
        why_not[layout.name] = match.why_not
    raise UserError(f"data folder {folder.root} has no known layout; {tried(why_not)}")


def tried(why_not: dict[str, str]) -> str:
    """Layouts and what they lack, for a refusal: `tried: csv (no train.csv); flat (...)`."""
    tried = [f"{name} ({reason})" for name, reason in why_not.items()]
    return "tried: " + "; ".join(tried)


def _check_folder(root: Path) -> None:
    if not root.exists():
        raise UserError(
            f"data folder {root} does not exist; "
            "give an existing folder of images or an embedded set"
        )
    if not root.is_dir():
        raise UserError(
            f"data {root} is a file, not a folder; give the folder that holds the images"
        )


def _list_images(root: Path) -> list[str]:
    """All images; the masks of the satellite layout (`pairs.py`) are none."""
    files = find_images(root)
    pictured = {file.rpartition("_sat.")[0] for file in files if "_sat." in file}
    images = [
        file
        for file in files
        if "_mask." not in file or file.rpartition("_mask.")[0] not in pictured
    ]
    if not images:
        known = "; ".join(f"{layout.name} ({layout.expects})" for layout in LAYOUTS)
        raise UserError(
            f"data folder {root} holds no images ({' '.join(EXTENSIONS)}); "
            f"known layouts: {known}; all but csv also in train/ and val/"
        )
    return images


# ---------------------------------------------------------------- parts


def _read_tree(root: Path, files: Sequence[str]) -> Tree:
    depth = _common_folders(files)
    parts = _part_folders(root, [file.split("/")[depth:] for file in files])
    if not parts:
        return Tree(tuple(Entry(file) for file in files), depth, ())

    inside: list[Entry] = []
    for file in files:
        part = parts.get(file.split("/")[depth])
        if part is not None:
            inside.append(Entry(file, part))

    notes: tuple[str, ...] = ()
    left_out = len(files) - len(inside)
    if left_out:
        notes = (f"{left_out:,} images outside train, val and test are left out",)
    return Tree(tuple(inside), depth + 1, notes)


def _common_folders(files: Sequence[str]) -> int:
    """Number of folders that contain everything and are no part: root/images/*.jpg is as good as
    root/*.jpg."""
    # sorted, so these two differ the most
    first = files[0].split("/")[:-1]
    last = files[-1].split("/")[:-1]
    depth = 0
    for name, other in zip(first, last, strict=False):
        if name != other or part_of(name):
            break
        depth += 1
    return depth


def _part_folders(root: Path, paths: list[list[str]]) -> dict[str, str]:
    """{"train_50": "train", ...}; empty where the top folders are no parts."""
    top_folders = sorted({path[0] for path in paths if len(path) > 1})
    parts: dict[str, str] = {}
    for name in top_folders:
        part = part_of(name)
        if part is not None:
            parts[name] = part

    found = set(parts.values())
    only_parts = len(parts) == len(top_folders)
    all_inside = only_parts and all(len(path) > 1 for path in paths)
    train_and_more = "train" in found and len(found) > 1
    if not parts or not (all_inside or train_and_more):
        return {}
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
    return parts


# ---------------------------------------------------------------- labels


def _check_labels(
    root: Path,
    layout: Layout,
    entries: Sequence[Entry],
    task: str,
    why_not_others: dict[str, str],
) -> None:
    unlabeled = [entry.path for entry in entries if entry.label is None]
    if len(unlabeled) == len(entries):
        remedy = tried(why_not_others) if why_not_others else "fill in the column label"
        raise UserError(
            f"data folder {root} has no labels ({layout.name}), classification needs them; {remedy}"
        )
    if unlabeled:
        raise UserError(
            f"{len(unlabeled):,} images in {root} have no label ({layout.name}): "
            f"{shortened(unlabeled)}; label them or move them away"
        )
    if task == "fewshot":
        _check_new_classes(root, entries)
    else:
        _check_trained_classes(root, entries)


def _check_trained_classes(root: Path, entries: Sequence[Entry]) -> None:
    trained = {entry.label for entry in entries if entry.part in ("", "train")}
    for entry in entries:
        if entry.label not in trained:
            raise UserError(
                f"class {entry.label!r} of {root} occurs in {entry.part} but not in train; "
                "add training images or remove it"
            )


def _check_new_classes(root: Path, entries: Sequence[Entry]) -> None:
    part_of_class: dict[str | None, str] = {}
    for entry in entries:
        other = part_of_class.setdefault(entry.label, entry.part)
        if other != entry.part:
            raise UserError(
                f"class {entry.label!r} of {root} occurs in {other} and in {entry.part}: few-shot "
                "classes of val and test must be new; move it to one of them, or give all classes "
                "without train and val, which are then chosen by seed"
            )


def _prefix(name: str) -> str | None:
    """Label of `<label>_<n>.png`; None for other names."""
    match = _PREFIX.fullmatch(name)
    return match[1] if match else None


def _natural(label: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts 2 before 10."""
    words = [word for word in re.split(r"(\d+)", label) if word]
    key: list[tuple[int, int, str]] = []
    for word in words:
        key.append((0, int(word), "") if word.isdecimal() else (1, 0, word))
    return tuple(key)
