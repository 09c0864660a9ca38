"""Outcomes of every test image, from which the error of a finite test set is computed
(`tune/reports/sampling_error.py`).

Read-only commands import this module: it must not import torch.
"""

import base64
import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

Record = dict[str, Any]
"""Outcomes in a form that JSON can hold."""


class ImageRows(Protocol):
    """The part of a split that identifies its images."""

    @property
    def indices(self) -> np.ndarray: ...


class TestedData(Protocol):
    """The part of a data set that says which images are in the test split, and which of them belong
    together."""

    @property
    def fingerprint(self) -> str: ...
    @property
    def pool(self) -> str: ...
    @property
    def test(self) -> ImageRows: ...
    @property
    def clusters(self) -> np.ndarray | None: ...


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageOutcomes:
    """Outcomes of one run on n test units, which are images or episodes, in the order of the split.

    A metric is in `right` or in `overlaps`, by its full name, such as `test/top1`.
    """

    test_set: str
    """Digest of the units and their order. Runs with equal digests were tested on the same
    units."""
    right: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Metric -> (n,) number of right answers per unit. The metric is their mean divided by
    `answers`."""
    answers: int = 1
    """Answers per unit: 1 for an image, the number of queries for an episode."""
    overlaps: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Metric -> (n, C, 2) pixels of intersection and union. The metric is the mean over classes of
    the ratio of their sums over images."""
    clusters: np.ndarray | None = None  # (n,) int
    """Groups of images that belong together, such as drawings of one letter; None: no groups."""
    members: np.ndarray | None = None  # (n, N) int
    """Classes of each episode; None for images."""
    pool: str = ""
    """Digest of all images from which the test set was carved; "" if unknown. Test sets of one pool
    may overlap."""
    ids: np.ndarray | None = None  # (K,) int >= 0
    """Identity within the pool of each cluster, of each image if there are no clusters, or of each
    class of episodes; None if unknown."""

    def to_record(self) -> Record:
        """Convert to a form that JSON can hold: some 200 bytes for 1,000 images of a classifier."""
        record: Record = {"test_set": self.test_set, "answers": self.answers}
        for name in ("right", "overlaps"):
            arrays = getattr(self, name)
            record[name] = {metric: _packed(array) for metric, array in arrays.items()}
        for name in ("clusters", "members"):
            array = getattr(self, name)
            if array is not None:
                record[name] = _packed(array)
        if self.ids is not None:
            record["pool"] = self.pool
            record["ids"] = _packed(_steps(self.ids))
        return record

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "ImageOutcomes":
        """Read what `to_record` returned."""
        arrays: dict[str, Any] = {}
        for name in ("right", "overlaps"):
            packed = record[name]
            arrays[name] = {metric: _unpacked(array) for metric, array in packed.items()}
        for name in ("clusters", "members"):
            if name in record:
                arrays[name] = _unpacked(record[name])
        if "ids" in record:
            arrays["pool"] = record["pool"]
            arrays["ids"] = _from_steps(_unpacked(record["ids"]))
        return cls(test_set=record["test_set"], answers=record["answers"], **arrays)


def image_outcomes(
    data: TestedData,
    right: Mapping[str, np.ndarray] | None = None,
    overlaps: Mapping[str, np.ndarray] | None = None,
    answers: int = 1,
    judged: str = "",
) -> ImageOutcomes:
    """Build the outcomes of the images of `data.test`; see `ImageOutcomes` for the arrays. `judged`
    names another way of testing, such as on "whole" images, which counts as another test set."""
    rows = data.test.indices
    clusters = None
    ids = rows
    if data.clusters is not None:
        clusters = numbered(data.clusters[rows])
        ids = _first_rows(data.clusters)[rows]
        if clusters is not None:
            _, one_of_each = np.unique(clusters, return_index=True)
            ids = ids[one_of_each]
    return ImageOutcomes(
        test_set=digest_of(data.fingerprint + judged, rows),
        right=right or {},
        answers=answers,
        overlaps=overlaps or {},
        clusters=clusters,
        pool=digest_of(data.pool + judged),
        ids=ids,
    )


def digest_of(fingerprint: str, *arrays: np.ndarray) -> str:
    """Hexadecimal digest of a data set and of rows in it."""
    digest = hashlib.sha256(fingerprint.encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array, np.int64).tobytes())
    return digest.hexdigest()[:16]


def numbered(
    values: np.ndarray,  # (...) int
) -> np.ndarray | None:  # (...) int in [0, number of different values)
    """Number distinct values from 0; None if all values differ."""
    different, numbers = np.unique(values, return_inverse=True)
    if len(different) == values.size:
        return None
    return numbers.reshape(values.shape)


def _first_rows(
    clusters: np.ndarray,  # (N,) int, of a whole store
) -> np.ndarray:  # (N,) int
    """Return for every row the first row of its cluster: an identity that no split changes."""
    _, first, cluster_of = np.unique(clusters, return_index=True, return_inverse=True)
    found: np.ndarray = first[cluster_of]
    return found


def _steps(
    values: np.ndarray,  # (n,) int
) -> np.ndarray:  # (n,) int >= 0
    """Encode differences between neighbours, which are small for sorted values: 0, -1, 1, -2, 2 as
    0, 1, 2, 3, 4."""
    steps = np.diff(values, prepend=0)
    return np.where(steps < 0, -2 * steps - 1, 2 * steps)


def _from_steps(
    encoded: np.ndarray,  # (n,) int >= 0
) -> np.ndarray:  # (n,) int
    """Decode what `_steps` returned."""
    steps = np.where(encoded % 2 == 1, -(encoded + 1) // 2, encoded // 2)
    return np.cumsum(steps)


def _packed(
    array: np.ndarray,  # non-negative integers
) -> Record:
    """Compress the array in its smallest dtype and encode it as text."""
    largest = int(array.max(initial=0))
    small = array.astype(np.min_scalar_type(largest).newbyteorder("<"))
    compressed = zlib.compress(small.tobytes(), 9)
    return {
        "type": small.dtype.str,
        "shape": list(small.shape),
        "zlib": base64.b64encode(compressed).decode(),
    }


def _unpacked(packed: Mapping[str, Any]) -> np.ndarray:  # int64
    content = zlib.decompress(base64.b64decode(packed["zlib"]))
    small = np.frombuffer(content, np.dtype(packed["type"]))
    return small.reshape(packed["shape"]).astype(np.int64)
