"""Decode once, train many trials: a memory-mapped uint8 array on disk, shared by every process of
the machine.

    <cache>/<name>-<fingerprint>-<S>px-v1/   images.npy (N, 3, S, S) uint8   labels.npy (N,) int64   groups.npy (N,) int64   meta.json
    and, of data with masks, masks.npy (N, S, S) uint8

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
_CHUNK = 256  # rows decoded at a time: bounds the memory that waits to be written
_SPARE_BYTES = 32 << 20


@dataclass(frozen=True)
class Source:
    """What a store is built from; made only when no store exists yet."""

    count: int
    """Number of rows N."""
    read: Callable[[int, int], np.ndarray]
    """(row, S) -> (3, S, S) uint8; raises CorruptImage. Called from several threads."""
    describe: Callable[[int], str]
    """Row -> the path that an error names."""
    labels: np.ndarray  # (N,) int64, -1 = unlabeled
    group: Callable[[np.ndarray], np.ndarray] | None = None
    """(N, 3, S, S) uint8 -> (N,) int64: rows of one group must never be split between training and
    evaluation. None: every row alone."""
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
    if not (final / "meta.json").exists():
        try:
            with _locked(final, progress):
                if not (final / "meta.json").exists():
                    _build(final, size, make_source(), progress)
        except OSError as error:
            raise _disk_error(error, final.parent) from None
    return _open(final)


def store_path(name: str, fingerprint: str, size: int, cache_dir: Path | None) -> Path:
    """Where the store of this key is, or will be."""
    word = re.sub(r"[^\w.-]+", "_", name)[:40]
    return (cache_dir or default_cache_dir()) / f"{word}-{fingerprint[:16]}-{size}px-v{VERSION}"


def existing_extra(
    name: str, fingerprint: str, size: int, cache_dir: Path | None
) -> dict[str, Any] | None:
    """`Source.extra` of a store that has been built already, else None."""
    try:
        extra: dict[str, Any] = json.loads(
            (store_path(name, fingerprint, size, cache_dir) / "meta.json").read_text()
        )["extra"]
    except (OSError, ValueError, KeyError):
        return None
    return extra


@contextmanager
def _locked(final: Path, progress: bool) -> Iterator[None]:
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
    # what a killed build left; the lock says that nobody is at it
    shutil.rmtree(building, ignore_errors=True)
    _check_room(final.parent, source.count * (3 + bool(source.read_mask)) * size * size)
    building.mkdir()
    try:
        images = _allocate(building / "images.npy", (source.count, 3, size, size))
        masks = (
            _allocate(building / "masks.npy", (source.count, size, size))
            if source.read_mask
            else None
        )
        skipped = _fill(images, masks, size, source, progress)
        groups = source.group(images) if source.group else np.arange(source.count)
        images.flush()
        if masks is not None:
            masks.flush()
        np.save(building / "labels.npy", source.labels.astype(np.int64))
        np.save(building / "groups.npy", groups.astype(np.int64))
        named = [(row, source.describe(row), reason) for row, reason in skipped]
        lines = "".join(f"{path}\t{reason}\n" for _, path, reason in named)
        (building / SKIPPED).write_text(lines, encoding="utf-8", errors="surrogateescape")
        meta = {
            "version": VERSION,
            "count": source.count,
            "size": size,
            "skipped": named,
            "extra": source.extra,
        }
        meta["masks"] = masks is not None
        (building / "meta.json").write_text(json.dumps(meta))
        sync(building)
        building.rename(final)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _fill(
    images: np.ndarray, masks: np.ndarray | None, size: int, source: Source, progress: bool
) -> list[tuple[int, str]]:
    """Decodes every row into `images`; returns the (row, reason) of those that could not be."""
    skipped: list[tuple[int, str]] = []

    def read(row: int) -> str | None:
        try:
            if masks is not None and source.read_mask:
                # first: of a pair without a usable mask the image stays black
                masks[row] = source.read_mask(row, size)
            images[row] = source.read(row, size)
        except CorruptImage as error:
            return str(error)
        return None

    with (
        _bar(source.count, progress) as advance,
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for start in range(0, source.count, _CHUNK):
            rows = range(start, min(start + _CHUNK, source.count))
            skipped += [
                (row, reason)
                for row, reason in zip(rows, pool.map(read, rows), strict=True)
                if reason is not None
            ]
            advance(len(rows))
    return skipped


@contextmanager
def _bar(count: int, progress: bool) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("decoding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown = progress and sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), disable=not shown, transient=True) as bar:
        task = bar.add_task("decoding", total=count)
        yield lambda rows: bar.advance(task, rows)


def _open(path: Path) -> Store:
    try:
        meta = json.loads((path / "meta.json").read_text())
        images = np.load(path / "images.npy", mmap_mode="r")
        labels, groups = np.load(path / "labels.npy"), np.load(path / "groups.npy")
        shape = (meta["count"], 3, meta["size"], meta["size"])
        if images.shape != shape:
            raise ValueError(f"images have shape {images.shape}, not {shape}")
        masks = np.load(path / "masks.npy", mmap_mode="r") if meta.get("masks") else None
        if masks is not None and masks.shape != (shape[0], *shape[2:]):
            raise ValueError(f"masks have shape {masks.shape}, not {(shape[0], *shape[2:])}")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"the image store {path} is damaged ({error}); remove that folder and run again to build it anew"
        ) from None
    skipped = tuple((name, reason) for _, name, reason in meta["skipped"])
    rows = np.array([row for row, _, _ in meta["skipped"]], np.int64)
    return Store(path, images, labels, groups, skipped, rows, meta["extra"], masks)


def _allocate(path: Path, shape: tuple[int, ...]) -> np.memmap:
    images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    # a full disk must be an error here: on writing to a sparse map it would be a SIGBUS
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return images


def sync(folder: Path) -> None:
    """Everything in the folder, and its list of names, to the disk."""
    for path in (*folder.iterdir(), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed + _SPARE_BYTES > free:
        raise UserError(_no_room(folder, needed, free))


def _no_room(folder: Path, needed: int, free: int) -> str:
    return (
        f"the image store needs {needed / 1e9:.3g} GB in {folder}, {free / 1e9:.3g} GB free; "
        "set VISTUNE_CACHE to a directory with room, or lower data.image_size"
    )


def _disk_error(error: OSError, folder: Path) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"the disk of {folder} became full while the image store was built; set VISTUNE_CACHE to a directory with room"
        )
    return UserError(
        f"cannot write to the cache directory {folder} ({error.strerror or error}); set VISTUNE_CACHE to a writable directory"
    )


def digest(*parts: str | bytes) -> str:
    """32 hex digits of BLAKE2b over length-prefixed parts."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        content = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        state.update(len(content).to_bytes(8, "little") + content)
    return state.hexdigest()
