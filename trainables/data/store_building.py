"""Builds the stores of `store.py`: one pass over the images, under a lock, in a folder that is
renamed when it is complete and synced."""

import errno
import json
import math
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from trainables.data.contents import SIDE, Recorder, save_contents
from trainables.data.images import Picture
from trainables.data.source import Reading, Source, Take, read_all
from trainables.data.survey import Survey
from trainables.errors import UserError

VERSION = 1
"""Part of the key. Increase it when decoding, resizing or rendering changes."""
META = "meta.json"
"""File with facts about a store; a store that has it is complete."""
SKIPPED = "skipped.txt"
"""File in a store that lists images that could not be decoded: path, tab, reason."""
BUILDING = ".building"
"""Suffix of a folder that is being built."""

_THUMBNAILS = "thumbnails.npy"  # exists only while contents are recorded
_SPARE_BYTES = 32 << 20  # left free on the disk
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def locked(final: Path, progress: bool) -> Iterator[None]:
    """Hold the lock of a store while it is built."""
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


def is_complete(final: Path, beside: Path) -> bool:
    return (final / META).exists() and beside.exists()


def build_missing(final: Path, beside: Path, size: int, source: Source, progress: bool) -> None:
    """Build the store, the contents, or both in one pass over the images."""
    if (final / META).exists():
        _build_contents(beside, source, progress)
    else:
        _build(final, beside, size, source, progress)


def _build_contents(beside: Path, source: Source, progress: bool) -> None:
    # Take this lock too: a store of another size may lack the same contents.
    with locked(beside, progress):
        if beside.exists():
            return
        with _building(beside) as building:
            recorder = _recorder(building, source)
            read_all(source, [recorder.take], progress)
            save_contents(beside, recorder.contents())


@contextmanager
def _building(final: Path) -> Iterator[Path]:
    """An empty folder beside `final`, removed at the end of the block. The caller holds the
    lock."""
    building = final.with_name(final.name + BUILDING)
    # left by a killed build, because no other process holds the lock
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
        # Read the mask first, so that the image stays black if its mask is unusable.
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
    (building / META).write_text(json.dumps(meta))


def _read_with_contents(
    building: Path, beside: Path, source: Source, take: Take, progress: bool
) -> Reading:
    """Read all images for the store, and for the contents if they are missing."""
    if beside.exists():
        return read_all(source, [take], progress)

    recorder = _recorder(building, source)
    reading = read_all(source, [take, recorder.take], progress)
    save_contents(beside, recorder.contents())
    (building / _THUMBNAILS).unlink(missing_ok=True)
    return reading


def _recorder(building: Path, source: Source) -> Recorder:
    """A recorder with thumbnails in a file of the folder."""
    if not source.has_copies:
        return Recorder(source, None)
    shape = (source.count, 3, SIDE, SIDE)
    _check_space(building, math.prod(shape))
    return Recorder(source, _allocate(building / _THUMBNAILS, shape))


def _allocate(path: Path, shape: tuple[int, ...]) -> np.memmap:
    array: np.memmap = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    # A full disk must raise an error here: writing to a sparse map would raise SIGBUS.
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def sync(folder: Path) -> None:
    """Flush all files in the folder, and its list of names, to the disk."""
    for path in (*folder.iterdir(), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


# ---------------------------------------------------------------- disk space


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed + _SPARE_BYTES > free:
        raise UserError(
            f"the image store needs {needed / 1e9:.3g} GB in {folder}, {free / 1e9:.3g} GB free; "
            "set VISTUNE_CACHE to a directory with more space, or lower data.image_size"
        )


def disk_error(error: OSError, folder: Path) -> UserError:
    """Error for a full disk or a folder that is not writable, in one line with the remedy."""
    if error.errno in _DISK_FULL:
        return UserError(
            f"the disk of {folder} became full while the image store was built; "
            "set VISTUNE_CACHE to a directory with more space"
        )
    return UserError(
        f"cannot write to the cache directory {folder} ({error.strerror or error}); "
        "set VISTUNE_CACHE to a writable directory"
    )
