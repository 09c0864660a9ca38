"""Names of the files in a trial's folder, the cache directory, and the only atomic write.

Read-only commands import this module: it must not import torch.
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
"""In the folder of a trial whose code is a function: its reports so far. The dot separates it from
the function's own files."""
FIRST_EPOCH = ".script.json"
"""In the folder of a trial whose code is a script: the number of the script's first epoch."""
CLASS_RESULTS = "classes.csv"
"""In a completed trial's folder: results by class on the validation split, at its best epoch
(`trainables/class_metrics.py`)."""
PARTIAL = ".partial"
"""Suffix of files and folders that are still being written. No finished file has it."""

_RANDOM_BYTES = 4
_LOCK = ".lock"
_SUFFIXES = (PARTIAL, ".tmp")  # .tmp: an earlier suffix of unfinished exports


def default_cache_dir() -> Path:
    """$VISTUNE_CACHE, or ~/.cache/vistune.

    Raises:
        UserError: the user has no home directory, as in some containers.
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
    """Open a file that replaces `path` when the block ends without an error.

    After a kill or a power cut, `path` holds either the old or the new content, never a part. The
    content is first written to `<name>.<random>.partial` beside it, so processes that write the
    same path at once do not collide. The writer locks that file, which lets `remove_partials`
    distinguish leftovers from files in use.

    Args:
        durable: False skips both waits for the disk. A power cut may then leave an empty file, so
            use it only for content that can be recreated.
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
                error.filename = str(path)  # errors of a write through a handle name no file
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
    """Write a result for the user by `write_atomically`, after removing what killed runs of the
    same command were writing there; nothing else cleans up such a folder."""
    remove_partials_of(path)
    write_atomically(path, content)


@contextlib.contextmanager
def scratch_folder(final: Path) -> Iterator[Path]:
    """Create a folder within `<name>.<random>.partial` beside `final`, for files that become
    `final` once they are complete. It is removed at the end of the block.

    Leftovers of killed processes that were writing the same `final` are removed first. The partial
    folder also holds a locked file, which distinguishes a folder in use from a leftover.
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
    """True if a file or folder of this name is still being written, or was when its process was
    killed."""
    return name.endswith(_SUFFIXES)


def remove_partials_of(final: Path) -> None:
    """Remove what killed processes were writing in place of `final`, except files in use.

    Use it for folders that also hold files of others, which must stay whatever their names are.
    """
    _remove_named(final.parent, glob.escape(final.name))


def remove_own_partials(folder: Path) -> None:
    """Remove from `folder` what killed processes were writing by `atomic_file`. Files in use stay,
    and so do partial files whose names follow another pattern.

    Use it for folders in which a user's code also writes.
    """
    _remove_named(folder, "*")


def remove_partials(folder: Path) -> None:
    """Remove from `folder` what killed processes were writing, except files in use."""
    for suffix in _SUFFIXES:
        for path in folder.glob(f"*{suffix}"):
            _remove_leftover(path)


def _remove_named(folder: Path, name: str) -> None:
    """Remove leftovers of files whose names match a glob pattern."""
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

        # `remove_partials` in another process may have run between the two lines above.
        if locked and os.fstat(file.fileno()).st_nlink:
            return file, partial
        file.close()


def _make_scratch(final: Path) -> tuple[Path, int]:
    """Create a new folder beside `final` that contains a locked file; return both."""
    while True:
        folder = _partial_name(final)
        folder.mkdir()
        try:
            lock = _open_lock(folder)
        except FileNotFoundError:
            continue  # another process removed the folder as a leftover

        if _lock_new(lock) and os.fstat(lock).st_nlink:
            return folder, lock
        os.close(lock)


def _open_lock(folder: Path) -> int:
    # NFS locks only files that are open for writing, so a folder cannot be locked.
    return os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)


def _remove_scratch(folder: Path, lock: int) -> None:
    """Remove a folder whose lock this process holds, and release the lock."""
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)

    # On NFS, a removed file that is still open keeps a name, and its folder, until it is closed.
    with contextlib.suppress(OSError):
        folder.rmdir()


def _remove_leftover(path: Path) -> None:
    """Remove a partial file or folder, unless it is in use."""
    # Another process may have finished or removed it in the meantime.
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        if not path.is_dir():
            _remove_file_if_unlocked(path)
        elif path.suffix == PARTIAL:  # our folders never had any other suffix
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
        return  # removed meanwhile, or the disk is not writable

    if _try_lock(lock):
        _remove_scratch(folder, lock)
    else:
        os.close(lock)


def _try_lock(handle: int) -> bool:
    """Lock an open file. Return False if another process holds the lock, or if the file system has
    no locks, because then nobody can know."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _lock_new(handle: int) -> bool:
    """Lock a file that this process has just created. Return False if another process took it for
    a leftover.

    If the file system has no locks, no process removes anything, so the file is safe.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
