"""The study's lock: one process at a time runs a study, and any other is told which."""

import contextlib
import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from trainables.errors import UserError
from trainables.files import write_atomically
from tune.command_line import resume_command

_LOCK = ".lock"
_ADDITION = ".addition.lock"
"""Lock of a process that takes the study's lock for a moment, to add to its log."""
_INSTANT_S = 10.0
"""A start waits this long for such a process, which needs a few writes to the disk."""
_HOLDER = ".holder.json"


class StudyInUse(UserError):
    """Another process runs the study."""


def locked(directory: Path, name: str) -> FileLock:
    """Take the study's lock, which is released when its process ends.

    Raises:
        StudyInUse: another process has it.
    """
    lock = _try_study(directory)
    if lock is None:
        raise StudyInUse(
            f"study {name!r} is being run by another process{_holder(directory)}; wait for it, "
            "or choose another --study name"
        )
    return lock


def try_lock(path: Path) -> FileLock | None:
    """Take the lock of a file; None if another process has it."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


def _is_locked(path: Path) -> bool:
    """True if another process has the lock of a file in a folder that cannot be written."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return False
    with file:
        try:
            # NFS grants no exclusive lock for a handle that only reads.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return False  # closing the file gives the lock back


def is_in_use(directory: Path) -> bool:
    """True if a process has the study in `directory` open."""
    if not directory.exists():
        return False
    try:
        lock = _try_study(directory)
    except OSError:  # somebody else's study, or a read-only disk
        return _is_locked(directory / _LOCK)
    if lock is None:
        return True
    lock.release()
    return False


@contextlib.contextmanager
def addition(directory: Path) -> Iterator[bool]:
    """Hold the study's lock for a moment, to add to the log of a study that nobody runs. A start
    waits meanwhile.

    Yields:
        False if a process runs the study: only that process writes its log.
    """
    adding = FileLock(directory / _ADDITION)
    with adding:
        lock = try_lock(directory / _LOCK)
        try:
            yield lock is not None
        finally:
            if lock is not None:
                lock.release()


def _try_study(directory: Path) -> FileLock | None:
    """Take the study's lock; None if another process runs the study."""
    lock = try_lock(directory / _LOCK)
    if lock is not None or not (directory / _ADDITION).exists():
        return lock

    waited = FileLock(directory / _ADDITION)
    try:
        with waited.acquire(timeout=_INSTANT_S, poll_interval=0.01):
            return try_lock(directory / _LOCK)
    except Timeout:
        return None


def write_holder(directory: Path) -> None:
    """Record in the folder which process runs the study, for those that find it locked."""
    about = {
        "pid": os.getpid(),
        "host": platform.node(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": resume_command(),
    }
    write_atomically(directory / _HOLDER, json.dumps(about) + "\n")


def last_command(directory: Path) -> str:
    """The command that last ran the study; "" if it is not known."""
    try:
        return str(json.loads((directory / _HOLDER).read_text())["command"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _holder(directory: Path) -> str:
    """The process that last recorded that it runs the study; "" if it cannot be running now."""
    try:
        about = json.loads((directory / _HOLDER).read_text())
        pid, host = int(about["pid"]), str(about["host"])
        since, command = str(about["since"]), str(about["command"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""

    is_here = host == platform.node()
    if is_here and (pid == os.getpid() or not Path(f"/proc/{pid}").exists()):
        return ""
    return f" ({pid} on {host} since {since}: {command})"
