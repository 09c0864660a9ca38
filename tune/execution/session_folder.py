"""The folder that Ray creates at every start on this machine, for logs, sockets and what Tune
writes about each trial. Ray leaves it behind: at least 2 MB, and 30 kB more for each trial.

The folder of a run that ended in order is removed. If something went wrong, or if the run was
killed, it stays for a day, because it contains the logs of the processes. A lock on a file in the
folder shows that it is ours and whether it is in use. Folders of other programs are never touched.
"""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

_MARK = "vistune.lock"
_KEPT_S = 24 * 3600.0
"""The logs of a run that did not end in order stay this long."""
_PATIENCE_S = 3.0
"""Ray's last processes end this soon after Ray was stopped."""


class SessionFolder:
    """The folder of a Ray that this process has started.

    Args:
        path: path of the folder.

    Attributes:
        is_wanted: somebody may want to read the logs, so the folder stays when Ray has been
            stopped.
    """

    def __init__(self, path: Path):
        self.path = path
        self.is_wanted = bool(os.environ.get("RAY_TMPDIR"))  # whoever sets it wants to look
        self._lock = _locked(path / _MARK)

    def remove(self) -> None:
        """Remove the folder once Ray has been stopped, unless processes still use it."""
        lock, self._lock = self._lock, None
        if lock is None:
            return
        with contextlib.closing(lock):
            if not self.is_wanted and _is_unused(self.path):
                _remove(self.path)


def remove_old(root: Path) -> None:
    """Remove folders of our runs that ended, or were killed, at least a day ago.

    Args:
        root: folder that contains them.
    """
    before = time.time() - _KEPT_S
    for mark in root.glob(f"session_*/{_MARK}"):
        with contextlib.suppress(OSError):  # another process removes it, or it is another user's
            if mark.stat().st_mtime > before:
                continue
            lock = _locked(mark)
            if lock is None:
                continue
            with contextlib.closing(lock):
                _remove(mark.parent)


class _Lock:
    """An open file that this process has locked."""

    def __init__(self, file: int):
        self._file = file

    def close(self) -> None:
        """Release the lock."""
        os.close(self._file)


def _locked(path: Path) -> _Lock | None:
    """Lock a file, and create it if needed; None if another process has the lock, or it cannot be
    created."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        return None
    return _Lock(file)


def _remove(folder: Path) -> None:
    latest = folder.parent / "session_latest"
    with contextlib.suppress(OSError):  # there is none
        if latest.readlink() == folder:
            latest.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def _is_unused(folder: Path) -> bool:
    """Wait a little for processes with the folder's name in their command line; False if some do
    not end."""
    deadline = time.monotonic() + _PATIENCE_S
    while any(_processes_of(folder)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _processes_of(folder: Path) -> Iterator[int]:
    name = os.fsencode(folder.name)
    for words in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            if name in words.read_bytes():
                yield int(words.parent.name)
