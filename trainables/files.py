"""Names of the files in a trial's folder, the cache directory, and the one atomic write.

Commands that only look import this module: it must not import torch.
"""

import contextlib
import fcntl
import glob
import hashlib
import os
import secrets
import shutil
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
"""Suffix of a file or folder that is still being written: no other name is one."""

_RANDOM_BYTES = 4
_LOCK = ".lock"
_SUFFIXES = (PARTIAL, ".tmp")  # .tmp: an earlier suffix of unfinished exports


def default_cache_dir() -> Path:
    """$VISTUNE_CACHE, or ~/.cache/vistune.

    Raises:
        UserError: whoever runs this has no home, as in some containers.
    """
    cache = os.environ.get("VISTUNE_CACHE") or "~/.cache/vistune"
    try:
        return Path(cache).expanduser()
    except RuntimeError:
        raise UserError(
            f"the cache {cache} is in no home directory: set VISTUNE_CACHE to a folder"
        ) from None


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
def atomic_file(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` when the block ends without an error.

    After a kill or a power cut `path` holds the old content or the new one, never a part. The
    content is first written to `<name>.<random>.partial` beside it: processes that write the same
    path at once do not meet. The writer holds a lock on that file, so that `remove_partials` can
    tell a leftover from one in use.

    Args:
        durable: False saves the two waits for the disk, and a power cut may then leave an empty
            file: for what can be made anew.
    """
    file, partial = _open_partial(path)
    with file:
        try:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException as error:
            if isinstance(error, OSError) and error.filename is None:
                error.filename = str(path)  # a write through a handle does not say where
            partial.unlink(missing_ok=True)
            raise
    if durable:
        _sync_folder(path.parent)


def write_atomically(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Write text (as UTF-8) or bytes to `path` by `atomic_file`."""
    data = content.encode() if isinstance(content, str) else content
    with atomic_file(path, durable=durable) as file:
        file.write(data)


def write_result(path: Path, content: str | bytes) -> None:
    """Write what a command leaves for its user by `write_atomically`, and remove what the same
    command was writing there when it was killed: nobody else looks into such a folder."""
    remove_partials_of(path)
    write_atomically(path, content)


@contextlib.contextmanager
def scratch_folder(final: Path) -> Iterator[Path]:
    """Make a folder within `<name>.<random>.partial` beside `final`, for files that become `final`
    when they are whole; it is removed at the end of the block.

    Leftovers of killed processes that were writing the same `final` are removed first. A lock on
    a file beside the folder, within a partial folder that holds both, tells them from one in use.
    """
    remove_partials_of(final)
    outer, lock = _make_scratch(final)
    try:
        scratch = outer / final.name
        scratch.mkdir()
        yield scratch
    finally:
        _remove_scratch(outer, lock)


def is_partial(name: str) -> bool:
    """True for the name of a file or folder that is still being written, or was when its process
    was killed."""
    return name.endswith(_SUFFIXES)


def remove_partials_of(final: Path) -> None:
    """Remove what killed processes were writing in place of `final`; what is in use stays.

    For a folder that holds files of others, whose names are none of ours to judge.
    """
    _remove_named(final.parent, glob.escape(final.name))


def remove_own_partials(folder: Path) -> None:
    """Remove from `folder` what killed processes were writing by `atomic_file`; what is in use
    stays, and so do partial files that others name otherwise.

    For a folder in which code of a user writes too.
    """
    _remove_named(folder, "*")


def remove_partials(folder: Path) -> None:
    """Remove what killed processes were writing in `folder`; what is in use stays."""
    for suffix in _SUFFIXES:
        for path in folder.glob(f"*{suffix}"):
            _remove_leftover(path)


def _remove_named(folder: Path, name: str) -> None:
    """Remove the leftovers of files whose name matches a pattern."""
    random = "[0-9a-f]" * 2 * _RANDOM_BYTES
    for path in folder.glob(f"{name}.{random}{PARTIAL}"):
        _remove_leftover(path)


def _partial_name(path: Path) -> Path:
    return path.with_name(f"{path.name}.{secrets.token_hex(_RANDOM_BYTES)}{PARTIAL}")


def _open_partial(path: Path) -> tuple[BinaryIO, Path]:
    """Create and lock a new file beside `path`."""
    while True:
        partial = _partial_name(path)
        file = partial.open("xb")
        locked = _lock_new(file.fileno())

        # `remove_partials` of another process may have come between the two lines above.
        if locked and os.fstat(file.fileno()).st_nlink:
            return file, partial
        file.close()


def _make_scratch(final: Path) -> tuple[Path, int]:
    """Create a new folder beside `final`, with a locked file in it; return both."""
    while True:
        folder = _partial_name(final)
        folder.mkdir()
        try:
            lock = _open_lock(folder)
        except FileNotFoundError:
            continue  # another process has taken the folder for a leftover

        if _lock_new(lock) and os.fstat(lock).st_nlink:
            return folder, lock
        os.close(lock)


def _open_lock(folder: Path) -> int:
    # NFS locks nothing but files that are open for writing: no folder.
    return os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)


def _remove_scratch(folder: Path, lock: int) -> None:
    """Remove a folder whose lock this process holds, and give the lock back."""
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)

    # On NFS a removed file that is open keeps a name, and its folder, until it is closed.
    with contextlib.suppress(OSError):
        folder.rmdir()


def _remove_leftover(path: Path) -> None:
    """Remove a partial file or folder, unless it is in use."""
    # Another process may have finished or removed it in the meantime.
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        if not path.is_dir():
            _remove_file_if_unlocked(path)
        elif path.suffix == PARTIAL:  # no folder of ours ever had another suffix
            _remove_folder_if_unlocked(path)


def _remove_file_if_unlocked(path: Path) -> None:
    handle = os.open(path, os.O_RDWR)
    try:
        if _try_lock(handle):
            path.unlink()
    finally:
        os.close(handle)


def _remove_folder_if_unlocked(folder: Path) -> None:
    try:
        lock = _open_lock(folder)
    except OSError:
        return  # gone, or on a disk that takes nothing now

    if _try_lock(lock):
        _remove_scratch(folder, lock)
    else:
        os.close(lock)


def _try_lock(handle: int) -> bool:
    """Take the lock of an open file; False if another process holds it, or if nothing can be
    locked there, so that nobody knows."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _lock_new(handle: int) -> bool:
    """Take the lock of a file that this process has just made; False if another one took it for
    a leftover.

    Where nothing can be locked, nobody removes anything either, and the file is safe without.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _sync_folder(folder: Path) -> None:
    """Bring a folder's list of names to the disk, so that a rename outlives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
