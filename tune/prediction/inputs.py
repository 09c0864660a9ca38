"""Input images of a command: a folder, or a csv that names them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainables.data.file_finder import FileFinder, leading_folders
from trainables.data.formats import USUAL_ENDINGS
from trainables.data.listing import find_images, part_of, shortened
from trainables.data.mask_names import find_masks
from trainables.data.split_names import Look, split_of
from trainables.data.tables import Columns, read_lines
from trainables.errors import UserError

FILENAME, LABEL = "filename", "label"
"""Column names of a csv that this command creates."""


@dataclass(frozen=True)
class Table:
    """A csv as given: all columns and lines, in order."""

    path: Path
    columns: Columns
    rows: tuple[dict[str, str], ...]

    def cells(self, column: str) -> list[str]:
        """Return the stripped cells of a column; "" if there is no such column."""
        return [row.get(column, "").strip() for row in self.rows]


@dataclass(frozen=True)
class Images:
    """Images to predict for."""

    names: tuple[str, ...]
    """Name of each image in the output: that of the csv, or the path below the folder."""
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    """Notes for the user about images that are not included, one sentence each."""


def images_of_folder(folder: Path, names: Sequence[str] | None = None) -> Images:
    """Return the images of a folder and its subfolders, sorted by path.

    Args:
        names: the images to return; default: all except masks.
    Raises:
        UserError: the folder does not exist or has no images.
    """
    if not folder.exists():
        raise UserError(f"{folder} does not exist; give a folder of images, or a list of them")
    found = find_images(folder) if names is None else list(names)
    if not found:
        raise UserError(f"{folder} contains no images ({USUAL_ENDINGS} ...); give another folder")
    masked = find_masks(found) if names is None else None
    notes: tuple[str, ...] = ()
    if masked is not None:
        found = list(masked.images)
        notes = (str(masked),)
    return Images(tuple(found), tuple(folder / name for name in found), notes)


def read_table(path: Path, names_files: bool = True) -> Table:
    """Read a csv, in any dialect supported for label files.

    Args:
        names_files: the csv must have a column of file names.
    Raises:
        UserError: the csv cannot be read, lacks that column, or has no lines.
    """
    columns, lines = read_lines(path)
    rows = tuple(_cells(columns.names, line.cells) for line in lines if any(line.cells))

    if names_files and not columns.file:
        found = ", ".join(columns.names) or "none"
        raise UserError(
            f"{path} has no column {FILENAME} (found: {found}); "
            "its first line must be id,filename,label"
        )
    if not rows:
        raise UserError(f"{path} names no images: it has no line below its header")
    return Table(path, columns, rows)


def _cells(columns: Sequence[str], line: Sequence[str]) -> dict[str, str]:
    missing = len(columns) - len(line)
    filled = [*line, *[""] * missing]
    return dict(zip(columns, filled, strict=False))


def images_of_table(table: Table) -> Images:
    """Return the images that a csv names, in its order. They are searched as in the csv layout: in
    the folder of the csv's split (`test/` for test.csv), in `images/`, beside the csv.

    Raises:
        UserError: a line names no file, or files are missing.
    """
    names = table.cells(table.columns.file)
    if "" in names:
        line = names.index("") + 2
        raise UserError(f"{table.path} line {line} has no file name; every line needs one")

    root = table.path.parent
    found = find_images(root)
    finder = FileFinder(found)
    folders = _image_folders(table.path, found)
    leading = leading_folders(names, part_of(table.path.stem) or "")
    files: list[Path] = []
    missing: list[str] = []
    for name in names:
        file = finder.find(name, folders, leading)
        if file is None:
            missing.append(name)
        else:
            files.append(root / file)
    if missing:
        tried = ", ".join(folder or "beside it" for folder in folders)
        raise UserError(
            f"{table.path} names {len(missing):,} files that are not there ({shortened(missing)}); "
            f"looked in {tried}"
        )
    return Images(tuple(names), tuple(files))


def _image_folders(table: Path, images: Sequence[str]) -> list[str]:
    """Return the folders that may contain a csv's files, relative to the csv, in the order of the
    search."""
    look = split_of(table.stem)
    part = None if look is None else look.part
    tops = sorted({image.split("/")[0] for image in images if "/" in image})
    looks = {name: split_of(name) for name in tops}
    named = [name for name, look in looks.items() if look is not None]
    own = [name for name in named if _is_part(looks[name], part)]
    others = [name for name in named if name not in own]
    inside = [f"images/{name}" for name in (part, *own) if name is not None]
    return list(dict.fromkeys([*own, "images", *inside, "", *others]))


def _is_part(look: Look | None, part: str | None) -> bool:
    return look is not None and look.part == part
