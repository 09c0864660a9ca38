"""The identity of every image in a data set, independent of training size.

    <cache>/<name>-<fingerprint>-contents-v2.npz
        digests   (N, 32) uint8, SHA-256 of each image's file (of its pixels in an embedded set)
        groups    (N,) int64: rows of one group are one picture, saved more than once

Near-duplicates are searched for once, at 32 px. The file is written when the first store of the
data set is built, or in a separate pass if an existing store lacks it. Its version is that of the
thumbnails (`source.BICUBIC`, `source.REDUCED`); `data.split` fixes it for a study.
"""

import hashlib
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from trainables.data.duplicates import near_duplicates
from trainables.data.images import Picture
from trainables.data.source import REDUCED, Source
from trainables.errors import UserError
from trainables.files import atomic_file

SIDE = 32
"""Size at which near-duplicates are searched for, in pixels."""

_UNREADABLE = 0xFF  # fills the digest of a row without an image, which sorts last


@dataclass(frozen=True, eq=False)
class Contents:
    """Digests and near-duplicate groups of the rows of a store."""

    digests: np.ndarray  # (N, 32) uint8, SHA-256
    groups: np.ndarray  # (N,) int64

    @cached_property
    def keys(self) -> np.ndarray:  # (N,) int64
        """First eight bytes of each digest: short identifiers of the images, for sets of them."""
        first = np.ascontiguousarray(self.digests[:, :8])
        return first.view("<i8").ravel().astype(np.int64)

    @cached_property
    def representatives(self) -> np.ndarray:  # (N,) int64
        """For every row, the row with the smallest digest in its group."""
        by_digest = np.lexsort(self.digests.T[::-1])
        ordered = self.groups[by_digest]
        _, first, group_of = np.unique(ordered, return_index=True, return_inverse=True)
        found = np.empty(len(ordered), np.int64)
        found[by_digest] = by_digest[first][group_of]
        return found


def digest_of_keys(keys: np.ndarray) -> str:  # (n,) int64
    """16 hexadecimal digits that identify a set of images."""
    ordered = np.unique(keys).astype("<i8")
    return hashlib.sha256(ordered.tobytes()).hexdigest()[:16]


class Recorder:
    """Collects the contents of a source while its images are read.

    Args:
        thumbnails: (N, 3, 32, 32) uint8, filled in.
            None: only rows with equal contents are one picture.
    """

    def __init__(self, source: Source, thumbnails: np.ndarray | None):
        self.version = source.version
        self.digests = np.full((source.count, 32), _UNREADABLE, np.uint8)
        self.thumbnails = thumbnails

    def take(self, row: int, picture: Picture) -> None:
        """Record one image."""
        if self.thumbnails is not None:
            self.thumbnails[row] = self._thumbnail(picture)
        self.digests[row] = np.frombuffer(picture.content, np.uint8)

    def _thumbnail(self, picture: Picture) -> np.ndarray:  # (3, 32, 32) uint8
        if self.version == REDUCED and picture.reduced is not None:
            return picture.reduced(SIDE)
        return picture.at(SIDE)

    def contents(self) -> Contents:
        """Everything that was recorded."""
        if self.thumbnails is None:
            _, same = np.unique(self.digests, axis=0, return_inverse=True)
            groups = same.ravel()
        else:
            groups = near_duplicates(self.thumbnails)
        return Contents(self.digests, groups.astype(np.int64))


def save_contents(path: Path, contents: Contents) -> None:
    """Write the file; after a kill it is either complete or missing."""
    with atomic_file(path) as file:
        np.savez(file, digests=contents.digests, groups=contents.groups)


def read_contents(path: Path) -> Contents:
    """Read the file.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with np.load(path) as arrays:
            return Contents(arrays["digests"], arrays["groups"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"the list of contents {path} is damaged ({error}); "
            "remove that file and run again to rebuild it"
        ) from None
