"""The files that a kill or a power cut leaves, computed from the changes before it.

A kill loses no files: the next process finds what was written, though it is only in memory.

A power cut loses what was written but not synced. This disk behaves like ext4 and XFS: names (files
made, renamed, removed) reach the disk in order, and every sync brings all earlier ones along. The
content of a file reaches the disk when that file is synced.

    names     all that was not synced is lost, names too
    data      names reached the disk, unsynced content did not: a file that was renamed into place
              is empty
    zeros     names and lengths reached the disk, unsynced content did not: it is zeros
"""

import itertools
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from tests.crash.operations import Change

LOSSES = ("names", "data", "zeros")

Names = dict[str, int | None]
"""Path -> number of the file, or None for a folder."""
Files = dict[str, bytes | None]
"""Path -> content, or None for a folder."""


class Disk:
    """Files and folders, as they are in memory and as they are on the disk."""

    def __init__(self, root: Path):
        self._root = str(root)
        self._numbers = itertools.count()
        self._names: Names = {self._root: None}
        self._content: dict[int, bytearray] = {}
        self._frozen: dict[int, bytes] = {}
        self._synced_names: Names = dict(self._names)
        self._synced: dict[int, bytes] = {}

    def apply(self, change: Change) -> None:
        """Apply one change."""
        getattr(self, f"_{change.kind}")(change)

    def apply_all(self, changes: Iterable[Change]) -> "Disk":
        """Apply these changes, and return the disk."""
        for change in changes:
            self.apply(change)
        return self

    def left(self, loss: str | None = None) -> Files:
        """Everything that is left now, parents first.

        Args:
            loss: kind of power cut; None: only the process ends, and nothing is lost.
        """
        names = self._synced_names if loss == "names" else self._names
        return {
            path: None if number is None else self._content_left(number, loss)
            for path, number in sorted(names.items())
        }

    def torn(self, change: Change) -> Files:
        """Everything that is left if the process ends in the middle of a write."""
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
        """The content of a file. It is the same object until it changes, so Python computes its
        hash only once."""
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
        """The content of a file, to be changed."""
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
    """Replace everything below a folder by these files.

    Args:
        files: include the folder itself.
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
