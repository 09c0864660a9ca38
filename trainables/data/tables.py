"""Label files: csv with the columns filename, label and id, which only episodes need."""

import csv
from dataclasses import dataclass
from pathlib import Path

from trainables.errors import UserError

LABEL_COLUMNS = ("filename", "label")


@dataclass(frozen=True)
class Row:
    """One line of a label file."""

    filename: str
    label: str | None
    """Name of the class; None for an empty cell."""
    line: int
    """Number of the line in the file, for messages."""
    id: str = ""


def read_table(path: Path) -> list[Row]:
    """Reads a UTF-8 csv whose label is a class name.

    Raises:
        UserError: not a readable csv, a column is missing, or a line has no file name.
    """
    try:
        rows = _read_rows(path)
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
    for row in rows:
        if not row.filename:
            raise UserError(
                f"{path} line {row.line} has no file name; every line needs filename and label"
            )
    return rows


def _read_rows(path: Path) -> list[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        columns = [column.strip() for column in reader.fieldnames or ()]
        reader.fieldnames = columns
        _check_columns(path, columns)

        rows: list[Row] = []
        for line in reader:
            row = Row(
                filename=_word(line["filename"]),
                label=_word(line["label"]) or None,
                line=reader.line_num,
                id=_word(line.get("id")),
            )
            rows.append(row)
    return rows


def _check_columns(path: Path, columns: list[str]) -> None:
    missing = [column for column in LABEL_COLUMNS if column not in columns]
    if missing:
        found = ", ".join(columns) or "none"
        raise UserError(
            f"{path} lacks the columns {', '.join(missing)} (found: {found}); "
            "its first line must be id,filename,label"
        )


def read_ids(path: Path) -> dict[str, str]:
    """Reads id -> file name from a label file.

    Raises:
        UserError: as `read_table`, or an id is missing or occurs twice.
    """
    names: dict[str, str] = {}
    for row in read_table(path):
        if not row.id or row.id in names:
            raise UserError(
                f"{path} line {row.line}: id {row.id!r} is missing or there twice; "
                "episodes need an id for every image"
            )
        names[row.id] = row.filename
    return names


def _word(cell: str | None) -> str:
    return (cell or "").strip()
