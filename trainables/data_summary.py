"""Everything that was found out about a data set, as one value that every page can show.

It is built while the data set is loaded (`trainables/data/summarize.py`) and stored as JSON in
`study.json`. This module imports no torch, because pages that only show a study need it too.

    WARNING    2 classes of val or test have no training image (fern, moss): ...
    layout     folder per class
    folders    train      24  train
               unlabeled   3  left out
    splits     train 21; val 3 (carved from train by seed 0); test 6
    classes    3: ant, bee, cat; 7 training images each
    images     24x24 px; 30 RGB
    left out   2 ending .txt (such as train/a.txt)
    duplicates 5 of 10 test images (50%) are in train or val too (near-duplicates): ...
    note       training images limited to 1,014

Every fact is a field of `DataSummary` and a line of this text. A new fact needs both, and a test of
its text.
"""

import textwrap
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter

_MODES = {"1": "1-bit"}
"""Pillow's mode -> its name, where the mode alone cannot be understood."""

Became = Literal["train", "val", "test", "unlabeled", "hidden test", "left out"]

WIDTH = 100
"""Characters per line of `DataSummary.lines`."""
_LABEL = 10  # width of the label column, in characters
_NAMES = 8  # most classes that are named
_FOLDERS = 12  # most folders that are shown
_FILLER = "\0"  # second half of a wide letter, while lines are wrapped
_SHORT = ("layout", "splits", "classes", "left out", "duplicates", "note")


@dataclass(frozen=True)
class FolderUse:
    """One folder of the data and its use."""

    folder: str
    """Relative to the root; "." is the root itself."""
    became: Became
    images: int
    """Number of images below the folder that have this use."""
    reason: str = ""
    """The reason for this use, in a few words; empty if the name says it."""


@dataclass(frozen=True)
class LeftOut:
    """Files that are not images of the data set, counted per reason."""

    reason: str
    """Such as "ending .txt", "hidden folder", "thumbnail"."""
    files: int
    example: str
    """One path, relative to the root."""


@dataclass(frozen=True)
class SplitUse:
    """One split as it is used."""

    name: str
    """train, gallery, val, test or hidden test."""
    images: int
    classes: int = 0
    """Number of classes of its images; 0 if they have no labels."""
    origin: str = ""
    """Such as "carved from train by seed 0"; empty if the split comes from the layout."""


@dataclass(frozen=True)
class ClassCounts:
    """Classes, and the number of training images (or masks) of each."""

    total: int
    """Number of classes that a model can predict."""
    names: tuple[str, ...]
    """The first ones, at most 8."""
    smallest: tuple[str, int] | None = None
    """Class with the fewest images and their number; None if unknown."""
    largest: tuple[str, int] | None = None
    unit: str = "training images"
    """The things that are counted."""

    def __str__(self) -> str:
        """`3: ant, bee, cat; 7 (cat) to 120 (ant) training images`."""
        named = ", ".join(self.names)
        if self.total > len(self.names):
            named += ", ..."

        text = f"{self.total:,}: {named}"
        if self.smallest is None or self.largest is None:
            return text
        if self.smallest[1] == self.largest[1]:
            return f"{text}; {self.smallest[1]:,} {self.unit} each"

        fewest = f"{self.smallest[1]:,} ({self.smallest[0]})"
        most = f"{self.largest[1]:,} ({self.largest[0]})"
        return f"{text}; {fewest} to {most} {self.unit}"


@dataclass(frozen=True)
class FoundImages:
    """Sizes and colour modes of the images as stored in their files."""

    smallest: tuple[int, int]
    """Width and height of the image with the fewest pixels."""
    largest: tuple[int, int]
    usual: tuple[int, int]
    """The most frequent size."""
    sizes: int
    """Number of different sizes."""
    modes: dict[str, int]
    """Pillow's mode -> number of images."""
    levels: tuple[float, float] | None = None
    """Lowest and highest value among images with more than 8 bits per channel; None without any."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "FoundImages":
        """Read the value from what `asdict` and JSON wrote.

        Raises:
            ValueError: it is something else.
        """
        return TypeAdapter(cls).validate_python(value)

    def __str__(self) -> str:
        """`32x32 to 640x480 px, most 320x240 (5 sizes); 120 RGB, 4 L`."""
        size = f"{_size(self.smallest)} px"
        if self.sizes > 1:
            size = (
                f"{_size(self.smallest)} to {_size(self.largest)} px, "
                f"most {_size(self.usual)} ({self.sizes:,} sizes)"
            )

        modes = [f"{count:,} {_MODES.get(mode, mode)}" for mode, count in self.modes.items()]
        text = f"{size}; {', '.join(modes)}"
        if self.levels is not None:
            low, high = self.levels
            text += f"; values of more than 8 bits from {low:g} to {high:g}"
        return text


@dataclass(frozen=True)
class Duplicates:
    """Test images that are also training images: identical files or near-duplicates."""

    test: int
    """Number of test images."""
    given: int
    """Number of test images that are in the layout's own train or val."""
    remaining: int
    """Number of test images that are in train or val as used."""
    left_out: int
    """Number of images left out of train and val because val or test has them."""

    def __str__(self) -> str:
        """Share of the test split that is in train or val, as given and as used."""
        if not self.given:
            if self.left_out == 1:
                return "1 near-duplicate of an image of val or test is left out"
            return f"{self.left_out:,} near-duplicates of images of val and test are left out"

        share = self.given / self.test
        are = "is" if self.given == 1 else "are"
        text = (
            f"{self.given:,} of {self.test:,} test images ({share:.0%}) {are} in train or val too "
            "(near-duplicates)"
        )
        if not self.remaining:
            left = "1 image is" if self.left_out == 1 else f"{self.left_out:,} images are"
            return f"{text}: {left} left out of train and val, none is now"
        return f"{text}; {self.remaining:,} still are"


@dataclass(frozen=True)
class DataSummary:
    """Facts about a data set, from its layout to what was left out.

    A loader fills in what the layout tells: layout, why, folders, left-out files, origins.
    `summarize.with_counts` adds the counts of the splits that will be used.
    """

    layout: str = ""
    """Name of the layout, or description of an embedded set."""
    why: str = ""
    """The reason why this layout was recognised, in a few words."""
    folders: tuple[FolderUse, ...] = ()
    """Folders and their use, in display order."""
    splits: tuple[SplitUse, ...] = ()
    """Splits as they are used, train first."""
    classes: ClassCounts | None = None
    """None for unlabeled data."""
    found: FoundImages | None = None
    """None if nothing is recorded: embedded sets, and stores of earlier versions."""
    left_out: tuple[LeftOut, ...] = ()
    """Files that are not images of the data set, by reason."""
    duplicates: Duplicates | None = None
    """None if no split has a near-duplicate in another split."""
    notes: tuple[str, ...] = ()
    """Further facts that a reader of the results should know, one sentence each."""
    warnings: tuple[str, ...] = ()
    """Facts that make a result worthless or doubtful, one sentence each."""
    origins: dict[str, str] = field(default_factory=dict)
    """Split -> origin, for splits that do not come from the layout."""
    hidden: int = 0
    """Number of images of a test set whose labels are unknown."""

    def as_json(self) -> dict[str, Any]:
        """The summary as plain dictionaries, lists, strings and numbers."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "DataSummary":
        """Read the value from what `as_json` returned. Names unknown to this version are ignored.

        Raises:
            ValueError: it is something else.
        """
        return TypeAdapter(cls).validate_python(value)

    def rows(self) -> list[tuple[str, str]]:
        """(label, text) of every fact but the warnings, in reading order. A label may occur several
        times."""
        rows = [("layout", self._layout_text())]
        rows += [("folders", text) for text in self._folder_texts()]
        if self.splits:
            rows.append(("splits", self._splits_text()))
        if self.classes is not None:
            rows.append(("classes", str(self.classes)))
        if self.found is not None:
            rows.append(("images", str(self.found)))
        for left in self.left_out:
            rows.append(("left out", f"{left.files:,} {left.reason} (such as {left.example})"))
        if self.duplicates is not None:
            rows.append(("duplicates", str(self.duplicates)))
        rows += [("note", note) for note in self.notes]
        return rows

    def lines(self, width: int = WIDTH) -> list[str]:
        """Aligned lines of at most `width` characters, warnings first."""
        return _aligned([*self._warning_rows(), *self.rows()], width)

    def short_lines(self, width: int = WIDTH) -> list[str]:
        """Lines that are printed at the start of a run."""
        rows = [row for row in self.rows() if row[0] in _SHORT]
        return _aligned([*self._warning_rows(), *rows], width)

    def _warning_rows(self) -> list[tuple[str, str]]:
        """The warnings, each with the label that marks them."""
        return [("WARNING", text) for text in self.warnings]

    def _layout_text(self) -> str:
        """`csv: train.csv names the images`."""
        return f"{self.layout}: {self.why}" if self.why else self.layout

    def _folder_texts(self) -> list[str]:
        """Texts of the first folders, with their names aligned in a column."""
        shown = self.folders[:_FOLDERS]
        name = max((_cells(use.folder) for use in shown), default=0)
        number = max((len(f"{use.images:,}") for use in shown), default=0)
        texts = [_folder_text(use, name, number) for use in shown]
        hidden = len(self.folders) - len(shown)
        if hidden:
            texts.append(f"... and {hidden:,} more")
        return texts

    def _splits_text(self) -> str:
        """All splits in one text, with their numbers of classes if these differ, as in few-shot
        learning."""
        numbers = {split.classes for split in self.splits if split.classes}
        texts = [_split_text(split, with_classes=len(numbers) > 1) for split in self.splits]
        return "; ".join(texts)


def _aligned(rows: list[tuple[str, str]], width: int) -> list[str]:
    """Lines with the labels in a column; a repeated label is printed once."""
    lines: list[str] = []
    before = ""
    for label, text in rows:
        shown = "" if label == before else label
        before = label
        broken = textwrap.wrap(
            _two_for_wide(text),
            width,
            initial_indent=f"{shown:{_LABEL}} ",
            subsequent_indent=" " * (_LABEL + 1),
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines += [line.replace(_FILLER, "") for line in broken]
    return lines


def _cells(text: str) -> int:
    """Number of terminal columns that a text takes."""
    return len(_two_for_wide(text))


def _two_for_wide(text: str) -> str:
    """The text with a filler after every letter that is two columns wide, such as Chinese, Japanese
    and Korean letters."""
    if text.isascii():
        return text
    wide = ("W", "F")
    return "".join(
        letter + _FILLER if unicodedata.east_asian_width(letter) in wide else letter
        for letter in text
    )


def _folder_text(use: FolderUse, name: int, number: int) -> str:
    """`unlabeled  30  left out (outside train, val and test)`, padded to these widths."""
    reason = f" ({use.reason})" if use.reason else ""
    padding = " " * (name - _cells(use.folder))
    return f"{use.folder}{padding}  {use.images:>{number},}  {use.became}{reason}"


def _split_text(split: SplitUse, with_classes: bool) -> str:
    """`val 9 of 3 classes (carved from train by seed 0)`."""
    text = f"{split.name} {split.images:,}"
    if split.classes and with_classes:
        text += f" of {split.classes:,} classes"
    if split.origin:
        text += f" ({split.origin})"
    return text


def _size(size: tuple[int, int]) -> str:
    """`640x480`."""
    width, height = size
    return f"{width}x{height}"
