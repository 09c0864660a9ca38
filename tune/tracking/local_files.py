"""Destinations that are folders of the study: append-only files, and how many bytes of the event
log they cover.

    <folder>/.state.json    {"study", "offset", "lengths": {file: bytes}}

The state is written after everything that it covers is on disk. After a kill, anything beyond it is
overwritten with the same bytes, because the log is the same.
"""

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from trainables.files import remove_partials, write_atomically
from tune.command_line import command
from tune.object_store import s3
from tune.tracking.destination import Opening
from tune.tracking.projection import Changes, ProjectedRun
from tune.tracking.saved_state import read_state

__all__ = ["AppendedFiles", "LocalConnection", "LocalPlace"]

STATE = ".state.json"
_UPLOAD_S = 30.0
"""Maximum time for an upload without a sign of life."""


class LocalPlace:
    """A folder inside the study's folder; a `Destination` except for `connect`."""

    name: str
    title: str
    logarithms = False

    def folder(self, study_dir: Path) -> Path:
        """Return the folder of a study's files."""
        return study_dir / self.name

    def where(self, study_dir: Path) -> str:
        """Return the folder, or its address in an object store."""
        folder = self.folder(study_dir)
        return s3.address(folder) or str(folder)

    def remedy(self, study_dir: Path) -> str:
        """Return what the user can do if nothing can be written."""
        again = command("report", "sync", study_dir.name, storage=study_dir.parent)
        return f"fix that, and run `{again}`"

    def mend(self, error: Exception) -> str | None:
        """Do nothing: the next start rewrites incomplete files."""
        return None


class LocalConnection:
    """An open study in such a folder, which cannot lose runs or be swapped. A `Connection` except
    for `apply` and `remember`."""

    offset: int

    def __init__(self, opening: Opening, folder: Path):
        self.opening = opening
        self.folder = folder

    def lacks(self, runs: Collection[str]) -> bool:
        """Return False: no runs can be missing."""
        return False

    def check(self) -> None:
        """Do nothing: there is nothing to check."""

    def recall(self, run: ProjectedRun, changes: Changes) -> None:
        """Do nothing: the content of the files is not needed."""

    def close(self) -> None:
        """Upload the files, if the study lives in an object store.

        Raises:
            UserError: the store does not accept them.
        """
        self.opening.beat(_UPLOAD_S)
        s3.copy(self.folder)
        self.opening.beat(0)


class AppendedFiles:
    """The append-only files of one study, in a folder that is created if it is missing.

    Args:
        opening: identifies study and log. Files that belong to another study, do not fit the log,
            or are shorter than their state says are rewritten.

    Attributes:
        offset: number of bytes of the event log that the files cover.
    """

    def __init__(self, folder: Path, opening: Opening):
        self.folder = folder
        self._study_id = opening.study_id
        self._lengths: dict[str, int] = {}
        self._pending: dict[str, list[bytes]] = {}
        self.offset = 0

        folder.mkdir(parents=True, exist_ok=True)
        remove_partials(folder)
        state = read_state(folder / STATE)
        lengths = state.get("lengths")
        is_ours = state.get("study") == opening.study_id and opening.fits(state.get("offset"))
        if is_ours and isinstance(lengths, dict) and self._are_whole(lengths):
            self.offset = state["offset"]
            self._lengths = lengths

    def append(self, name: str, content: bytes) -> None:
        """Queue content to be appended to a file at the next `commit`.

        Args:
            name: path inside the folder, with forward slashes.
        """
        self._pending.setdefault(name, []).append(content)

    def has(self, name: str) -> bool:
        """True if a file has content, or will have some at the next `commit`."""
        return name in self._lengths or name in self._pending

    def commit(self, offset: int) -> None:
        """Write everything queued, and record that the files cover the log up to byte `offset`.

        Raises:
            OSError: the folder is not writable; open it again to retry.
        """
        lengths = dict(self._lengths)
        for name, contents in self._pending.items():
            content = b"".join(contents)
            start = lengths.get(name, 0)
            _append(self.folder / name, start, content)
            lengths[name] = start + len(content)
        self._lengths = lengths
        self._pending = {}
        state = {"study": self._study_id, "offset": offset, "lengths": self._lengths}
        write_atomically(self.folder / STATE, json.dumps(state))
        self.offset = offset

    def _are_whole(self, lengths: dict[str, Any]) -> bool:
        """True if no file is missing or shorter than recorded."""
        for name, length in lengths.items():
            path = self.folder / name
            if not isinstance(length, int) or not path.is_file() or path.stat().st_size < length:
                return False
        return True


def _append(path: Path, start: int, content: bytes) -> None:
    """Write to a file at byte `start`, after truncating it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    with os.fdopen(handle, "r+b") as file:
        file.truncate(start)
        file.seek(start)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
