"""Names of the files in a trial's folder, the cache directory, and the one atomic write.

Commands that only look import this module: it must not import torch.
"""

import contextlib
import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from trainables.errors import UserError

LAST = "last.pt"
"""In a trial's folder: the checkpoint from which it resumes."""
BEST = "best.pt"
"""In a trial's folder: the exported weights of its best epoch."""
ARCHITECTURE = "architecture.txt"
"""In a trial's folder: every layer of its network."""
HISTORY = ".history.json"
"""In the folder of a trial whose code is a function: what it has reported so far. The dot keeps it
apart from what the function writes there."""
FIRST_EPOCH = ".script.json"
"""In the folder of a trial whose code is a script: the number of its first epoch."""
CLASS_RESULTS = "classes.csv"
"""In a completed trial's folder: results by class on the validation split, at its best epoch
(`trainables/class_metrics.py`)."""
PARTIAL = ".partial"
"""Suffix of a file that is still being written."""

_LEFTOVERS = (f"*{PARTIAL}", "*.tmp")  # .tmp: an earlier suffix of unfinished exports


def default_cache_dir() -> Path:
    """$VISTUNE_CACHE, or ~/.cache/vistune."""
    return Path(os.environ.get("VISTUNE_CACHE") or "~/.cache/vistune").expanduser()


def content_hash(path: Path) -> str:
    """SHA-256 of a file, hexadecimal.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(
            f"backbone file {path} cannot be read: {error.strerror}; give another"
        ) from None


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` when the block ends without an error.

    After a kill or a power cut `path` holds the old content or the new one, never a part. The
    content is first written to `<name>.<random>.partial` beside it: processes that write the same
    path at once do not meet. The writer holds a lock on that file, so that `remove_partials` can
    tell a leftover from one in use.
    """
    file, partial = _open_partial(path)
    with file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            partial.replace(path)
        except BaseException as error:
            if isinstance(error, OSError) and error.filename is None:
                error.filename = str(path)  # a write through a handle does not say where
            partial.unlink(missing_ok=True)
            raise
    _sync_folder(path.parent)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write text (as UTF-8) or bytes to `path` by `atomic_file`."""
    data = content.encode() if isinstance(content, str) else content
    with atomic_file(path) as file:
        file.write(data)


def remove_partials(folder: Path) -> None:
    """Remove what killed processes were writing in `folder`; files in use stay."""
    for pattern in _LEFTOVERS:
        for path in folder.glob(pattern):
            # Another process may have finished or removed it in the meantime.
            with contextlib.suppress(FileNotFoundError, IsADirectoryError, PermissionError):
                _remove_if_unlocked(path)


def _open_partial(path: Path) -> tuple[BinaryIO, Path]:
    """Create and lock a new file beside `path`."""
    while True:
        partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL}")
        file = partial.open("xb")
        locked = _try_lock(file)

        # `remove_partials` of another process may have come between the two lines above.
        if locked and os.fstat(file.fileno()).st_nlink:
            return file, partial
        file.close()


def _remove_if_unlocked(path: Path) -> None:
    with path.open("r+b") as file:
        if _try_lock(file):
            path.unlink()


def _try_lock(file: BinaryIO) -> bool:
    """Take the lock of an open file; False if another process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    """Bring a folder's list of names to the disk, so that a rename outlives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
