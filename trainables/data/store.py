"""Decode once, train many trials: a memory-mapped uint8 array on disk, shared by every process of
the machine.

    <cache>/<name>-<fingerprint>-<S>px-v1/
        images.npy   (N, 3, S, S) uint8
        labels.npy   (N,) int64
        meta.json
        masks.npy    (N, S, S) uint8, only for data with masks
    <cache>/<name>-<fingerprint>-contents-v2.npz     for all sizes (`contents.py`)

A store is built in `<...>.building` under a file lock and renamed when it is complete and synced:
whatever bears the final name is whole.
"""

import errno
import hashlib
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from trainables.data.contents import SIDE, Contents, Recorder, read_contents, save_contents
from trainables.data.images import Picture
from trainables.data.levels import DeepImages
from trainables.data.paging import read_rows_alone
from trainables.data.source import BICUBIC, Reading, Source, Take, read_all
from trainables.data.survey import Survey, read_found
from trainables.data_summary import FoundImages
from trainables.errors import UserError
from trainables.files import default_cache_dir

VERSION = 1
"""Part of the key: raise it when decoding, resizing or rendering changes."""
SKIPPED = "skipped.txt"
"""File in a store that lists what could not be decoded: path, tab, reason."""

BUILDING = ".building"
"""Suffix of a folder in which something is being built."""

_META = "meta.json"
_THUMBNAILS = "thumbnails.npy"  # only while contents are recorded
_SPARE_BYTES = 32 << 20  # left free on the disk
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, eq=False)
class Store:
    """An opened store; read-only."""

    path: Path
    images: np.ndarray  # (N, 3, S, S) uint8, memory-mapped; rows of skipped files are black
    labels: np.ndarray  # (N,) int64, -1 = unlabeled
    contents: Contents
    skipped: tuple[tuple[str, str], ...]  # (path, reason)
    skipped_rows: np.ndarray  # (n,) int64
    extra: dict[str, Any]
    masks: np.ndarray | None = None  # (N, S, S) uint8, memory-mapped
    found: FoundImages | None = None
    """Sizes and modes of the files; None in embedded sets, and in stores of earlier versions."""
    deep: DeepImages | None = None
    """Images of more than 8 bits a channel, and the range that became 0 to 255."""
    rectangles: bool = True
    """Some image is no square; true where it is not known."""


def open_store(
    name: str,
    fingerprint: str,
    size: int,  # S, pixels
    make_source: Callable[[], Source],
    cache_dir: Path | None = None,
    progress: bool = False,
    version: int = BICUBIC,
) -> Store:
    """Opens the store of (fingerprint, S), building first what is missing of it. One process
    builds, the others wait for it.

    Args:
        version: of its contents.
    Raises:
        UserError: the cache directory cannot be written, its disk is full, or the store in it is
            damaged.
    """
    final = store_path(name, fingerprint, size, cache_dir)
    beside = contents_path(name, fingerprint, cache_dir, version)
    if not _is_complete(final, beside):
        try:
            with _locked(final, progress):
                if not _is_complete(final, beside):
                    source = replace(make_source(), version=version)
                    _build_missing(final, beside, size, source, progress)
        except OSError as error:
            raise disk_error(error, final.parent) from None
    return _open(final, beside)


def store_path(name: str, fingerprint: str, size: int, cache_dir: Path | None) -> Path:
    """Folder of the store with this key, existing or not."""
    return path_beside(name, fingerprint, cache_dir, f"{size}px-v{VERSION}")


def contents_path(
    name: str, fingerprint: str, cache_dir: Path | None, version: int = BICUBIC
) -> Path:
    """File of the contents that the stores of all sizes share, existing or not."""
    return path_beside(name, fingerprint, cache_dir, f"contents-v{version}.npz")


def path_beside(name: str, fingerprint: str, cache_dir: Path | None, end: str) -> Path:
    """Path in the cache of something of a data set, existing or not."""
    word = re.sub(r"[^\w.-]+", "_", name)[:40]
    folder = cache_dir or default_cache_dir()
    return folder / f"{word}-{fingerprint[:16]}-{end}"


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


def _is_complete(final: Path, beside: Path) -> bool:
    return (final / _META).exists() and beside.exists()


def _build_missing(final: Path, beside: Path, size: int, source: Source, progress: bool) -> None:
    """Builds the store, the contents, or both in one pass over the images."""
    if (final / _META).exists():
        _build_contents(beside, source, progress)
    else:
        _build(final, beside, size, source, progress)


def _build_contents(beside: Path, source: Source, progress: bool) -> None:
    # Its own lock too: a store of another size may lack the same contents.
    with _locked(beside, progress):
        if beside.exists():
            return
        with _building(beside) as building:
            recorder = _recorder(building, source)
            read_all(source, [recorder.take], progress)
            save_contents(beside, recorder.contents())


@contextmanager
def _building(final: Path) -> Iterator[Path]:
    """An empty folder beside `final`, which is removed at the end. The caller holds the lock."""
    building = final.with_name(final.name + BUILDING)
    # left by a killed build: nobody else holds the lock
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    try:
        yield building
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _build(final: Path, beside: Path, size: int, source: Source, progress: bool) -> None:
    channels = 3 if source.read_mask is None else 4
    _check_space(final.parent, source.count * channels * size * size)
    with _building(final) as building:
        _write_store(building, beside, size, source, progress)
        sync(building)
        building.rename(final)


def _write_store(building: Path, beside: Path, size: int, source: Source, progress: bool) -> None:
    survey = Survey()
    images = _allocate(building / "images.npy", (source.count, 3, size, size))
    masks = None
    if source.read_mask is not None:
        masks = _allocate(building / "masks.npy", (source.count, size, size))

    rectangles: list[int] = []

    def take(row: int, picture: Picture) -> None:
        # The mask first: of a pair without a usable mask the image stays black.
        if masks is not None and source.read_mask is not None:
            masks[row] = source.read_mask(row, size)
        images[row] = picture.at(size)
        survey.take(picture)
        if picture.width != picture.height:
            rectangles.append(row)  # appending is atomic

    reading = _read_with_contents(building, beside, source, take, progress)
    images.flush()
    if masks is not None:
        masks.flush()
    np.save(building / "labels.npy", source.labels.astype(np.int64))

    named = [(row, source.describe(row), reason) for row, reason in reading.skipped]
    lines = [f"{path}\t{reason}\n" for _, path, reason in named]
    (building / SKIPPED).write_text("".join(lines), encoding="utf-8", errors="surrogateescape")
    meta = {
        "version": VERSION,
        "count": source.count,
        "size": size,
        "skipped": named,
        "extra": source.extra,
        "masks": masks is not None,
        "found": survey.as_json(),
        "rectangles": bool(rectangles),
        "deep": None if reading.deep is None else asdict(reading.deep),
    }
    (building / _META).write_text(json.dumps(meta))


def _read_with_contents(
    building: Path, beside: Path, source: Source, take: Take, progress: bool
) -> Reading:
    """Reads all images for the store, and for the contents where they are missing."""
    if beside.exists():
        return read_all(source, [take], progress)

    recorder = _recorder(building, source)
    reading = read_all(source, [take, recorder.take], progress)
    save_contents(beside, recorder.contents())
    (building / _THUMBNAILS).unlink(missing_ok=True)
    return reading


def _recorder(building: Path, source: Source) -> Recorder:
    """A recorder whose thumbnails are in a file of the folder."""
    if not source.has_copies:
        return Recorder(source, None)
    shape = (source.count, 3, SIDE, SIDE)
    _check_space(building, math.prod(shape))
    return Recorder(source, _allocate(building / _THUMBNAILS, shape))


def _allocate(path: Path, shape: tuple[int, ...]) -> np.memmap:
    array: np.memmap = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    # A full disk must be an error here: writing to a sparse map would raise SIGBUS.
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


# ---------------------------------------------------------------- opening


def _open(path: Path, beside: Path) -> Store:
    try:
        meta = json.loads((path / _META).read_text())
        count = meta["count"]
        size = meta["size"]
        images = _open_map(path, "images", (count, 3, size, size))
        masks = _open_map(path, "masks", (count, size, size)) if meta.get("masks") else None
        labels = np.load(path / "labels.npy")
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
        contents=read_contents(beside),
        skipped=tuple((name, reason) for _, name, reason in skipped),
        skipped_rows=np.array([row for row, _, _ in skipped], np.int64),
        extra=meta["extra"],
        masks=masks,
        found=read_found(meta.get("found")),
        rectangles=meta.get("rectangles", True),
        deep=DeepImages(**meta["deep"]) if meta.get("deep") else None,
    )


def _open_map(path: Path, name: str, shape: tuple[int, ...]) -> np.ndarray:
    array: np.ndarray = np.load(path / f"{name}.npy", mmap_mode="r")
    if array.shape != shape:
        raise ValueError(f"{name} have shape {array.shape}, not {shape}")
    read_rows_alone(array)
    return array


# ---------------------------------------------------------------- disk space


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed + _SPARE_BYTES > free:
        raise UserError(
            f"the image store needs {needed / 1e9:.3g} GB in {folder}, {free / 1e9:.3g} GB free; "
            "set VISTUNE_CACHE to a directory with more space, or lower data.image_size"
        )


def disk_error(error: OSError, folder: Path) -> UserError:
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
