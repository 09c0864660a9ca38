"""Label files: csv with a column of files and one of labels, and optionally ids, which only
episodes need. Separators are commas, semicolons, tabs and `|`; the usual column names are known."""

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
"""Names of the file column; the first that exists is used."""
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
"""Names of the label column; the first that exists is used."""
SPLIT_COLUMNS = ("split", "subset", "partition", "part", "set", "phase", "usage")
_SEPARATORS = (",", ";", "\t", "|")
_BETWEEN_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@dataclass(frozen=True)
class Line:
    """One line of a csv below its header."""

    number: int
    """Line number, for messages; the header is line 1."""
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One line of a label file."""

    filename: str
    label: str | None
    """Class name; None for an empty cell."""
    line: int
    """Line number in the file, for messages."""
    id: str = ""
    split: str = ""
    """Cell of the column that names a split; empty if there is no such column."""


@dataclass(frozen=True)
class Columns:
    """Columns of a label file by their use; an empty name means that there is none."""

    names: tuple[str, ...]
    """All columns as spelled in the file."""
    file: str = ""
    label: str = ""
    id: str = ""
    split: str = ""
    separator: str = ","

    def described(self) -> str:
        """Describe the columns in use, such as "file from column 'image_id', label from
        'breed'"."""
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
        """True if at least one line has a label."""
        return any(row.label is not None for row in self.rows)


def open_table(path: Path, need_labels: bool = True) -> Table:
    """Read a UTF-8 csv with class names as labels.

    Args:
        need_labels: False also accepts a file without a label column (a hidden test set).
    Raises:
        UserError: it is not a readable csv, a column is missing, or a line has no file name or more
            values than columns.
    """
    columns, lines = read_lines(path)
    _check_columns(path, columns, need_labels)
    rows = [_row(path, columns, line) for line in lines]
    return Table(path, columns, tuple(rows))


def read_lines(path: Path) -> tuple[Columns, list[Line]]:
    """Read a UTF-8 csv with any column names, without empty lines.

    Raises:
        UserError: it is not a readable csv.
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
    """The columns of a csv, from its first line; empty for an unreadable file."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            return _recognized(file.readline())
    except OSError:
        return Columns(())


def is_of_episodes(columns: Sequence[str]) -> bool:
    """True for the columns of few-shot episodes, which name support and query images."""
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
    """The columns in a header line, with the separator that finds the most known columns."""
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
    """The name in lower case: "ImageId", "Image ID" and "image-id" become image_id."""
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
    """Read id -> file name from a label file.

    Raises:
        UserError: as in `open_table`; or an id is missing or occurs twice.
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
