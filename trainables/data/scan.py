"""The files of a folder: which ones are images, and why others are not."""

import os
from collections import Counter
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from trainables.data.formats import PICTURES_UNREAD, ending_of, is_image
from trainables.data_summary import LeftOut
from trainables.errors import UserError

_SYSTEM_FOLDERS = {
    *("@eadir", "#recycle", "@recycle"),  # thumbnails and recycle bins of network drives
    *("__macosx", "$recycle.bin", "system volume information", "lost+found"),
}
_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r"}
TABLES = (".csv", ".tsv")
"""Extensions of label files."""
_KINDS = 12  # most kinds of other files that are listed; the rarest are counted together


@dataclass(frozen=True)
class Scan:
    """Everything below a folder."""

    images: tuple[str, ...]
    """Sorted paths of the images, relative to the root."""
    left_out: tuple[LeftOut, ...] = ()
    """Everything else, except `tables`."""
    unread: dict[str, str] = field(default_factory=dict)
    """Folder -> extension of pictures in it that Pillow cannot read, if it contains no image."""
    empty: tuple[str, ...] = ()
    """Folders without any files, sorted."""
    tables: tuple[str, ...] = ()
    """Label files beside the images, sorted."""

    def others(self, read: Container[str]) -> tuple[LeftOut, ...]:
        """All files that are not images, including label files.

        Args:
            read: label files that are used, and so are not left out.
        """
        found = list(self.left_out)
        for table in self.tables:
            if table in read:
                continue
            reason = f"ending {ending_of(table)}"
            same = [number for number, out in enumerate(found) if out.reason == reason]
            if same:
                counted = found[same[0]]
                found[same[0]] = replace(counted, files=counted.files + 1)
            else:
                found.append(LeftOut(reason, 1, table))
        return tuple(found)


class _Skipped:
    """Files that are not images, counted by reason."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def add(self, reason: str, example: str, files: int = 1) -> None:
        if not files:
            return
        self.counts[reason] += files
        self.examples.setdefault(reason, example)

    def listed(self) -> tuple[LeftOut, ...]:
        """Kinds of files, most frequent first; if there are many, the rarest are merged."""
        found = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        listed = [LeftOut(reason, files, self.examples[reason]) for reason, files in found]
        if len(listed) <= _KINDS:
            return tuple(listed)

        shown, rare = listed[: _KINDS - 1], listed[_KINDS - 1 :]
        files = sum(left.files for left in rare)
        return (*shown, LeftOut(f"of {len(rare):,} other kinds", files, rare[0].example))


def scan_folder(root: Path, is_read: Callable[[str], bool] = lambda path: False) -> Scan:
    """List all images below `root`.

    Names that begin with a dot are left out, and so are thumbnails and recycle bins of network
    drives and desktops. Symbolic links are followed, each real folder once.

    Args:
        is_read: path -> True if the file is read although it is not an image, such as a class file.
    Raises:
        UserError: a folder is not readable, or a name is not UTF-8.
    """
    images: list[str] = []
    unread: dict[str, str] = {}
    empty: list[str] = []
    skipped = _Skipped()
    visited: set[str] = set()

    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=_refuse_folder):
        real = os.path.realpath(folder)
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)

        relative = os.path.relpath(folder, root)
        prefix = "" if relative == "." else f"{relative}/"
        subfolders[:] = _kept_folders(root, prefix, subfolders, skipped)

        here = [name for name in names if is_image(name)]
        images += [prefix + name for name in here]
        others = sorted(set(names).difference(here))
        _skip_files(prefix, [name for name in others if not is_read(prefix + name)], skipped)

        if not here and not subfolders and prefix:
            if not names:
                empty.append(relative)
            unread |= _unread(relative, others)

    images.sort()
    _check_names(root, images)
    tables = [path.name for path in label_files_in(root)]
    return Scan(tuple(images), skipped.listed(), unread, tuple(sorted(empty)), tuple(tables))


def folders_in(root: Path) -> list[Path]:
    """Folders directly in `root`, sorted, without hidden and system folders.

    Raises:
        UserError: `root` is not readable.
    """
    names = [entry.name for entry in _directly_in(root) if entry.is_dir()]
    return [root / name for name in sorted(names) if not _why_not_entered(name)]


def label_files_in(root: Path) -> list[Path]:
    """Files directly in `root` with the extension of a table, sorted.

    Raises:
        UserError: `root` is not readable.
    """
    names = [entry.name for entry in _directly_in(root)]
    return [root / name for name in sorted(names) if name.lower().endswith(TABLES)]


def _directly_in(root: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(root) as found:
            return list(found)
    except OSError as error:
        _refuse_folder(error)
        raise


def _refuse_folder(error: OSError) -> None:
    raise UserError(
        f"folder {printable(str(error.filename))} cannot be read ({error.strerror}): its images "
        "would be missing without a word; change its permissions, or move it away"
    )


def _kept_folders(
    root: Path, prefix: str, subfolders: Iterable[str], skipped: _Skipped
) -> list[str]:
    kept: list[str] = []
    for name in sorted(subfolders):
        reason = _why_not_entered(name)
        if not reason:
            kept.append(name)
            continue
        files = _count_files(root / prefix / name)
        skipped.add(reason, prefix + name, files)
    return kept


def _why_not_entered(name: str) -> str:
    if name.lower() in _SYSTEM_FOLDERS:
        return f"in {name}"
    if name.startswith("."):
        return "in hidden folders"
    return ""


def _count_files(folder: Path) -> int:
    """Number of files below a folder that is left out, not counting unreadable folders."""
    return sum(len(names) for _, _, names in os.walk(folder))


def _skip_files(prefix: str, names: Iterable[str], skipped: _Skipped) -> None:
    for name in names:
        ending = ending_of(name)
        if name.lower() in _SYSTEM_FILES:
            reason = f"named {name.strip()}"
        elif name.startswith("."):
            reason = "with hidden names"
        elif ending in TABLES and not prefix:
            continue  # a label file, or beside one
        elif ending[1:].isdecimal():
            reason = "ending in a number"  # scanners name slices like this
        elif ending:
            reason = f"ending {ending}"
        else:
            reason = "without ending"
        skipped.add(reason, prefix + name)


def _unread(folder: str, names: Iterable[str]) -> dict[str, str]:
    for name in names:
        ending = ending_of(name)
        if ending in PICTURES_UNREAD:
            return {folder: ending}
    return {}


def _check_names(root: Path, images: Iterable[str]) -> None:
    """Refuse names that are not UTF-8: they cannot be written to logs, records and MLflow."""
    if _is_text("".join(images)):
        return
    wrong = [image for image in images if not _is_text(image)]
    shown = ", ".join(printable(image) for image in wrong[:3])
    raise UserError(
        f"{len(wrong):,} file names in {printable(str(root))} are not UTF-8 ({shown}); rename "
        "them, for example with `convmv -f latin1 -t utf8 -r --notest FOLDER`"
    )


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def printable(name: str) -> str:
    """The name with undecodable bytes written as \\xe9."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
