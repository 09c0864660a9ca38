"""Label files: csv with a column for the file and one for the label, and an id, which only episodes
need. Commas, semicolons, tabs and `|` separate; the usual names of columns are known."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainables.data.formats import EXTENSIONS
from trainables.errors import UserError

LABEL_COLUMNS = ("filename", "label")

FILE_COLUMNS = (
    "filename",
    "file_name",
    "file",
    "filepath",
    "file_path",
    "path",
    "image_path",
    "img_path",
    "imagepath",
    "image_file",
    "image_filename",
    "image_name",
    "img_name",
    "imagename",
    "image",
    "img",
    "image_id",
    "img_id",
    "imageid",
    "picture",
    "photo",
    "name",
    "id",
)
"""Names of the column of file names, in the order in which they are looked for."""
CLASS_COLUMNS = (
    "label",
    "labels",
    "class",
    "class_name",
    "classname",
    "class_label",
    "category",
    "category_name",
    "target",
    "target_name",
    "label_name",
    "y",
    "species",
    "breed",
    "tag",
    "diagnosis",
    "class_id",
    "label_id",
    "category_id",
)
"""Names of the column of labels, in the order in which they are looked for."""
SPLIT_COLUMNS = ("split", "subset", "partition", "part", "set", "phase", "usage")
_SEPARATORS = (",", ";", "\t", "|")
_BETWEEN_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@dataclass(frozen=True)
class Line:
    """One line of a csv below its header."""

    number: int
    """Counts from 1 for the header, for messages."""
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One line of a label file."""

    filename: str
    label: str | None
    """Name of the class; None for an empty cell."""
    line: int
    """Number of the line in the file, for messages."""
    id: str = ""
    split: str = ""
    """Cell of the column that names a split; empty where there is none."""


@dataclass(frozen=True)
class Columns:
    """The columns of a label file by their use; an empty name means that there is none."""

    names: tuple[str, ...]
    """All columns as the file has them."""
    file: str = ""
    label: str = ""
    id: str = ""
    split: str = ""
    separator: str = ","

    def described(self) -> str:
        """The columns that are read: "file from image_id, label from breed, separated by ';'"."""
        text = f"file from column {self.file!r}"
        if self.label:
            text += f", label from {self.label!r}"
        if self.separator != ",":
            text += f", separated by {self.separator!r}"
        return text


@dataclass(frozen=True)
class Table:
    """A label file."""

    path: Path
    columns: Columns
    rows: tuple[Row, ...] = field(default=())

    @property
    def labelled(self) -> bool:
        """True where at least one line has a label."""
        return any(row.label is not None for row in self.rows)


def open_table(path: Path, need_labels: bool = True) -> Table:
    """Reads a UTF-8 csv whose label is a class name.

    Args:
        need_labels: without them (a hidden test set) it is refused.
    Raises:
        UserError: not a readable csv, a column is missing, a line has no file name or more values
            than there are columns.
    """
    columns, lines = read_lines(path)
    _check_columns(path, columns, need_labels)
    rows = [_row(path, columns, line) for line in lines]
    return Table(path, columns, tuple(rows))


def read_lines(path: Path) -> tuple[Columns, list[Line]]:
    """Reads a UTF-8 csv, whatever its columns are called; empty lines are left out.

    Raises:
        UserError: not a readable csv.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _read(file.read())
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); "
            "make it a file that you may read, or move it away"
        ) from None
    except (UnicodeError, csv.Error) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path} cannot be read as csv ({reason}); save it as UTF-8 text, comma-separated"
        ) from None


def columns_of(path: Path) -> Columns:
    """The columns of a csv by its first line; none of a file that cannot be read."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            return _recognized(file.readline())
    except OSError:
        return Columns(())


def is_of_episodes(columns: Sequence[str]) -> bool:
    """Tells the columns of few-shot episodes, which name support and query images."""
    header = ",".join(columns).lower()
    return "support" in header and "query" in header


def _read(text: str) -> tuple[Columns, list[Line]]:
    file = io.StringIO(text, newline="")
    columns = _recognized(file.readline())

    file.seek(0)
    reader = csv.reader(file, delimiter=columns.separator, skipinitialspace=True)
    next(reader, None)
    lines: list[Line] = []
    for cells in reader:
        if cells:
            lines.append(Line(reader.line_num, tuple(cells)))
    return columns, lines


def _row(path: Path, columns: Columns, line: Line) -> Row:
    words = [cell.strip() for cell in line.cells]
    count = len(columns.names)
    if any(words[count:]):
        raise UserError(
            f"{path} line {line.number} has {len(words)} values for {count} columns "
            f"({', '.join(columns.names)}); put quotation marks around a value with "
            f"{columns.separator!r} in it"
        )
    by_name = dict(zip(columns.names, words, strict=False))
    filename = by_name.get(columns.file, "")
    if not filename:
        raise UserError(
            f"{path} line {line.number} has no file name; every line needs filename and label"
        )
    return Row(
        filename=filename,
        label=by_name.get(columns.label) or None,
        line=line.number,
        id=by_name.get(columns.id, ""),
        split=by_name.get(columns.split, ""),
    )


def _recognized(header: str) -> Columns:
    """The columns that a first line names, by the separator that gives the most of them."""
    best = Columns(())
    for separator in _SEPARATORS:
        reader = csv.reader([header], delimiter=separator, skipinitialspace=True)
        names = [name.strip() for name in next(reader, [])]
        found = _by_use(names, separator)
        if not best.names or _known(found) > _known(best):
            best = found
    return best


def _known(columns: Columns) -> int:
    return bool(columns.file) + bool(columns.label)


def _by_use(names: Sequence[str], separator: str) -> Columns:
    plain = {_plain(name): name for name in reversed(names)}
    file = _first(plain, FILE_COLUMNS)
    label = _first({key: name for key, name in plain.items() if name != file}, CLASS_COLUMNS)
    return Columns(
        names=tuple(names),
        file=file,
        label=label,
        id=plain.get("id", ""),
        split=_first(plain, SPLIT_COLUMNS),
        separator=separator,
    )


def _plain(name: str) -> str:
    """The name in small letters: "ImageId", "Image ID" and "image-id" are image_id."""
    apart = _BETWEEN_WORDS.sub("_", name)
    return apart.lower().replace(" ", "_").replace("-", "_")


def _first(columns: dict[str, str], wanted: Sequence[str]) -> str:
    for name in wanted:
        if name in columns:
            return columns[name]
    return ""


def _check_columns(path: Path, columns: Columns, need_labels: bool) -> None:
    missing: list[str] = []
    if not columns.file:
        missing.append("filename")
    if not columns.label and need_labels:
        missing.append("label")
    if not missing:
        return
    found = ", ".join(columns.names) or "none"
    if any(name.lower().endswith(EXTENSIONS) for name in columns.names):
        raise UserError(
            f"{path} begins with an image ({found}), not with the names of its columns; "
            "its first line must be filename,label"
        )
    raise UserError(
        f"{path} lacks the columns {', '.join(missing)} (found: {found}); "
        "its first line must be id,filename,label"
    )


def read_ids(path: Path) -> dict[str, str]:
    """Reads id -> file name from a label file.

    Raises:
        UserError: as `open_table`, or an id is missing or occurs twice.
    """
    names: dict[str, str] = {}
    for row in open_table(path, need_labels=False).rows:
        if not row.id or row.id in names:
            raise UserError(
                f"{path} line {row.line}: id {row.id!r} is missing or there twice; "
                "episodes need an id for every image"
            )
        names[row.id] = row.filename
    return names
