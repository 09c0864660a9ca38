"""Layouts whose labels are folder names, and the layout without labels."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from trainables.data.csv_layout import other_tables
from trainables.data.folder_tree import Tree
from trainables.data.layout_base import Contents, Folder, Match, typed
from trainables.data.listing import HIDDEN, Entry, shortened
from trainables.data.split_names import are_pieces
from trainables.errors import UserError

ALL_DOMAINS = "all"
_OF_A_LETTER = re.compile(r"(character|char|letter|glyph|symbol)[ _-]*\d+", re.IGNORECASE)
_NUMBERED = re.compile(r"([^\W\d]*)[ _-]*\d+", re.IGNORECASE)
_CLASS_WORDS = {"class", "cls", "label", "category", ""}
_SHARED = 0.5  # smallest share of second-level names that occur in several top folders


@dataclass(frozen=True, eq=False)
class _Levels:
    """The first two folder levels of the training images."""

    paths: Sequence[tuple[str, ...]]

    @cached_property
    def below(self) -> dict[str, set[str]]:
        """Top folder -> folders inside it that contain images."""
        found: dict[str, set[str]] = {}
        for path in self.paths:
            if len(path) > 2:
                found.setdefault(path[0], set()).add(path[1])
        return found

    @cached_property
    def seconds(self) -> set[str]:
        """Names of all folders inside top folders."""
        return set().union(*self.below.values())

    @property
    def deep(self) -> bool:
        """True if nearly all images are two folders deep, below at least two top folders."""
        inside = sum(len(path) > 2 for path in self.paths)
        return len(self.below) > 1 and inside > 0.9 * len(self.paths)

    @property
    def repeat(self) -> bool:
        """True if at least half of the second-level names occur in several top folders."""
        if any(len(names) < 2 for names in self.below.values()):
            return False
        several = [
            name for name in self.seconds if sum(name in names for names in self.below.values()) > 1
        ]
        return len(several) >= _SHARED * len(self.seconds)

    @property
    def of_letters(self) -> bool:
        """True for character01, character02, ..."""
        return all(_OF_A_LETTER.fullmatch(name) for name in self.seconds)

    @property
    def of_sources(self) -> bool:
        """True for person01, video_2, ...: folders of one source inside a class."""
        return _are_sources(self.seconds)

    @cached_property
    def thirds(self) -> list[str]:
        """Sorted folder names that occur in every second-level folder: perhaps the classes of
        <year>/<camera>/<class>/. Empty if fewer than two do, or if they are sources."""
        found: dict[tuple[str, str], set[str]] = {}
        for path in self.paths:
            if len(path) > 3:
                found.setdefault((path[0], path[1]), set()).add(path[2])
        below = sum(map(len, self.below.values()))
        if len(found) < max(2, below):
            return []
        common = set.intersection(*found.values())
        return [] if len(common) < 2 or _are_sources(common) else sorted(common)


def _are_sources(names: Iterable[str]) -> bool:
    matches = [_NUMBERED.fullmatch(name) for name in names]
    return all(match and match[1].lower() not in _CLASS_WORDS for match in matches)


class NestedClasses:
    """<alphabet>/<character>/*.png, as in Omniglot: a class is a pair of both folders."""

    name = "nested classes"
    expects = "<alphabet>/<character>/*.png"

    def matches(self, folder: Folder) -> Match:
        levels = _Levels(folder.tree.training_paths)
        if not levels.deep:
            return Match("images are not two folders deep")
        if not levels.of_letters and not folder.forced:
            return Match("inner folders are not character01, character02, ...")
        return Match(why=f"{len(levels.below):,} folders with folders of a class each")

    def read(self, folder: Folder) -> Contents:
        tree = folder.tree
        labels = [f"{path[0]}/{path[1]}" if len(path) > 2 else None for path in tree.inner]
        return of_tree(tree, labels)


class Domains:
    """<domain>/<class>/*.jpg: every domain has the same classes, as in Office-Home."""

    name = "domains"
    expects = "<domain>/<class>/*.jpg, with --set data.domain="

    def matches(self, folder: Folder) -> Match:
        levels = _Levels(folder.tree.training_paths)
        if not levels.deep:
            return Match("images are not two folders deep")
        if folder.domain:
            return Match(why=f"data.domain={folder.domain}")
        if not levels.repeat:
            return Match("the top folders have different folders inside")
        if levels.of_sources:
            return Match(f"{min(levels.seconds)} and its like are not classes")
        return Match(why="every top folder has the same folders inside")

    def read(self, folder: Folder) -> Contents:
        tree = folder.tree
        domains = sorted({path[0] for path in tree.inner if len(path) > 2})
        if not folder.domain:
            raise UserError(_which_domain(folder, domains))

        wanted = _wanted(folder, domains)
        entries: list[Entry] = []
        outside = list(tree.outside)
        for entry, path in zip(tree.entries, tree.inner, strict=True):
            if len(path) > 2 and path[0] in wanted:
                entries.append(Entry(entry.path, entry.part, path[1]))
            else:
                outside.append(entry.path)
        notes = (f"domains: {', '.join(wanted)}; a class is the same in all of them",)
        return Contents(entries, notes, outside=outside)


def _which_domain(folder: Folder, domains: Sequence[str]) -> str:
    levels = _Levels(folder.tree.training_paths)
    return (
        f"{shortened(domains)} of {folder.root} contain the same {len(levels.seconds):,} folders "
        f"({shortened(sorted(levels.seconds))}): they look like domains, not like classes; take "
        f"one by --set 'data.domain={domains[0]}', several by "
        f"--set 'data.domain={','.join(domains[:2])}' or all of them by --set data.domain="
        f"{ALL_DOMAINS}; if they are classes, say --layout {typed(ClassFolders.name)}"
    )


def _wanted(folder: Folder, domains: Sequence[str]) -> list[str]:
    if folder.domain == ALL_DOMAINS:
        return list(domains)
    wanted = [name.strip() for name in folder.domain.split(",")]
    unknown = [name for name in wanted if name not in domains]
    if unknown:
        raise UserError(
            f"data.domain={folder.domain}: {folder.root} has no {', '.join(unknown)}; "
            f"valid: {ALL_DOMAINS}, {', '.join(domains)}"
        )
    return wanted


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
        by_table = not folder.forced and other_tables(folder.root)
        if by_table and are_pieces(sorted(set(classes))):
            return Match("the folders are pieces of one set, whose labels a csv has")
        return Match(why=_why_classes(folder.tree, len(set(classes))))

    def read(self, folder: Folder) -> Contents:
        tree = folder.tree
        labels = [path[0] if len(path) > 1 else None for path in tree.inner]
        contents = of_tree(tree, labels)
        return replace(contents, warnings=_about_deeper_folders(tree))


def _why_classes(tree: Tree, classes: int) -> str:
    why = f"{classes:,} folders with images"
    deeper = _deeper_folders(tree)
    if deeper:
        why += f", with folders inside such as {deeper[0]}"
    if deeper and _Levels(tree.training_paths).of_sources:
        why += ": sources of images, not classes"
    return why


def _about_deeper_folders(tree: Tree) -> list[str]:
    """Warnings about folders inside classes that do not look like sources of images."""
    deeper = _deeper_folders(tree)
    levels = _Levels(tree.training_paths)
    classes = shortened(sorted(levels.below))
    if levels.deep and levels.thirds:
        return [
            f"the classes are {classes}; {shortened(levels.thirds)}, which are in each of the "
            f"{len(deeper):,} folders below, could be classes too: their images belong in "
            "folders <class>/"
        ]
    if not levels.deep or levels.of_sources:
        return []
    return [
        f"the classes are {classes}; {len(deeper):,} folders inside them, such as {deeper[0]}, "
        f"could be classes too (--layout {typed(NestedClasses.name)})"
    ]


def _deeper_folders(tree: Tree) -> list[str]:
    return sorted({"/".join(path[:2]) for path in tree.training_paths if len(path) > 2})


class FlatFolder:
    """Images without labels."""

    name = "flat folder without labels"
    expects = "a flat folder of images"

    def matches(self, folder: Folder) -> Match:
        return Match(why="no label file, no class folders, no labels in the names")

    def read(self, folder: Folder) -> Contents:
        tree = folder.tree
        return Contents(tree.entries, outside=tree.outside)


def of_tree(tree: Tree, labels: Sequence[str | None]) -> Contents:
    """Contents of a tree whose entries have these labels.

    A test part without any labels, beside a labelled train part, is a hidden test set.
    """
    entries: list[Entry] = []
    for entry, label in zip(tree.entries, labels, strict=True):
        entries.append(Entry(entry.path, entry.part, label))

    labelled = any(entry.label is not None for entry in entries if entry.part == "train")
    tests = [entry for entry in entries if entry.part == "test"]
    answered = any(entry.label is not None for entry in tests)
    if not labelled or not tests or answered:
        return Contents(entries, outside=tree.outside)

    hidden = [entry.path for entry in tests]
    renamed: list[Entry] = []
    for entry in entries:
        part = HIDDEN if entry.part == "test" else entry.part
        renamed.append(replace(entry, part=part))
    return Contents(renamed, hidden=hidden, outside=tree.outside)
