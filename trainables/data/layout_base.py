"""The parts of every layout of labelled and unlabeled images: a folder to look at, the answer of
`matches`, and what `read` gives."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar

from trainables.data.csv_layout import label_tables
from trainables.data.folder_tree import Tree, read_tree
from trainables.data.listing import Entry
from trainables.errors import UserError

AUTO = "auto"
"""Value of `data.layout` that tries all layouts in turn."""


@dataclass(frozen=True)
class Match:
    """Answer of `matches`; true where the folder has the layout."""

    why_not: str = ""
    """The thing that the folder lacks, in a few words; empty for a match."""
    why: str = ""
    """The thing by which the layout was recognised, in a few words."""

    def __bool__(self) -> bool:
        return not self.why_not


@dataclass(frozen=True)
class Contents:
    """Images of a folder as one layout reads them."""

    entries: Sequence[Entry]
    notes: Sequence[str] = ()
    """Facts that a reader of the results should know, one sentence each."""
    warnings: Sequence[str] = ()
    """Facts that make results doubtful, one sentence each."""
    hidden: Sequence[str] = ()
    """Paths of the images of a test set without labels, in the order of its label file."""
    outside: Sequence[str] = ()
    """Paths of the images that are left out: they are in no folder that the layout uses."""
    tables: Mapping[str, Path] = field(default_factory=dict)
    """Part -> label file that was read; "" for one of all parts."""


class Folder:
    """A folder that may have any of the layouts.

    Args:
        files: all images, relative to `root` and sorted; at least one.
        task: the task that the images are for, "ssl", "classify", "pretrain" or "fewshot".
        domain: value of `data.domain`; "" for none.
        forced: the layout is one that the user has named.
    """

    def __init__(
        self, root: Path, files: Sequence[str], task: str, domain: str = "", forced: bool = False
    ):
        self.root = root
        self.files = files
        self.task = task
        self.domain = domain
        self.forced = forced

    @property
    def need_labels(self) -> bool:
        """Refuse images that no label file lists, instead of training on them unlabeled."""
        return self.task != "ssl"

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
        return read_tree(self.root, self.files)


class Layout(Protocol):
    """One way in which people arrange images and labels."""

    name: str
    """Name in notes and messages, and of `--layout`."""
    expects: str
    """Contents of such a folder, for messages."""

    def matches(self, folder: Folder) -> Match:
        """Tells if `folder` has this layout, and what it lacks otherwise."""

    def read(self, folder: Folder) -> Contents:
        """Reads a folder that matches.

        Raises:
            UserError: the folder contradicts itself, or a file in it cannot be read.
        """


class Named(Protocol):
    """A layout, of labelled images or of pairs."""

    name: str


L = TypeVar("L", bound=Named)


def chosen(layouts: Iterable[L], name: str) -> L:
    """The layout that `--layout NAME` forces; "folder-per-class" is "folder per class".

    Raises:
        UserError: no layout has this name; it lists the names.
    """
    by_name = {layout.name: layout for layout in layouts}
    wanted = name.lower().replace("-", " ").replace("_", " ").strip()
    for known, layout in by_name.items():
        if known.lower().replace("-", " ") == wanted:
            return layout
    names = ", ".join(typed(known) for known in by_name)
    raise UserError(f"--layout {name!r} is not a layout; valid: {AUTO}, {names}")


def typed(name: str) -> str:
    """The name of a layout as a shell takes it in one word: "folder-per-class"."""
    return name.replace(" ", "-")


def tried(why_not: Mapping[str, str]) -> str:
    """Layouts and what they lack, for a refusal: `tried: csv (no train.csv); flat (...)`."""
    tried = [f"{name} ({reason})" for name, reason in why_not.items()]
    return "tried: " + "; ".join(tried)
