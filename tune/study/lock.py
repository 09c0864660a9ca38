"""One process at a time runs a study, and another is told which."""

import json
import os
import platform
import time
from pathlib import Path

from filelock import FileLock, Timeout

from trainables.errors import UserError
from trainables.files import write_atomically
from tune.command_line import resume_command

_LOCK = ".lock"
_HOLDER = ".holder.json"


class StudyInUse(UserError):
    """Another process runs the study."""


def locked(directory: Path, name: str) -> FileLock:
    """Take the study's lock, which ends with its process.

    Raises:
        StudyInUse: another process has it.
    """
    lock = try_lock(directory / _LOCK)
    if lock is None:
        raise StudyInUse(
            f"study {name!r} is being run by another process{_holder(directory)}; wait for it, "
            "or choose another --study name"
        )
    return lock


def try_lock(path: Path) -> FileLock | None:
    """Take the lock of a file; None where another process has it."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


def is_in_use(directory: Path) -> bool:
    """True where a process has the study in `directory` open."""
    if not directory.exists():
        return False
    lock = try_lock(directory / _LOCK)
    if lock is None:
        return True
    lock.release()
    return False


def write_holder(directory: Path) -> None:
    """Say in the folder which process runs the study, for those that find it locked."""
    about = {
        "pid": os.getpid(),
        "host": platform.node(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": resume_command(),
    }
    write_atomically(directory / _HOLDER, json.dumps(about) + "\n")


def _holder(directory: Path) -> str:
    """The process that said last that it runs the study; "" where it cannot be the one."""
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
