"""Near-duplicates: one picture saved more than once. Splits never separate them.

All frames of a fixed camera look alike, so pairs are not listed one by one. Images that are already
in one component are not compared, and crowds of similar images are compared in whole blocks.
"""

from collections.abc import Iterator
from hashlib import blake2b

import numpy as np
import torch
import torch.nn.functional as F
from threadpoolctl import threadpool_limits

from trainables.data.components import Components
from trainables.data.likeness import Pictures

_SIDE = 8  # side of a thumbnail, pixels
_AXES = 16  # principal axes in the search tree
_ROUNDING = 0.01  # largest rounding error of distances in the tree
_QUERIES = 1024  # thumbnails looked up at a time
_BLOCK = 256  # images made into thumbnails at a time
_LUMINANCE = (0.299, 0.587, 0.114)  # Rec. 601

_PROBES = 64  # images that are compared with all others first
_CROWD = 4  # an image near to at least this many probes is in a crowd
_MANY = 64  # an image with more neighbours than this is in a crowd, and they are not listed
_FEW = 4096  # with fewer distinct images, matrix products use one thread
_SKETCHED = 2048  # with this many images in crowds, sketches save more than they cost


def near_duplicates(
    images: np.ndarray,  # (N, 3, S, S) uint8
) -> np.ndarray:  # (N,) int64 group of each row
    """Group the rows that are one picture saved more than once: equal pixels, or re-encoded copies.

    Two rows are joined if their 8x8 luminance thumbnails (Rec. 601; JPEG preserves luminance better
    than colour) differ by at most 2 of 255 levels, root mean square, and their RGB pixels correlate
    with r >= 0.98. Rows joined through others share a group. Crops, flips and recoloured copies are
    not found.
    """
    thumbnails, hashes = _thumbnails(images)
    _, first, copy_of = np.unique(hashes, return_index=True, return_inverse=True)
    pictures = Pictures(images, first, thumbnails[first], Components(len(first)))

    # for small matrix products, waiting costs BLAS threads more time than they save
    threads = 1 if len(first) < _FEW else None
    with threadpool_limits(threads, user_api="blas"):
        crowded = _join_with_probes(pictures)
        crowded |= _join_neighbours(pictures, np.flatnonzero(~crowded))
        _join_crowds(pictures, crowded)
    return pictures.components.numbered()[copy_of]


def _join_with_probes(pictures: Pictures) -> np.ndarray:  # (n,) bool
    """Compare all images with a few arbitrary ones (positions are in hash order). This joins most
    frames of a scene.

    Returns:
        True for images in a crowd: near to several of the few, or joined with many others.
    """
    count = len(pictures.rows)
    probes = np.arange(min(count, _PROBES))
    near = np.zeros(count, np.int64)

    for block in _blocks(np.arange(count), pictures.block_size):
        near[block] = pictures.join_blocks(block, probes)
    return (near >= _CROWD) | (pictures.components.sizes() > _MANY)


def _join_neighbours(
    pictures: Pictures,
    positions: np.ndarray,  # (m,)
) -> np.ndarray:  # (n,) bool
    """Join near-duplicates among these positions, with a search tree of their thumbnails.

    Returns:
        True for images with more than `_MANY` neighbours, which have not been compared.
    """
    crowded = np.zeros(len(pictures.rows), bool)
    if not len(positions):
        return crowded

    from scipy.spatial import cKDTree  # imported here: 0.2 s, not needed if a store exists

    thumbnails = pictures.thumbnails[positions]
    centred = thumbnails - thumbnails.mean(0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    # projections never lengthen a distance, so no pair is lost; principal axes prune best
    tree = cKDTree(centred @ axes[:, -_AXES:])
    radius = pictures.radius + _ROUNDING

    for queries in _blocks(np.arange(len(positions)), _QUERIES):
        points = tree.data[queries]
        counts = tree.query_ball_point(points, radius, return_length=True)
        crowded[positions[queries[counts > _MANY]]] = True

        few = (counts > 1) & (counts <= _MANY)
        lists = tree.query_ball_point(points[few], radius)
        if len(lists):
            left = np.repeat(queries[few], counts[few])
            right = np.concatenate(lists).astype(np.int64)
            pictures.join_pairs(positions[left], positions[right])
    return crowded


def _join_crowds(
    pictures: Pictures,
    crowded: np.ndarray,  # (n,) bool
) -> None:
    """Compare images in crowds with all others, block by block. Blocks that are far apart, or
    within one component, are skipped."""
    component = pictures.components.of
    order = np.lexsort((component, ~crowded))  # crowds first
    blocks = list(_blocks(order, pictures.block_size))
    balls = [_ball(pictures.thumbnails[block]) for block in blocks]
    of_crowds = -(-int(crowded.sum()) // pictures.block_size)
    sketched = crowded.sum() >= _SKETCHED and pictures.may_sketch

    for i in range(of_crowds):
        centre, reach = balls[i]
        for j in range(i, len(blocks)):
            other_centre, other_reach = balls[j]
            between = np.linalg.norm(centre - other_centre)
            gap = between - reach - other_reach
            if gap <= pictures.radius:
                pictures.join_blocks(blocks[i], blocks[j], sketched)


def _blocks(
    positions: np.ndarray,  # (n,)
    size: int,
) -> Iterator[np.ndarray]:  # (size,), the last one may be shorter
    """Cut positions into blocks."""
    for start in range(0, len(positions), size):
        yield positions[start : start + size]


def _ball(
    thumbnails: np.ndarray,  # (b, 64)
) -> tuple[np.ndarray, float]:
    """Centre and radius of a ball around some thumbnails."""
    centre = thumbnails.mean(0, dtype=np.float64)
    return centre, float(np.linalg.norm(thumbnails - centre, axis=1).max())


def _thumbnails(
    images: np.ndarray,  # (N, 3, S, S) uint8
) -> tuple[np.ndarray, np.ndarray]:  # (N, 64) float32 in [0, 255]; (N,) int64
    """Luminance thumbnails, and hashes of the exact pixels."""
    thumbnails = np.empty((len(images), _SIDE * _SIDE), np.float32)
    hashes = np.empty(len(images), np.int64)
    for start in range(0, len(images), _BLOCK):
        rows = slice(start, start + _BLOCK)
        block = np.array(images[rows])
        small = field_means(luminance(block))
        thumbnails[rows] = small.reshape(len(block), -1)
        hashes[rows] = [_hash(image.tobytes()) for image in block]
    return thumbnails, hashes


def luminance(
    images: np.ndarray,  # (B, 3, S, S) uint8
) -> np.ndarray:  # (B, S, S) float32
    """Luminance according to Rec. 601."""
    red, green, blue = (np.float32(weight) for weight in _LUMINANCE)
    found: np.ndarray = images[:, 0] * red
    found += images[:, 1] * green
    found += images[:, 2] * blue
    return found


def field_means(
    values: np.ndarray,  # (B, S, S) float32
) -> np.ndarray:  # (B, 8, 8) float32
    """Means of 8x8 fields, bit for bit those of torch's `adaptive_avg_pool2d`, on which existing
    stores are based. It is called itself if a division would be rounded."""
    side = values.shape[-1] // _SIDE
    if values.shape[-1] % _SIDE or side & (side - 1):
        means: np.ndarray = F.adaptive_avg_pool2d(torch.from_numpy(values), _SIDE).numpy()
        return means

    fields = values.reshape(-1, _SIDE, side, _SIDE, side)
    sums = np.zeros((len(values), _SIDE, _SIDE), np.float32)
    for row in range(side):
        for column in range(side):
            sums += fields[:, :, row, :, column]
    return sums / np.float32(side * side)


def _hash(pixels: bytes) -> int:
    """A hash that is the same in every process, unlike `hash`: the order of groups decides which
    images are carved."""
    value = blake2b(pixels, digest_size=8).digest()
    return int.from_bytes(value, "little", signed=True)
