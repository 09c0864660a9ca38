"""Label files: csv with columns filename, label and id, which only episodes need."""

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
    line: int
    id: str = ""


def read_table(path: Path) -> list[Row]:
    """Rows of a UTF-8 csv whose label is a class name; an empty label is None.

    Raises:
        UserError: not a readable csv, a column is missing, or a line has no file name.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = [column.strip() for column in reader.fieldnames or ()]
            reader.fieldnames = columns
            missing = [column for column in LABEL_COLUMNS if column not in columns]
            if missing:
                found = ", ".join(columns) or "none"
                raise UserError(
                    f"{path} lacks the columns {', '.join(missing)} (found: {found}); its first line must be id,filename,label"
                )
            rows = [
                Row(
                    _word(line["filename"]),
                    _word(line["label"]) or None,
                    reader.line_num,
                    _word(line.get("id")),
                )
                for line in reader
            ]
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); make it a file that you may read, or move it away"
        ) from None
    except (UnicodeError, csv.Error) as error:
        raise UserError(
            f"{path} cannot be read as csv ({' '.join(str(error).split())}); save it as UTF-8 text, comma-separated"
        ) from None
    for row in rows:
        if not row.filename:
            raise UserError(
                f"{path} line {row.line} has no file name; every line needs filename and label"
            )
    return rows


def read_ids(path: Path) -> dict[str, str]:
    """Id -> file name of a label file.

    Raises:
        UserError: as `read_table`, or an id is missing or occurs twice.
    """
    names: dict[str, str] = {}
    for row in read_table(path):
        if not row.id or row.id in names:
            raise UserError(
                f"{path} line {row.line}: id {row.id!r} is missing or there twice; episodes need an id for every image"
            )
        names[row.id] = row.filename
    return names


def _word(cell: str | None) -> str:
    return (cell or "").strip()
