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
    joined: list[tuple[int, int]] = []
    for a, b in _similar_pairs(thumbnails[first]):
        if _correlated(images[first[a]], images[first[b]]):
            joined.append((a, b))

    left, right = np.array(joined, int).reshape(-1, 2).T
    count = len(first)
    edges = np.ones(len(left))
    graph = coo_array((edges, (left, right)), shape=(count, count))
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
        queries = tree.data[start : start + _QUERIES]
        near = tree.query_ball_point(queries, radius)
        for position, found in enumerate(near, start):
            later = np.array([other for other in found if other > position], int)
            difference = thumbnails[later] - thumbnails[position]
            distance = np.linalg.norm(difference, axis=1)
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
        rows = slice(start, start + _BLOCK)
        block = np.array(images[rows])
        luminance = (torch.from_numpy(block) * weights).sum(1)
        small = F.adaptive_avg_pool2d(luminance, _SIDE)
        thumbnails[rows] = small.flatten(1).numpy()
        hashes[rows] = [_hash(image.tobytes()) for image in block]
    return thumbnails, hashes


def _hash(pixels: bytes) -> int:
    """A hash that is the same in every process, unlike `hash`: the order of groups decides what is
    carved."""
    value = blake2b(pixels, digest_size=8).digest()
    return int.from_bytes(value, "little", signed=True)


def _correlated(
    left: np.ndarray,  # (3, S, S) uint8
    right: np.ndarray,  # (3, S, S) uint8
) -> bool:
    a = _centred(left)
    b = _centred(right)
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    if norm == 0:
        return False
    return float(a @ b) / norm >= _CORRELATION


def _centred(image: np.ndarray) -> np.ndarray:  # (3 S S,) float32
    """Pixels as a vector with mean 0."""
    pixels = image.astype(np.float32).ravel()
    centred: np.ndarray = pixels - image.mean()
    return centred
