"""Features on disk, shared by every trial and process of the machine.

    <cache>/features/<key>/   features.npy (rows, D) float32   meta.json

An entry is built in `<key>.building` under a file lock, synced and renamed, so a folder with a key
as its name is complete. Before a new entry is built, the least recently used ones are removed until
all fit into $VISTUNE_FEATURES_GB (20). A process that reads a removed entry can continue, because
its memory map stays valid. If an entry cannot be stored, features are computed without a cache.
"""

import errno
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from torch import Tensor

from trainables.data.store_building import sync
from trainables.engine import watchdog
from trainables.errors import UserError
from trainables.files import default_cache_dir

_DEFAULT_GB = 20.0
_SPARE_BYTES = 32 << 20
# Seconds between two watchdog beats of a process that waits for another's features.
_BEAT_S = 1.0


@dataclass(frozen=True, eq=False)
class Features:
    """An opened entry."""

    rows: np.ndarray  # (n, D) float32, memory-mapped; writing would change a private copy
    row_seconds: float
    """Seconds that computing one row took."""


def open_features(
    key: str,
    shape: tuple[int, int],  # rows, D
    compute: Callable[[], Iterable[Tensor]],
    cache_dir: Path | None = None,
) -> Features | None:
    """Open the entry `key`, after building it if there is none. One process builds it; others that
    need it wait.

    Returns None, after a line on stderr, if the cache is full or not writable.
    """
    folder = (cache_dir or default_cache_dir()) / "features"
    try:
        found = _open(folder / key, shape)
        if found is None:
            folder.mkdir(parents=True, exist_ok=True)
            found = _open_or_build(folder / key, shape, compute)
    except OSError as error:
        print(
            f"features are computed at every step: {error.strerror or error} ({folder})",
            file=sys.stderr,
        )
        return None
    return found


def _open_or_build(
    path: Path, shape: tuple[int, int], compute: Callable[[], Iterable[Tensor]]
) -> Features | None:
    """Open the entry, or build it under its lock, so that only one process builds it."""
    with _waited_for(_lock(path)):
        # Another process may have built it while this one waited.
        found = _open(path, shape)
        if found is None:
            _make_room(path, 4 * shape[0] * shape[1])
            _build(path, shape, compute())
            found = _open(path, shape)
    return found


def limit_bytes() -> int:
    """Size limit of all entries together, in bytes.

    Raises:
        UserError: $VISTUNE_FEATURES_GB is not a number of gigabytes.
    """
    text = os.environ.get("VISTUNE_FEATURES_GB") or str(_DEFAULT_GB)
    try:
        return round(max(0.0, float(text)) * 1e9)
    except (ValueError, OverflowError):
        raise UserError(
            f"VISTUNE_FEATURES_GB={text!r} is not a number of gigabytes; "
            f"unset it for {_DEFAULT_GB:g}"
        ) from None


@contextmanager
def _waited_for(path: Path) -> Iterator[None]:
    """Hold a lock, waiting for it as long as another process builds. This may take hours, so beat
    the watchdog, which would otherwise end this process."""
    lock = FileLock(path)
    while not lock.is_locked:
        with suppress(Timeout):
            lock.acquire(timeout=_BEAT_S)
        watchdog.beat()
    try:
        yield
    finally:
        lock.release()


def _lock(path: Path) -> Path:
    """Lock file of an entry, one of 256: lock files cannot be removed, and would accumulate."""
    return path.parent / f"{path.name[:2]}.lock"


def _open(path: Path, shape: tuple[int, int]) -> Features | None:
    """Open an entry; None if it is missing or damaged."""
    try:
        meta = json.loads((path / "meta.json").read_text())
        # Copy on write, because torch wants writable memory.
        mapped = np.load(path / "features.npy", mmap_mode="c")
    except (FileNotFoundError, ValueError, EOFError):
        return None
    rows = np.asarray(mapped)  # a plain array: NumPy's memmap class would slow down each step
    if rows.shape != shape or "seconds" not in meta:
        return None
    with suppress(OSError):  # another user's entry
        os.utime(path)  # records the time of the last use
    return Features(rows, meta["seconds"] / max(1, len(rows)))


def _build(path: Path, shape: tuple[int, int], batches: Iterable[Tensor]) -> None:
    """Write the features and their metadata into a folder of another name, sync it, and rename it.
    So a killed build leaves nothing that looks complete."""
    building = path.with_name(path.name + ".building")
    shutil.rmtree(building, ignore_errors=True)  # left by a killed build
    shutil.rmtree(path, ignore_errors=True)  # a damaged entry
    building.mkdir()
    started = time.perf_counter()
    try:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        with (building / "features.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for features in batches:
                watchdog.beat()
                file.write(features.float().cpu().numpy().tobytes())

        meta = {"rows": shape[0], "seconds": time.perf_counter() - started}
        (building / "meta.json").write_text(json.dumps(meta))
        sync(building)
        building.rename(path)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _make_room(path: Path, needed: int) -> None:
    """Remove the least recently used entries until `needed` bytes fit; none if they cannot fit.

    The caller holds the lock of `path`.

    Raises:
        OSError: the cache's limit or the disk is too small.
    """
    folder = path.parent
    with FileLock(folder / "room.lock"):
        _remove_killed_builds(path)
        entries = sorted(_entries(folder), key=lambda entry: entry.last_use)
        used = sum(entry.size for entry in entries)
        limit = limit_bytes()
        free = shutil.disk_usage(folder).free - _SPARE_BYTES

        if needed > limit:
            allowed = f"VISTUNE_FEATURES_GB allows {limit / 1e9:.3g}"
            raise OSError(errno.ENOSPC, f"they need {needed / 1e9:.3g} GB, {allowed}")
        if needed > free + used:
            left = f"{max(0, free) / 1e9:.3g} GB free"
            raise OSError(errno.ENOSPC, f"they need {needed / 1e9:.3g} GB, {left}")

        for entry in entries:
            if used + needed <= limit and needed <= free:
                break
            _remove(entry.path)
            used -= entry.size
            free += entry.size


class _Entry(NamedTuple):
    last_use: float  # seconds since the epoch
    size: int  # bytes
    path: Path


def _entries(folder: Path) -> Iterator[_Entry]:
    """Complete entries of the cache, with size and time of last use."""
    for meta in folder.glob("*/meta.json"):
        path = meta.parent
        if path.name.endswith(".building"):
            continue
        with suppress(FileNotFoundError):  # removed meanwhile
            size = (path / "features.npy").stat().st_size
            yield _Entry(path.stat().st_mtime, size, path)


def _remove(entry: Path) -> None:
    """Remove an entry that may be open elsewhere."""
    # Rename it first, atomically, so that no process opens a partial entry.
    removed = entry.with_name(f"{entry.name}.{os.getpid()}.building")
    with suppress(FileNotFoundError):
        entry.rename(removed)
    shutil.rmtree(removed, ignore_errors=True)


def _remove_killed_builds(path: Path) -> None:
    """Remove builds whose lock nobody holds, because they were killed. The caller holds the lock of
    `path`."""
    for building in path.parent.glob("*.building"):
        with _try_lock(_lock(building), held=_lock(path)) as locked:
            if locked:
                shutil.rmtree(building, ignore_errors=True)


@contextmanager
def _try_lock(lock: Path, held: Path) -> Iterator[bool]:
    """Take the lock without waiting; yields False if another process holds it. This thread already
    holds the lock `held`."""
    if lock == held:
        yield True
        return
    try:
        with FileLock(lock, timeout=0):
            yield True
    except Timeout:
        yield False
