"""Features on disk, shared by every trial and process of the machine.

    <cache>/features/<key>/   features.npy (rows, D) float32   meta.json

An entry is built in `<key>.building` under a file lock, synced and renamed: whatever bears a key as
its name is whole. Before a new one is built the longest unused are removed until all together fit
into $VISTUNE_FEATURES_GB (20). Who reads a removed one keeps it: its map outlives its name. Where
no entry can be kept, features are computed as if there were no cache; nothing else depends on it.
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

import numpy as np
from filelock import FileLock, Timeout
from torch import Tensor

from trainables.data.store import sync
from trainables.engine import watchdog
from trainables.errors import UserError
from trainables.files import default_cache_dir

_DEFAULT_GB = 20.0
_SPARE_BYTES = 32 << 20
_BEAT_S = 1.0  # between two signs of life of a process that waits for another's features


@dataclass(frozen=True, eq=False)
class Features:
    """An opened entry."""

    rows: np.ndarray  # (n, D) float32, memory-mapped; writing to it would change a private copy
    row_seconds: float
    """What computing a row has cost."""


def open_features(
    key: str,
    shape: tuple[int, int],  # rows, D
    compute: Callable[[], Iterable[Tensor]],
    cache_dir: Path | None = None,
) -> Features | None:
    """Opens the entry `key`, building it first where there is none. One process builds, others that
    want it wait.

    None, with a line on stderr, where the cache has no room or cannot be written.
    """
    folder = (cache_dir or default_cache_dir()) / "features"
    try:
        if (found := _open(folder / key, shape)) is None:
            folder.mkdir(parents=True, exist_ok=True)
            with _waited_for(_lock(folder / key)):
                if (found := _open(folder / key, shape)) is None:
                    _make_room(folder / key, 4 * shape[0] * shape[1])
                    _build(folder / key, shape, compute())
                    found = _open(folder / key, shape)
    except OSError as error:
        print(
            f"features are computed at every step: {error.strerror or error} ({folder})",
            file=sys.stderr,
        )
        return None
    return found


def limit_bytes() -> int:
    """Of all entries together.

    Raises:
        UserError: $VISTUNE_FEATURES_GB is no number of gigabytes.
    """
    text = os.environ.get("VISTUNE_FEATURES_GB") or str(_DEFAULT_GB)
    try:
        return round(max(0.0, float(text)) * 1e9)
    except (ValueError, OverflowError):
        raise UserError(
            f"VISTUNE_FEATURES_GB={text!r} is not a number of gigabytes; unset it for {_DEFAULT_GB:g}"
        ) from None


@contextmanager
def _waited_for(path: Path) -> Iterator[None]:
    """The lock, after however long another process builds: it may take hours, and to wait for it is
    not to hang."""
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
    """One of 256, so that lock files, which must stay, do not pile up."""
    return path.parent / f"{path.name[:2]}.lock"


def _open(path: Path, shape: tuple[int, int]) -> Features | None:
    """None where it is missing or damaged."""
    try:
        meta = json.loads((path / "meta.json").read_text())
        # private copies of what is written: torch wants writable memory
        rows = np.load(path / "features.npy", mmap_mode="c")
    except (FileNotFoundError, ValueError, EOFError):
        return None
    if rows.shape != shape or "seconds" not in meta:
        return None
    with suppress(OSError):  # another user's
        os.utime(path)  # the last use
    return Features(rows, meta["seconds"] / max(1, len(rows)))


def _build(path: Path, shape: tuple[int, int], batches: Iterable[Tensor]) -> None:
    building = path.with_name(path.name + ".building")
    for there in (building, path):  # what a killed build left; a damaged entry
        shutil.rmtree(there, ignore_errors=True)
    building.mkdir()
    started = time.perf_counter()
    try:
        with (building / "features.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": "<f4", "fortran_order": False, "shape": shape}
            )
            for features in batches:
                watchdog.beat()
                file.write(features.float().cpu().numpy().tobytes())
        (building / "meta.json").write_text(
            json.dumps({"rows": shape[0], "seconds": time.perf_counter() - started})
        )
        sync(building)
        building.rename(path)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _make_room(path: Path, needed: int) -> None:
    """Remove entries, the longest unused first, until `needed` bytes fit; none where they cannot.
    Called by who has the lock of `path`.

    Raises:
        OSError: no room.
    """
    folder = path.parent
    with FileLock(folder / "room.lock"):
        _sweep(path)
        entries = sorted(_entries(folder), key=lambda entry: entry[0])
        total = sum(size for _, size, _ in entries)
        limit, free = limit_bytes(), shutil.disk_usage(folder).free - _SPARE_BYTES
        if needed > limit:
            raise OSError(
                errno.ENOSPC,
                f"they need {needed / 1e9:.3g} GB, VISTUNE_FEATURES_GB allows {limit / 1e9:.3g}",
            )
        if needed > free + total:
            raise OSError(
                errno.ENOSPC, f"they need {needed / 1e9:.3g} GB, {max(0, free) / 1e9:.3g} GB free"
            )
        for _, size, entry in entries:
            if total + needed <= limit and needed <= free:
                break
            # in one step, so that nobody opens half an entry
            removed = entry.with_name(f"{entry.name}.{os.getpid()}.building")
            with suppress(FileNotFoundError):
                entry.rename(removed)
            shutil.rmtree(removed, ignore_errors=True)
            total, free = total - size, free + size


def _entries(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """(last use, bytes, path) of every entry."""
    for meta in folder.glob("*/meta.json"):
        entry = meta.parent
        if not entry.name.endswith(".building"):
            with suppress(FileNotFoundError):
                yield entry.stat().st_mtime, (entry / "features.npy").stat().st_size, entry


def _sweep(path: Path) -> None:
    """Remove what killed builds left: nobody holds their lock."""
    for building in path.parent.glob("*.building"):
        with _tried(_lock(building), _lock(path)) as free:
            if free:
                shutil.rmtree(building, ignore_errors=True)


@contextmanager
def _tried(lock: Path, held: Path) -> Iterator[bool]:
    """Whether the lock is this thread's now, without waiting for it; `held` is already."""
    if lock == held:
        yield True
        return
    try:
        with FileLock(lock, timeout=0):
            yield True
    except Timeout:
        yield False
