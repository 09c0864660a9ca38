"""An image store: decoded once for many trials, as a memory-mapped uint8 array on disk that all
processes of the machine share.

    <cache>/<name>-<fingerprint>-<S>px-v1/
        images.npy   (N, 3, S, S) uint8
        labels.npy   (N,) int64
        meta.json
        masks.npy    (N, S, S) uint8, only for data with masks
    <cache>/<name>-<fingerprint>-contents-v2.npz     for all sizes (`contents.py`)

A store is built in `<...>.building` under a file lock and renamed when it is complete and synced,
so a folder with the final name is always complete.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trainables.data.contents import Contents, read_contents
from trainables.data.levels import DeepImages
from trainables.data.paging import read_rows_alone
from trainables.data.source import BICUBIC, Source
from trainables.data.store_building import (
    META,
    VERSION,
    build_missing,
    disk_error,
    is_complete,
    locked,
)
from trainables.data.survey import read_found
from trainables.data_summary import FoundImages
from trainables.errors import UserError
from trainables.files import default_cache_dir


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
    """Sizes and modes of the files; None for embedded sets and stores of earlier versions."""
    deep: DeepImages | None = None
    """Images with more than 8 bits per channel, and the range that was mapped to 0 to 255."""
    rectangles: bool = True
    """True if any image is not square, or if that is unknown."""


def open_store(
    name: str,
    fingerprint: str,
    size: int,  # S, pixels
    make_source: Callable[[], Source],
    cache_dir: Path | None = None,
    progress: bool = False,
    version: int = BICUBIC,
) -> Store:
    """Open the store of (fingerprint, S), after building any part that is missing. One process
    builds it; others wait.

    Args:
        version: version of its contents.
    Raises:
        UserError: the cache directory is not writable, its disk is full, or the store in it is
            damaged.
    """
    final = store_path(name, fingerprint, size, cache_dir)
    beside = contents_path(name, fingerprint, cache_dir, version)
    if not is_complete(final, beside):
        try:
            with locked(final, progress):
                if not is_complete(final, beside):
                    source = replace(make_source(), version=version)
                    build_missing(final, beside, size, source, progress)
        except OSError as error:
            raise disk_error(error, final.parent) from None
    return _open(final, beside)


def store_path(name: str, fingerprint: str, size: int, cache_dir: Path | None) -> Path:
    """Folder of the store with this key, whether or not it exists."""
    return path_beside(name, fingerprint, cache_dir, f"{size}px-v{VERSION}")


def contents_path(
    name: str, fingerprint: str, cache_dir: Path | None, version: int = BICUBIC
) -> Path:
    """File with the contents that stores of all sizes share, whether or not it exists."""
    return path_beside(name, fingerprint, cache_dir, f"contents-v{version}.npz")


def path_beside(name: str, fingerprint: str, cache_dir: Path | None, end: str) -> Path:
    """Path of a file or folder in the cache that belongs to a data set, whether or not it
    exists."""
    word = re.sub(r"[^\w.-]+", "_", name)[:40]
    folder = cache_dir or default_cache_dir()
    return folder / f"{word}-{fingerprint[:16]}-{end}"


def existing_extra(
    name: str, fingerprint: str, size: int, cache_dir: Path | None
) -> dict[str, Any] | None:
    """`Source.extra` of a store that already exists, else None."""
    path = store_path(name, fingerprint, size, cache_dir)
    try:
        meta = json.loads((path / META).read_text())
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


# ---------------------------------------------------------------- opening


def _open(path: Path, beside: Path) -> Store:
    try:
        meta = json.loads((path / META).read_text())
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
    skipped = meta["skipped"]  # [row, path, reason] each
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
