"""The csv layout: label files beside folders of images.

train.csv [val.csv] [test.csv]    columns filename, label
train/ val/ test/, images/ or .   the files that they name
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainables.data.file_finder import FileFinder, leading_folders
from trainables.data.listing import Entry, shortened
from trainables.data.scan import label_files_in
from trainables.data.split_names import (
    HIDDEN,
    firm_looks,
    part_of,
    parts_of_looks,
    split_of,
)
from trainables.data.tables import LABEL_COLUMNS, Row, Table, columns_of, is_of_episodes, open_table
from trainables.errors import UserError


@dataclass(frozen=True)
class Labelled:
    """Images that label files name."""

    entries: tuple[Entry, ...]
    hidden: tuple[str, ...]
    """Images of a test set without labels, in line order."""
    outside: tuple[str, ...]
    """Images outside the folders that the label files use."""


def label_tables(root: Path) -> dict[str, Path]:
    """Label files of a folder: {"train": root/train.csv, ...}."""
    tables: dict[str, Path] = {}
    for path in label_files_in(root):
        part = part_of(path.stem)
        if part is not None and path.suffix == ".csv":
            tables[part] = path
    return tables


def other_tables(root: Path) -> dict[str, Path]:
    """Label files of a folder with other names, such as train_labels.csv with test.tsv.

    {"": path} is a single file that lists the images of all parts.
    """
    candidates: dict[str, Path] = {}
    for path in label_files_in(root):
        columns = columns_of(path)
        if columns.file and not is_of_episodes(columns.names):
            candidates[path.stem] = path

    parts = parts_of_looks(firm_looks(candidates))
    tables: dict[str, Path] = {}
    for stem, part in parts.items():
        tables.setdefault(part, candidates[stem])
    if "train" in tables and columns_of(tables["train"]).label:
        return tables

    labelled = [path for path in candidates.values() if columns_of(path).label]
    if len(labelled) == 1 and split_of(labelled[0].stem) is None:
        return {"": labelled[0]}
    return {}


def tables_without_labels(root: Path) -> list[str]:
    """Describe each label file of a folder that has a column of image names but no column of
    labels."""
    found: list[str] = []
    for path in label_files_in(root):
        columns = columns_of(path)
        if columns.file and not columns.label and not is_of_episodes(columns.names):
            names = shortened(columns.names, 5)
            found.append(f"{path.name} has no column label (found: {names})")
    return found


def read_label_tables(
    root: Path,
    tables: Mapping[str, Path],  # from `label_tables` or `other_tables`
    files: Sequence[str],  # all images, relative to the root
    *,
    need_labels: bool,
) -> Labelled:
    """Read the images of all tables. An image without a line, in a folder that the tables use, is
    an unlabeled training image. A test table without any labels is a hidden test set.

    Raises:
        UserError: there is no train.csv, a csv is unreadable, the file of a line is missing, lines
            contradict each other, or, with `need_labels`, images have no line.
    """
    if "train" not in tables and "" not in tables:
        other = next(iter(tables.values()))
        columns = ", ".join(LABEL_COLUMNS)
        raise UserError(f"{other} has no train.csv beside it; add train.csv with columns {columns}")

    finder = FileFinder(files)
    listed: dict[str, Entry] = {}
    hidden: list[str] = []
    opened = {part: open_table(path, need_labels=part != "test") for part, path in tables.items()}
    labels = any(table.labelled for table in opened.values())
    for part, table in opened.items():
        read_as = part
        if part == "test" and labels and not table.labelled:
            read_as = HIDDEN
        found = _read_entries(root, table, part, read_as, files, finder, listed)
        if read_as == HIDDEN:
            hidden += found

    used_folders = {_folder(path) for path in listed}
    beside = [file for file in files if _folder(file) in used_folders]
    unlisted = [file for file in beside if file not in listed]
    if unlisted and need_labels:
        raise UserError(
            f"{len(unlisted):,} images in {root} have no line in a csv ({shortened(unlisted)}); "
            "add their labels or move them away"
        )
    known = {*listed, *unlisted}
    outside = tuple(file for file in files if file not in known)
    unlabeled = [Entry(file, "train") for file in unlisted]
    return Labelled((*listed.values(), *unlabeled), tuple(hidden), outside)


def _image_folders(part: str, files: Sequence[str]) -> list[str]:
    """Folders in which the files of a part are searched for, in this order."""
    top_folders = sorted({file.split("/")[0] for file in files if "/" in file})
    own = [name for name in top_folders if part_of(name) == part]
    own += [name for name in top_folders if name not in own and _looks_like(name, part)]
    inside_images = [f"images/{name}" for name in (part, *own)]
    return [*own, "images", *inside_images, ""]


def _looks_like(name: str, part: str) -> bool:
    look = split_of(name)
    return look is not None and look.part == part


def _read_entries(
    root: Path,
    table: Table,
    part: str,
    read_as: str,  # part of the entries: `part` or HIDDEN
    files: Sequence[str],
    finder: FileFinder,
    listed: dict[str, Entry],  # by path; the entries of this table are added
) -> list[str]:  # paths in the order of the lines
    """Add the entries of a table to `listed`."""
    path = table.path
    folders = _image_folders(part, files)
    if not part:
        tops = {file.split("/")[0] for file in files if "/" in file}
        folders += sorted(tops.difference(folders))
    leading = leading_folders((row.filename for row in table.rows), part)

    missing: list[str] = []
    found: list[str] = []
    for row in table.rows:
        file = finder.find(row.filename, folders, leading)
        if file is None:
            missing.append(row.filename)
            continue
        entry = Entry(file, read_as or _part_of_row(path, row), row.label)
        other = listed.setdefault(file, entry)
        if other != entry:
            raise UserError(
                f"{path} line {row.line}: {file} is listed as {entry.part}/{row.label} and "
                f"{other.part}/{other.label}; keep one of them"
            )
        found.append(file)
    if missing:
        are = "file that is" if len(missing) == 1 else "files that are"
        where = f"{part}/ or images/" if part else "images/"
        raise UserError(
            f"{path} names {len(missing):,} {are} not in {root} ({shortened(missing)}); "
            f"put them into {where}, or remove their lines"
        )
    return found


def _part_of_row(path: Path, row: Row) -> str:
    """The part named in the column `split` of a single label file; train if it is empty."""
    if not row.split:
        return "train"
    look = split_of(row.split)
    if look is None:
        raise UserError(
            f"{path} line {row.line}: split {row.split!r} must be train, val or test; "
            "correct it or remove the column"
        )
    return parts_of_looks({row.split: look})[row.split]


def _folder(file: str) -> str:
    return file.rpartition("/")[0]
