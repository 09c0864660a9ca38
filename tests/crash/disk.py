"""The files that a kill and a power cut leave, by the record of the changes before it.

A process that is killed takes no file along: what was written in memory is there for the next one.

A file system keeps what was written in memory until it is synced. This one is as ext4 and XFS are:
names (files made, renamed, removed) reach the disk in their order, and every sync brings all
earlier ones along; the content of a file reaches it by a sync of that file.

    names     all that was not synced is lost, names too
    data      names came through, content was not synced: a file that was renamed into place is
              empty
    zeros     names and lengths came through, content was not synced: zeros stand in its place
"""

import itertools
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from tests.crash.operations import Change

LOSSES = ("names", "data", "zeros")

Names = dict[str, int | None]
"""Path -> number of the file; None for a folder."""
Files = dict[str, bytes | None]
"""Path -> content; None for a folder."""


class Disk:
    """Files and folders, those in memory beside those on the disk."""

    def __init__(self, root: Path):
        self._root = str(root)
        self._numbers = itertools.count()
        self._names: Names = {self._root: None}
        self._content: dict[int, bytearray] = {}
        self._frozen: dict[int, bytes] = {}
        self._synced_names: Names = dict(self._names)
        self._synced: dict[int, bytes] = {}

    def apply(self, change: Change) -> None:
        """Make one change."""
        getattr(self, f"_{change.kind}")(change)

    def apply_all(self, changes: Iterable[Change]) -> "Disk":
        """Make these changes, and return the disk."""
        for change in changes:
            self.apply(change)
        return self

    def left(self, loss: str | None = None) -> Files:
        """Everything that is left now, parents first.

        Args:
            loss: of a power cut; None: the process ends, and the machine keeps all.
        """
        names = self._synced_names if loss == "names" else self._names
        return {
            path: None if number is None else self._content_left(number, loss)
            for path, number in sorted(names.items())
        }

    def torn(self, change: Change) -> Files:
        """Everything that is left where the process ends in the middle of a write."""
        files = self.left()
        half = change.content[: len(change.content) // 2]
        files[change.path] = _overwritten(self._file(change.path)[:], change.offset, half)
        return files

    def _content_left(self, number: int, loss: str | None) -> bytes:
        if loss is None:
            return self._freeze(number)
        left = self._synced.get(number, b"")
        if loss != "zeros":
            return left
        return left + bytes(max(0, len(self._content[number]) - len(left)))

    def _freeze(self, number: int) -> bytes:
        """The content of a file, which is the same object until it changes: Python computes its
        hash once."""
        if number not in self._frozen:
            self._frozen[number] = bytes(self._content[number])
        return self._frozen[number]

    # -- one method for each kind of change

    def _create(self, change: Change) -> None:
        number = next(self._numbers)
        self._names[change.path] = number
        self._content[number] = bytearray()

    def _write(self, change: Change) -> None:
        _overwrite(self._changing(change.path), change.offset, change.content)

    def _truncate(self, change: Change) -> None:
        content = self._changing(change.path)
        del content[change.offset :]
        content.extend(bytes(change.offset - len(content)))

    def _sync(self, change: Change) -> None:
        self._synced_names = dict(self._names)
        number = self._names[change.path]
        if number is not None:
            self._synced[number] = self._freeze(number)

    def _rename(self, change: Change) -> None:
        inside = [name for name in self._names if name.startswith(change.path + os.sep)]
        for name in [change.path, *inside]:
            self._names[change.other + name.removeprefix(change.path)] = self._names.pop(name)

    def _link(self, change: Change) -> None:
        self._names[change.other] = self._names[change.path]

    def _unlink(self, change: Change) -> None:
        del self._names[change.path]

    def _mkdir(self, change: Change) -> None:
        self._names[change.path] = None

    def _rmdir(self, change: Change) -> None:
        del self._names[change.path]

    def _changing(self, path: str) -> bytearray:
        """The content of a file that is about to change."""
        number = self._number(path)
        self._frozen.pop(number, None)
        return self._content[number]

    def _file(self, path: str) -> bytearray:
        return self._content[self._number(path)]

    def _number(self, path: str) -> int:
        number = self._names[path]
        assert number is not None, f"{path} is a folder"
        return number


def restore(root: Path, files: Files) -> None:
    """Make the files below a folder these.

    Args:
        files: with the folder itself.
    """
    for found in root.iterdir():
        shutil.rmtree(found) if found.is_dir() else found.unlink()

    for path, content in files.items():
        if content is None:
            Path(path).mkdir(exist_ok=True)
        else:
            Path(path).write_bytes(content)


def read_files(root: Path) -> Files:
    """The files below a folder, and the folder itself, parents first."""
    paths = [root, *root.rglob("*")]
    return {str(path): None if path.is_dir() else path.read_bytes() for path in sorted(paths)}


def _overwritten(content: bytearray, offset: int, written: bytes) -> bytes:
    _overwrite(content, offset, written)
    return bytes(content)


def _overwrite(content: bytearray, offset: int, written: bytes) -> None:
    gap = offset - len(content)
    if gap > 0:
        content.extend(bytes(gap))
    content[offset : offset + len(written)] = written
