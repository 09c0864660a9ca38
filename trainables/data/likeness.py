"""The rule that decides if two images are near-duplicates, for one pair and for many at once.

Blocks are compared by matrix products, which round differently than a single comparison. Pairs
within a margin of a threshold are decided one by one, so the result is always that of the rule.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from trainables.data.components import Components
from trainables.data.sketches import MOST_PIXELS, MOST_SKETCHED, Sketches

LEVELS = 2.0
"""Largest root mean square difference of two thumbnails, in grey levels out of 255."""
CORRELATION = 0.98
"""Smallest Pearson correlation of the RGB pixels."""

_DISTANCE_MARGIN = 1e-3  # in the unit of `radius`
_CORRELATION_MARGIN = 1e-4
_MOST_FLOATS = 1 << 24  # pixel values compared at a time: 64 MB
_MOST_IN_BLOCK = 1024


@dataclass(frozen=True, eq=False)
class Pictures:
    """Distinct images, by position, and the components that near-duplicates among them form."""

    images: np.ndarray  # (N, 3, S, S) uint8
    """All images, including identical ones."""
    rows: np.ndarray  # (n,)
    """Row in `images` of each position."""
    thumbnails: np.ndarray  # (n, 64) float32
    """Mean luminance of 8x8 fields, in grey levels out of 255."""
    components: Components
    """Positions that have been joined so far."""

    @property
    def radius(self) -> float:
        """Largest Euclidean distance of two thumbnails that are near."""
        return float(LEVELS * self.thumbnails.shape[1] ** 0.5)

    @property
    def block_size(self) -> int:
        """Number of images that are compared at a time."""
        return max(16, min(_MOST_IN_BLOCK, _MOST_FLOATS // self._pixels))

    @cached_property
    def sketches(self) -> Sketches:
        """Short forms of all images, created on first use."""
        return Sketches(self.vectors, len(self.rows), self.block_size)

    @property
    def may_sketch(self) -> bool:
        """True if sketches of all images, and their axes, fit into memory."""
        return len(self.rows) <= MOST_SKETCHED and self._pixels <= MOST_PIXELS

    @property
    def _pixels(self) -> int:
        """Number of values in an image, 3 S S."""
        return int(np.prod(self.images.shape[1:]))

    def are_copies(self, left: int, right: int) -> bool:
        """Apply the rule: thumbnails differ by at most `LEVELS`, and pixels correlate by at least
        `CORRELATION`."""
        difference = self.thumbnails[[right]] - self.thumbnails[left]
        if np.linalg.norm(difference, axis=1)[0] > self.radius:
            return False
        return _correlated(self.images[self.rows[left]], self.images[self.rows[right]])

    def join_pairs(
        self,
        left: np.ndarray,  # (m,) positions
        right: np.ndarray,  # (m,) positions
    ) -> None:
        """Join the pairs that are near-duplicates. Each round compares one pair of each left
        position, because other pairs may then be joined already."""
        while True:
            component = self.components.of
            apart = component[left] != component[right]
            left, right = left[apart], right[apart]
            if not len(left):
                return

            _, chosen = np.unique(left, return_index=True)
            for start in range(0, len(chosen), self.block_size):
                some = chosen[start : start + self.block_size]
                self._join_each(left[some], right[some])
            left, right = np.delete(left, chosen), np.delete(right, chosen)

    def _join_each(
        self,
        left: np.ndarray,  # (m,) positions
        right: np.ndarray,  # (m,) positions
    ) -> None:
        """Join each left image with its right image if they are near-duplicates."""
        a = self.thumbnails[left].astype(np.float64)
        b = self.thumbnails[right].astype(np.float64)
        distance = np.sqrt(((a - b) ** 2).sum(1))
        near = distance <= self.radius + _DISTANCE_MARGIN
        left, right, distance = left[near], right[near], distance[near]

        a_pixels = self.vectors(left)
        b_pixels = self.vectors(right)
        correlation = np.einsum("ij,ij->i", a_pixels, b_pixels)
        self._join_by(left, right, distance, correlation)

    def join_blocks(
        self,
        left: np.ndarray,  # (a,) positions
        right: np.ndarray,  # (b,) positions
        sketched: bool = False,
    ) -> np.ndarray:  # (a,) int64
        """Join near-duplicates between `left` and `right`, with at most `block_size` images each.

        Args:
            sketched: exclude pairs by `sketches` before comparing their pixels.
        Returns:
            Number of near thumbnails in `right` for each image in `left`, not counting those that
            are already in the same component.
        """
        component = self.components.of
        involved = component[np.concatenate([left, right])]
        if (involved == involved[0]).all():
            return np.zeros(len(left), np.int64)

        apart = component[left][:, None] != component[right]
        squares = _squared_distances(self.thumbnails[left], self.thumbnails[right])
        near = apart & (squares <= (self.radius + _DISTANCE_MARGIN) ** 2)
        counts: np.ndarray = near.sum(1)
        if sketched and counts.any() and self.sketches.pay:
            near = self.sketches.without_unlike(near, left, right, CORRELATION)

        rows = np.flatnonzero(near.any(1))
        columns = np.flatnonzero(near.any(0))
        if len(rows):
            within = np.ix_(rows, columns)
            a_pixels = self.vectors(left[rows])
            b_pixels = self.vectors(right[columns])
            correlation = a_pixels @ b_pixels.T

            alike = correlation >= CORRELATION - _CORRELATION_MARGIN
            i, j = np.nonzero(near[within] & alike)
            distances = np.sqrt(np.maximum(squares[rows[i], columns[j]], 0))
            self._join_by(left[rows[i]], right[columns[j]], distances, correlation[i, j])
        return counts

    def _join_by(
        self,
        left: np.ndarray,  # (m,) positions
        right: np.ndarray,  # (m,) positions
        distance: np.ndarray,  # (m,) of the thumbnails
        correlation: np.ndarray,  # (m,) of the pixels
    ) -> None:
        """Join pairs that clearly pass, then apply the exact rule to doubtful ones."""
        within = distance <= self.radius - _DISTANCE_MARGIN
        surely_alike = correlation >= CORRELATION + _CORRELATION_MARGIN
        sure = within & surely_alike
        self.components.add_edges(left[sure], right[sure])

        possible = correlation >= CORRELATION - _CORRELATION_MARGIN
        doubtful = possible & ~sure
        for a, b in zip(left[doubtful], right[doubtful], strict=True):
            component = self.components.of
            if component[a] != component[b] and self.are_copies(a, b):
                self.components.add_edges(np.array([a]), np.array([b]))

    def vectors(
        self,
        positions: np.ndarray,  # (k,)
    ) -> np.ndarray:  # (k, 3 S S) float32
        """Pixels with mean 0 and length 1, whose products are correlations; zeros for an image with
        only one level."""
        images = self.images[self.rows[positions]]
        pixels = images.reshape(len(positions), self._pixels).astype(np.float32)
        pixels -= pixels.mean(1, keepdims=True, dtype=np.float64).astype(np.float32)
        lengths = np.linalg.norm(pixels, axis=1, keepdims=True)
        unit: np.ndarray = pixels / np.maximum(lengths, np.finfo(np.float32).tiny)
        return unit


def _squared_distances(
    left: np.ndarray,  # (a, 64)
    right: np.ndarray,  # (b, 64)
) -> np.ndarray:  # (a, b) float64
    """Squared Euclidean distances between left and right; rounding may make some negative."""
    left = left.astype(np.float64)
    right = right.astype(np.float64)

    squares: np.ndarray = left @ (-2 * right.T)
    squares += (left**2).sum(1)[:, None]
    squares += (right**2).sum(1)
    return squares


def _correlated(
    left: np.ndarray,  # (3, S, S) uint8
    right: np.ndarray,  # (3, S, S) uint8
) -> bool:
    """True if pixels correlate by at least `CORRELATION`; false for images with only one level."""
    a = _centred(left)
    b = _centred(right)
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    if norm == 0:
        return False
    return float(a @ b) / norm >= CORRELATION


def _centred(image: np.ndarray) -> np.ndarray:  # (3 S S,)
    """Pixels as a vector with mean 0."""
    pixels = image.astype(np.float32).ravel()
    centred: np.ndarray = pixels - image.mean()
    return centred
