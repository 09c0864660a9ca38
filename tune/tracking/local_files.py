"""A place that is a folder of the study: files that only grow, and the byte of the event log up to
which they have it.

    <folder>/.state.json    {"study", "offset", "lengths": {file: bytes}}

The state is written when everything before it is on disk. What a kill leaves behind it is written
again, over itself: the log says the same, so the bytes are the same.
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
"""An upload may take this long without a sign of life."""


class LocalPlace:
    """A folder inside that of a study; a `Destination` that adds `connect`."""

    name: str
    title: str
    logarithms = False

    def folder(self, study_dir: Path) -> Path:
        """The folder of a study's files."""
        return study_dir / self.name

    def where(self, study_dir: Path) -> str:
        """The folder, or its address in an object store."""
        folder = self.folder(study_dir)
        return s3.address(folder) or str(folder)

    def remedy(self, study_dir: Path) -> str:
        """The action that may help where nothing can be written."""
        again = command("report", "sync", study_dir.name, storage=study_dir.parent)
        return f"fix that, and run `{again}`"

    def mend(self, error: Exception) -> str | None:
        """Files that lack something are written anew by the next start; nothing to do now."""
        return None


class LocalConnection:
    """A study in such a folder: nothing can be missing, or take its place. A `Connection` that adds
    `apply` and `remember`."""

    offset: int

    def __init__(self, opening: Opening, folder: Path):
        self.opening = opening
        self.folder = folder

    def lacks(self, runs: Collection[str]) -> bool:
        """Tell that nothing is missing."""
        return False

    def check(self) -> None:
        """Nothing needs to be checked."""

    def recall(self, run: ProjectedRun, changes: Changes) -> None:
        """Nothing needs to be known of what the files have."""

    def close(self) -> None:
        """Upload the files, if the study lives in an object store.

        Raises:
            UserError: the store does not take them.
        """
        self.opening.beat(_UPLOAD_S)
        s3.copy(self.folder)
        self.opening.beat(0)


class AppendedFiles:
    """The files of one study in a folder, which is made where it is missing.

    Args:
        opening: files of another study, and such as do not fit the log or lack what their state
            says, are written anew.

    Attributes:
        offset: bytes of the event log that the files have.
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
        """Add to a file at the next `commit`.

        Args:
            name: path inside the folder, with forward slashes.
        """
        self._pending.setdefault(name, []).append(content)

    def has(self, name: str) -> bool:
        """Tell if something is in a file, or will be at the next `commit`."""
        return name in self._lengths or name in self._pending

    def commit(self, offset: int) -> None:
        """Write all that was added, and note that the files have the log up to byte `offset`.

        Raises:
            OSError: the folder cannot be written; open it again to try again.
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
        """Tell if no file is missing, or shorter than it was."""
        for name, length in lengths.items():
            path = self.folder / name
            if not isinstance(length, int) or not path.is_file() or path.stat().st_size < length:
                return False
        return True


def _append(path: Path, start: int, content: bytes) -> None:
    """Write to a file from byte `start` on, where it ends then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    with os.fdopen(handle, "r+b") as file:
        file.truncate(start)
        file.seek(start)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
