"""Near-duplicates: one picture saved more than once. Splits never separate them."""

from collections.abc import Iterator
from hashlib import blake2b

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

_LEVELS = 2.0  # largest root mean square difference of two thumbnails, in grey levels of 255
_CORRELATION = 0.98  # smallest Pearson correlation of the RGB pixels
_SIDE = 8  # of a thumbnail, pixels
_AXES = 16  # principal axes that the search tree uses
_QUERIES = 1024  # thumbnails looked up at a time
_BLOCK = 256  # images made into thumbnails at a time
_LUMINANCE = (0.299, 0.587, 0.114)  # Rec. 601


def near_duplicates(
    images: np.ndarray,  # (N, 3, S, S) uint8
) -> np.ndarray:  # (N,) int64 group of each row
    """Groups the rows that are one picture saved more than once: equal pixels, or re-encoded
    copies.

    Two rows are joined when their 8x8 thumbnails of luminance (Rec. 601; JPEG keeps it better than
    colour) differ by at most 2 of 255 levels, root mean square, and their RGB pixels correlate with
    r >= 0.98. Rows that are joined through others share a group. Crops, flips and recoloured copies
    are not found.
    """
    thumbnails, hashes = _thumbnails(images)
    _, first, copy_of = np.unique(hashes, return_index=True, return_inverse=True)
    joined = [
        (a, b)
        for a, b in _similar_pairs(thumbnails[first])
        if _correlated(images[first[a]], images[first[b]])
    ]
    left, right = np.array(joined, int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(left)), (left, right)), shape=(len(first), len(first)))
    _, group = connected_components(graph, directed=False)
    groups: np.ndarray = group[copy_of].astype(np.int64)
    return groups


def _similar_pairs(
    thumbnails: np.ndarray,  # (n, 64) float32, all different
) -> Iterator[tuple[int, int]]:
    """Pairs of positions, in order, whose thumbnails differ by at most `_LEVELS`."""
    radius = _LEVELS * thumbnails.shape[1] ** 0.5
    centred = thumbnails - thumbnails.mean(0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    # a projection never lengthens a distance, so no pair is lost; principal axes prune best
    tree = cKDTree(centred @ axes[:, -_AXES:])

    for start in range(0, len(thumbnails), _QUERIES):
        near = tree.query_ball_point(tree.data[start : start + _QUERIES], radius)
        for position, found in enumerate(near, start):
            later = np.array([other for other in found if other > position], int)
            distance = np.linalg.norm(thumbnails[later] - thumbnails[position], axis=1)
            for other in later[distance <= radius]:
                yield position, other


def _thumbnails(
    images: np.ndarray,  # (N, 3, S, S) uint8
) -> tuple[np.ndarray, np.ndarray]:  # (N, 64) float32 in [0, 255]; (N,) int64
    """Thumbnails of luminance, and hashes of the exact pixels."""
    thumbnails = np.empty((len(images), _SIDE * _SIDE), np.float32)
    hashes = np.empty(len(images), np.int64)
    weights = torch.tensor(_LUMINANCE).view(3, 1, 1)
    for start in range(0, len(images), _BLOCK):
        block = np.array(images[start : start + _BLOCK])
        luminance = (torch.from_numpy(block) * weights).sum(1)
        small = F.adaptive_avg_pool2d(luminance, _SIDE)
        thumbnails[start : start + _BLOCK] = small.flatten(1).numpy()
        hashes[start : start + _BLOCK] = [_hash(row.tobytes()) for row in block]
    return thumbnails, hashes


def _hash(pixels: bytes) -> int:
    """A hash that is the same in every process, unlike `hash`: the order of groups decides what is
    carved."""
    return int.from_bytes(blake2b(pixels, digest_size=8).digest(), "little", signed=True)


def _correlated(left: np.ndarray, right: np.ndarray) -> bool:
    a = left.astype(np.float32).ravel() - left.mean()
    b = right.astype(np.float32).ravel() - right.mean()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return norm > 0 and float(a @ b) / norm >= _CORRELATION
