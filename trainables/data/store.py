"""Decode once, train many trials: a memory-mapped uint8 array on disk, shared by every process of
the machine.

    <cache>/<name>-<fingerprint>-<S>px-v1/
        images.npy   (N, 3, S, S) uint8
        labels.npy   (N,) int64
        groups.npy   (N,) int64
        meta.json
        masks.npy    (N, S, S) uint8, only for data with masks

A store is built in `<...>.building` under a file lock and renamed when it is complete and synced:
whatever bears the final name is whole.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trainables.data.images import CorruptImage
from trainables.errors import UserError
from trainables.files import default_cache_dir

VERSION = 1
"""Part of the key: raise it when decoding, resizing or rendering changes."""
SKIPPED = "skipped.txt"
"""File in a store that lists what could not be decoded: path, tab, reason."""

_META = "meta.json"
_CHUNK = 256  # rows decoded at a time: bounds the memory that waits to be written
_SPARE_BYTES = 32 << 20  # left free on the disk
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Source:
    """The images that a store is built from; made only when no store exists yet."""

    count: int
    """Number of rows N."""
    read: Callable[[int, int], np.ndarray]
    """(row, S) -> (3, S, S) uint8; raises CorruptImage. Called from several threads."""
    describe: Callable[[int], str]
    """Row -> the path that an error names."""
    labels: np.ndarray  # (N,) int64, -1 = unlabeled
    group: Callable[[np.ndarray], np.ndarray] | None = None
    """(N, 3, S, S) uint8 -> (N,) int64: rows of one group must never be split between training and
    evaluation. None: every row is a group of its own."""
    extra: dict[str, Any] = field(default_factory=dict)
    """JSON that is kept with the store."""
    read_mask: Callable[[int, int], np.ndarray] | None = None
    """(row, S) -> (S, S) uint8; raises CorruptImage. None: data without masks."""


@dataclass(frozen=True, eq=False)
class Store:
    """An opened store; read-only."""

    path: Path
    images: np.ndarray  # (N, 3, S, S) uint8, memory-mapped; rows of skipped files are black
    labels: np.ndarray  # (N,) int64, -1 = unlabeled
    groups: np.ndarray  # (N,) int64
    skipped: tuple[tuple[str, str], ...]  # (path, reason)
    skipped_rows: np.ndarray  # (n,) int64
    extra: dict[str, Any]
    masks: np.ndarray | None = None  # (N, S, S) uint8, memory-mapped


def open_store(
    name: str,
    fingerprint: str,
    size: int,  # S, pixels
    make_source: Callable[[], Source],
    cache_dir: Path | None = None,
    progress: bool = False,
) -> Store:
    """Opens the store of (fingerprint, S), building it first when there is none. One process
    builds, the others wait for it.

    Raises:
        UserError: the cache directory cannot be written, its disk is full, or the store in it is
            damaged.
    """
    final = store_path(name, fingerprint, size, cache_dir)
    if not (final / _META).exists():
        try:
            with _locked(final, progress):
                if not (final / _META).exists():
                    _build(final, size, make_source(), progress)
        except OSError as error:
            raise _disk_error(error, final.parent) from None
    return _open(final)


def store_path(name: str, fingerprint: str, size: int, cache_dir: Path | None) -> Path:
    """Folder of the store with this key, existing or not."""
    word = re.sub(r"[^\w.-]+", "_", name)[:40]
    folder = cache_dir or default_cache_dir()
    return folder / f"{word}-{fingerprint[:16]}-{size}px-v{VERSION}"


def existing_extra(
    name: str, fingerprint: str, size: int, cache_dir: Path | None
) -> dict[str, Any] | None:
    """`Source.extra` of a store that has been built already, else None."""
    path = store_path(name, fingerprint, size, cache_dir)
    try:
        meta = json.loads((path / _META).read_text())
        extra: dict[str, Any] = meta["extra"]
    except (OSError, ValueError, KeyError):
        return None
    return extra


def digest(*parts: str | bytes) -> str:
    """32 hexadecimal digits of BLAKE2b over length-prefixed parts."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        content = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        length = len(content).to_bytes(8, "little")
        state.update(length + content)
    return state.hexdigest()


def sync(folder: Path) -> None:
    """Writes everything in the folder, and its list of names, to the disk."""
    for path in (*folder.iterdir(), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


# ---------------------------------------------------------------- building


@contextmanager
def _locked(final: Path, progress: bool) -> Iterator[None]:
    """Holds the lock of a store while it is built."""
    final.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{final}.lock")
    try:
        lock.acquire(timeout=0.2)
    except Timeout:
        if progress:
            print(
                f"waiting for another process that decodes the same images into {final}",
                file=sys.stderr,
            )
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _build(final: Path, size: int, source: Source, progress: bool) -> None:
    building = final.with_name(final.name + ".building")
    # left by a killed build: nobody else holds the lock
    shutil.rmtree(building, ignore_errors=True)
    channels = 3 if source.read_mask is None else 4
    _check_space(final.parent, source.count * channels * size * size)
    building.mkdir()
    try:
        _write_store(building, size, source, progress)
        sync(building)
        building.rename(final)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write_store(building: Path, size: int, source: Source, progress: bool) -> None:
    images = _allocate(building / "images.npy", (source.count, 3, size, size))
    masks = None
    if source.read_mask is not None:
        masks = _allocate(building / "masks.npy", (source.count, size, size))

    skipped = _fill(images, masks, size, source, progress)
    groups = np.arange(source.count) if source.group is None else source.group(images)
    images.flush()
    if masks is not None:
        masks.flush()
    np.save(building / "labels.npy", source.labels.astype(np.int64))
    np.save(building / "groups.npy", groups.astype(np.int64))

    named = [(row, source.describe(row), reason) for row, reason in skipped]
    lines = [f"{path}\t{reason}\n" for _, path, reason in named]
    (building / SKIPPED).write_text("".join(lines), encoding="utf-8", errors="surrogateescape")
    meta = {
        "version": VERSION,
        "count": source.count,
        "size": size,
        "skipped": named,
        "extra": source.extra,
        "masks": masks is not None,
    }
    (building / _META).write_text(json.dumps(meta))


def _fill(
    images: np.ndarray,  # (N, 3, S, S) uint8, written to
    masks: np.ndarray | None,  # (N, S, S) uint8, written to
    size: int,  # S
    source: Source,
    progress: bool,
) -> list[tuple[int, str]]:
    """Decodes every row; returns (row, reason) of those that could not be decoded."""

    def read(row: int) -> str | None:
        try:
            # The mask first: of a pair without a usable mask the image stays black.
            if masks is not None and source.read_mask is not None:
                masks[row] = source.read_mask(row, size)
            images[row] = source.read(row, size)
        except CorruptImage as error:
            return str(error)
        return None

    skipped: list[tuple[int, str]] = []
    with (
        _progress_bar(source.count, progress) as advance,
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for start in range(0, source.count, _CHUNK):
            rows = range(start, min(start + _CHUNK, source.count))
            for row, reason in zip(rows, pool.map(read, rows), strict=True):
                if reason is not None:
                    skipped.append((row, reason))
            advance(len(rows))
    return skipped


@contextmanager
def _progress_bar(count: int, progress: bool) -> Iterator[Callable[[int], None]]:
    shown = progress and sys.stderr.isatty()
    bar = Progress(
        TextColumn("decoding"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not shown,
        transient=True,
    )
    with bar:
        task = bar.add_task("decoding", total=count)
        yield lambda rows: bar.advance(task, rows)


def _allocate(path: Path, shape: tuple[int, ...]) -> np.memmap:
    array: np.memmap = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    # A full disk must be an error here: writing to a sparse map would raise SIGBUS.
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


# ---------------------------------------------------------------- opening


def _open(path: Path) -> Store:
    try:
        meta = json.loads((path / _META).read_text())
        count = meta["count"]
        size = meta["size"]
        images = _open_map(path, "images", (count, 3, size, size))
        masks = _open_map(path, "masks", (count, size, size)) if meta.get("masks") else None
        labels = np.load(path / "labels.npy")
        groups = np.load(path / "groups.npy")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"the image store {path} is damaged ({error}); "
            "remove that folder and run again to rebuild it"
        ) from None
    skipped = meta["skipped"]  # [row, path, reason] of each
    return Store(
        path=path,
        images=images,
        labels=labels,
        groups=groups,
        skipped=tuple((name, reason) for _, name, reason in skipped),
        skipped_rows=np.array([row for row, _, _ in skipped], np.int64),
        extra=meta["extra"],
        masks=masks,
    )


def _open_map(path: Path, name: str, shape: tuple[int, ...]) -> np.ndarray:
    array: np.ndarray = np.load(path / f"{name}.npy", mmap_mode="r")
    if array.shape != shape:
        raise ValueError(f"{name} have shape {array.shape}, not {shape}")
    return array


# ---------------------------------------------------------------- disk space


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed + _SPARE_BYTES > free:
        raise UserError(
            f"the image store needs {needed / 1e9:.3g} GB in {folder}, {free / 1e9:.3g} GB free; "
            "set VISTUNE_CACHE to a directory with more space, or lower data.image_size"
        )


def _disk_error(error: OSError, folder: Path) -> UserError:
    """A full disk, or a folder that cannot be written, in one line with the remedy."""
    if error.errno in _DISK_FULL:
        return UserError(
            f"the disk of {folder} became full while the image store was built; "
            "set VISTUNE_CACHE to a directory with more space"
        )
    return UserError(
        f"cannot write to the cache directory {folder} ({error.strerror or error}); "
        "set VISTUNE_CACHE to a writable directory"
    )
