"""The csv layout: label files beside the folders of images.

train.csv [val.csv] [test.csv]    columns filename, label
train/ val/ test/, images/ or .   the files they name
"""

from collections.abc import Sequence
from pathlib import Path

from trainables.data.listing import Entry, part_of, shortened
from trainables.data.tables import LABEL_COLUMNS, read_table
from trainables.errors import UserError


def label_tables(root: Path) -> dict[str, Path]:
    """The label files of a folder: {"train": root/train.csv, ...}."""
    tables: dict[str, Path] = {}
    for path in sorted(root.glob("*.csv")):
        part = part_of(path.stem)
        if part is not None:
            tables[part] = path
    return tables


def read_label_tables(
    root: Path,
    tables: dict[str, Path],  # of `label_tables`
    files: Sequence[str],  # all images, relative to the root
    *,
    need_labels: bool,
) -> tuple[list[Entry], list[str]]:  # entries; notes
    """Images of all tables. An image without a line, in a folder that the tables use, is an
    unlabeled training image.

    Raises:
        UserError: no train.csv, an unreadable csv, a line without its file, contradictory lines,
            or, if `need_labels`, images without a line.
    """
    if "train" not in tables:
        other = next(iter(tables.values()))
        columns = ", ".join(LABEL_COLUMNS)
        raise UserError(f"{other} has no train.csv beside it; add train.csv with columns {columns}")
    known = set(files)
    listed: dict[str, Entry] = {}
    for part, path in tables.items():
        folders = _image_folders(part, files)
        _read_entries(root, path, part, folders, known, listed)

    used_folders = {_folder(path) for path in listed}
    beside = [file for file in files if _folder(file) in used_folders]
    unlisted = [file for file in beside if file not in listed]
    if unlisted and need_labels:
        raise UserError(
            f"{len(unlisted):,} images in {root} have no line in a csv ({shortened(unlisted)}); "
            "add their labels or move them away"
        )
    notes: list[str] = []
    left_out = len(files) - len(listed) - len(unlisted)
    if left_out:
        notes.append(f"{left_out:,} images outside the folders that the csv files use are left out")
    unlabeled = [Entry(file, "train") for file in unlisted]
    return [*listed.values(), *unlabeled], notes


def _image_folders(part: str, files: Sequence[str]) -> list[str]:
    """Folders in which the files of a part are looked up, in this order."""
    top_folders = sorted({file.split("/")[0] for file in files if "/" in file})
    own = [name for name in top_folders if part_of(name) == part]
    inside_images = [f"images/{name}" for name in (part, *own)]
    return [*own, "images", *inside_images, ""]


def _read_entries(
    root: Path,
    path: Path,
    part: str,
    folders: Sequence[str],
    known: set[str],  # all images
    listed: dict[str, Entry],  # by path; the entries of this table are added
) -> None:
    missing: list[str] = []
    for row in read_table(path):
        file = _find(row.filename, folders, known)
        if file is None:
            missing.append(row.filename)
            continue
        entry = Entry(file, part, row.label)
        other = listed.setdefault(file, entry)
        if other != entry:
            raise UserError(
                f"{path} line {row.line}: {file} is listed as {part}/{row.label} and "
                f"{other.part}/{other.label}; keep one of them"
            )
    if missing:
        raise UserError(
            f"{path} names {len(missing):,} files that are not in {root} ({shortened(missing)}); "
            f"put them into {part}/ or images/, or remove their lines"
        )


def _find(filename: str, folders: Sequence[str], known: set[str]) -> str | None:
    for folder in folders:
        path = f"{folder}/{filename}" if folder else filename
        if path in known:
            return path
    return None


def _folder(file: str) -> str:
    return str(Path(file).parent)
