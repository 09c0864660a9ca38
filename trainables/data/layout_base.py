"""Interface of all layouts of labelled and unlabeled images: the folder that they read, and the
results of `matches` and `read`."""

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
"""Value of `data.layout` that tries all layouts in order."""


@dataclass(frozen=True)
class Match:
    """Result of `matches`; true if the folder has the layout."""

    why_not: str = ""
    """Reason why the layout does not match, in a few words; empty for a match."""
    why: str = ""
    """Reason why the layout was recognised, in a few words."""

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
    """Image paths of a test set without labels, in the order of its label file."""
    outside: Sequence[str] = ()
    """Paths of images that are left out because they are in no folder that the layout uses."""
    tables: Mapping[str, Path] = field(default_factory=dict)
    """Part -> label file that was read; "" for one that covers all parts."""


class Folder:
    """A folder whose layout is to be recognised.

    Args:
        files: all images, relative to `root` and sorted; at least one.
        task: "ssl", "classify", "pretrain" or "fewshot".
        domain: value of `data.domain`; "" for none.
        forced: True if the user has named the layout.
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
        """True if images without a line in a label file are refused, instead of used unlabeled."""
        return self.task != "ssl"

    @cached_property
    def tables(self) -> dict[str, Path]:
        """Part -> label file; empty if there are none."""
        return label_tables(self.root)

    @cached_property
    def tree(self) -> Tree:
        """Images by part.

        Raises:
            UserError: there are parts but no train folder, or two folders of one part.
        """
        return read_tree(self.root, self.files)


class Layout(Protocol):
    """One way to arrange images and labels in a folder."""

    name: str
    """Name in notes and messages, and for `--layout`."""
    expects: str
    """Contents of such a folder, for messages."""

    def matches(self, folder: Folder) -> Match:
        """Decide if `folder` has this layout, and if not, what it lacks."""

    def read(self, folder: Folder) -> Contents:
        """Read a folder that matches.

        Raises:
            UserError: the folder contradicts itself, or a file in it cannot be read.
        """


class Named(Protocol):
    """A layout of labelled images or of image-mask pairs."""

    name: str


L = TypeVar("L", bound=Named)


def chosen(layouts: Iterable[L], name: str) -> L:
    """Return the layout that `--layout NAME` forces; "folder-per-class" is "folder per class".

    Raises:
        UserError: no layout has this name; the message lists the valid names.
    """
    by_name = {layout.name: layout for layout in layouts}
    wanted = name.lower().replace("-", " ").replace("_", " ").strip()
    for known, layout in by_name.items():
        if known.lower().replace("-", " ") == wanted:
            return layout
    names = ", ".join(typed(known) for known in by_name)
    raise UserError(f"--layout {name!r} is not a layout; valid: {AUTO}, {names}")


def typed(name: str) -> str:
    """The name of a layout as one shell word: "folder-per-class"."""
    return name.replace(" ", "-")


def tried(why_not: Mapping[str, str]) -> str:
    """Layouts and the reasons why they do not match: `tried: csv (no train.csv); flat (...)`."""
    tried = [f"{name} ({reason})" for name, reason in why_not.items()]
    return "tried: " + "; ".join(tried)
