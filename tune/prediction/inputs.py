"""The images that a command is given: a folder, or a csv that names them."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainables.data.images import EXTENSIONS
from trainables.data.listing import find_images, part_of, shortened
from trainables.errors import UserError

FILENAME, LABEL, ID = "filename", "label", "id"
"""Columns of a label file."""


@dataclass(frozen=True)
class Table:
    """A csv as it was given: every column and line, in order."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[dict[str, str], ...]

    def column(self, name: str) -> list[str]:
        """The cells of a column, without blanks around them; "" where there is no such column."""
        return [row.get(name, "").strip() for row in self.rows]


@dataclass(frozen=True)
class Images:
    """Images to predict for."""

    names: tuple[str, ...]
    """The name of each in the answer: that of the csv, or the path below the folder."""
    files: tuple[Path, ...]


def images_of_folder(folder: Path, names: Sequence[str] | None = None) -> Images:
    """The images of a folder and of those in it, sorted by path.

    Args:
        names: those of them that are wanted; default: all.
    Raises:
        UserError: there are none.
    """
    found = find_images(folder) if names is None else list(names)
    if not found:
        raise UserError(f"{folder} holds no images ({' '.join(EXTENSIONS)}); give another folder")
    return Images(tuple(found), tuple(folder / name for name in found))


def read_table(path: Path, needed: Sequence[str] = (FILENAME,)) -> Table:
    """Read a csv with the columns `needed`.

    Raises:
        UserError: it cannot be read, lacks a column or holds no line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            columns, rows = _cells(file)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeError, csv.Error) as error:
        raise UserError(
            f"{path} cannot be read as csv ({error}); save it as UTF-8 text, comma-separated"
        ) from None

    missing = [name for name in needed if name not in columns]
    if missing:
        found = ", ".join(columns) or "none"
        raise UserError(
            f"{path} has no column {', '.join(missing)} (found: {found}); "
            "its first line must be id,filename,label, or name support and query images"
        )
    if not rows:
        raise UserError(f"{path} names no images: it has no line below its header")
    return Table(path, tuple(columns), tuple(rows))


def _cells(lines: Iterator[str]) -> tuple[list[str], list[dict[str, str]]]:
    """Columns, and the cells of every line that is not empty."""
    reader = csv.reader(lines, skipinitialspace=True)
    columns = [name.strip() for name in next(reader, [])]
    rows = []
    for cells in reader:
        if not any(cells):
            continue
        missing = len(columns) - len(cells)
        filled = [*cells, *[""] * missing]
        rows.append(dict(zip(columns, filled, strict=False)))
    return columns, rows


def images_of_table(table: Table) -> Images:
    """The images that a csv names, in its order; looked for as the csv layout does: in the folder
    of its part (`test/` for test.csv), in `images/`, beside the csv.

    Raises:
        UserError: a line names no file, or files are not there.
    """
    names = table.column(FILENAME)
    if "" in names:
        line = names.index("") + 2
        raise UserError(f"{table.path} line {line} has no file name; every line needs one")

    folders = _image_folders(table.path)
    files: list[Path] = []
    missing: list[str] = []
    for name in names:
        file = _find(name, folders)
        if file is None:
            missing.append(name)
        else:
            files.append(file)
    if missing:
        tried = ", ".join(str(folder) for folder in folders)
        raise UserError(
            f"{table.path} names {len(missing):,} files that are not there ({shortened(missing)}); "
            f"looked in {tried}"
        )
    return Images(tuple(names), tuple(files))


def _image_folders(table: Path) -> list[Path]:
    """Folders in which a csv's files may be, in the order in which they are looked through."""
    root = table.parent
    part = part_of(table.stem.split("_")[0]) or part_of(table.stem)
    subfolders = sorted(path for path in root.iterdir() if path.is_dir())
    named = [path for path in subfolders if part_of(path.name) is not None]
    own = [path for path in named if part_of(path.name) == part]
    others = [path for path in named if path not in own]
    images = root / "images"
    inside = [images / path.name for path in own]
    if part is not None:
        inside.append(images / part)

    wanted = [*own, images, *inside, root, *others]
    return [folder for folder in dict.fromkeys(wanted) if folder.is_dir()]


def _find(name: str, folders: Sequence[Path]) -> Path | None:
    for folder in folders:
        file = folder / name
        if file.is_file():
            return file
    return None
