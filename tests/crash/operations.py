"""Changes of files, counted and recorded below Python by `operations.c`, which also kills."""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

_SOURCE = Path(__file__).with_name("operations.c")
_PRELOAD = "LD_PRELOAD"


@dataclass(frozen=True)
class Change:
    """One change of a file or folder."""

    kind: str
    """create, write, truncate, sync, rename, link, unlink, mkdir, rmdir, or symlink."""
    path: str
    other: str
    """New name of a `rename` or `link`, target of a `symlink`, otherwise empty."""
    offset: int
    """First byte of a `write`, or length after a `truncate`."""
    content: bytes

    def __str__(self) -> str:
        size = f" {len(self.content)} bytes at {self.offset}" if self.kind == "write" else ""
        to = f" to {Path(self.other).name}" if self.other else ""
        return f"{self.kind} {Path(self.path).name}{to}{size}"


def compiler() -> str | None:
    """Path of the C compiler, or None if there is none."""
    return shutil.which("cc") or shutil.which("gcc")


def library(source: Path = _SOURCE) -> Path:
    """Path of the compiled library that the linker preloads."""
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    path = Path(tempfile.gettempdir()) / f"vistune-crash-{os.getuid()}-{digest}.so"
    if path.exists():
        return path

    cc = compiler()
    assert cc is not None, "no C compiler: apt-get install gcc"
    made = path.with_suffix(f".{os.getpid()}")
    flags = ["-O2", "-shared", "-fPIC", "-o", str(made), str(source), "-ldl", "-lpthread"]
    subprocess.run([cc, *flags], check=True)
    made.replace(path)
    return path


def preloaded() -> dict[str, str]:
    """Environment of a process whose changes can be watched."""
    return {**os.environ, _PRELOAD: str(library())}


def is_preloaded() -> bool:
    """True in a process whose changes can be watched."""
    return os.environ.get(_PRELOAD) == str(library())


def watch(
    folder: Path,
    *,
    kill_at: int = 0,
    torn: bool = False,
    record: Path | None = None,
    once: Path | None = None,
) -> None:
    """Count the changes below `folder` from now on, separately in this process and in each that it
    forks.

    Args:
        kill_at: number of the change before which the process is killed; 0: none.
        torn: the first half of the write still happens.
        record: file that receives the changes (`read_changes`).
        once: file that marks that a process was killed; if it exists, no other process is killed.
    """
    _loaded().crash_watch(
        str(folder).encode(),
        ctypes.c_long(kill_at),
        int(torn),
        str(record or "").encode(),
        str(once or "").encode(),
    )


def from_start(
    folder: Path, kill_at: int = 0, *, record: Path | None = None, once: Path | None = None
) -> dict[str, str]:
    """Environment of a process that is watched from its start. Arguments as in `watch`."""
    asked = f"{kill_at} 0 {folder} {record or '-'} {once or '-'}"
    return {**preloaded(), "VISTUNE_CRASH": asked}


def counted() -> int:
    """Number of changes since `watch`."""
    return int(_loaded().crash_count())


def read_changes(path: Path) -> list[Change]:
    """The changes in a record, in order."""
    changes = []
    content = path.read_bytes()
    at = 0
    while at < len(content):
        end = content.index(b"\n", at)
        kind, name, other, offset, length = content[at:end].decode().split("\t")
        at = end + 1 + int(length)
        changes.append(Change(kind, name, other, int(offset), content[end + 1 : at]))
    return changes


def _loaded() -> ctypes.CDLL:
    loaded = ctypes.CDLL(None)
    loaded.crash_count.restype = ctypes.c_long
    return loaded
