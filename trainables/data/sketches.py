"""Upper bounds of the correlations of many images, by few numbers of each.

Pixels with mean 0 and length 1 are projected onto a few axes. The product of two such vectors is
that of their projections plus that of what the axes leave out, which by Cauchy and Schwarz is at
most the product of the two lengths. So most pairs that do not correlate need no comparison of
pixels, and no pair that does is lost.
"""

from collections.abc import Callable

import numpy as np

_SAMPLE = 512  # images that the axes are made from
_STEPS = (128, 512)  # axes that are looked at first, and after them
_MOST_NUMBERS = 1 << 25  # of all images together: 128 MB
_MARGIN = 1e-3  # of a bound: rounding of a length near 0 is the root of that of its square

MOST_SKETCHED = _MOST_NUMBERS // 64
"""Number of images up to which each has a sketch that says something."""
MOST_PIXELS = 3 * 64 * 64
"""Values of an image up to which a sample and its axes take little memory."""

Vectors = Callable[[np.ndarray], np.ndarray]
"""(k,) positions -> (k, D) float32 of mean 0 and length 1, or zeros."""


class Sketches:
    """Projections of images onto the main directions of a sample of them.

    Args:
        block: number of images that are projected at a time.
    """

    def __init__(
        self,
        vectors: Vectors,
        count: int,  # N
        block: int,
    ):
        most = min(_STEPS[-1], _MOST_NUMBERS // count)
        axes = _main_axes(vectors, count, most)
        width = axes.shape[1]
        self._ends = [end for end in _STEPS if end < width] + [width]
        self._coordinates = np.empty((count, width), np.float32)
        self._rests = np.empty((len(self._ends), count), np.float32)

        for start in range(0, count, block):
            some = np.arange(start, min(start + block, count))
            pixels = vectors(some)
            coordinates = pixels @ axes
            self._coordinates[some] = coordinates
            lengths = (pixels**2).sum(1)
            for step, end in enumerate(self._ends):
                held = (coordinates[:, :end] ** 2).sum(1)
                self._rests[step, some] = np.sqrt(np.maximum(lengths - held, 0))

    def without_unlike(
        self,
        near: np.ndarray,  # (a, b) bool
        left: np.ndarray,  # (a,) positions
        right: np.ndarray,  # (b,) positions
        least: float,  # correlation in [0, 1]
    ) -> np.ndarray:  # (a, b) bool
        """The same pairs but for those whose correlation is certainly below `least`."""
        found = near.copy()
        for end, rest in zip(self._ends, self._rests, strict=True):
            rows = np.flatnonzero(found.any(1))
            columns = np.flatnonzero(found.any(0))
            if not len(rows):
                break
            a = left[rows]
            b = right[columns]
            bound = self._coordinates[a, :end] @ self._coordinates[b, :end].T
            bound += rest[a][:, None] * rest[b]
            found[np.ix_(rows, columns)] &= bound >= least - _MARGIN
        return found


def _main_axes(
    vectors: Vectors,
    count: int,
    most: int,
) -> np.ndarray:  # (D, k) float32, orthonormal columns, k <= most
    """The principal directions of a sample of images, those that hold most of it first."""
    every = max(1, count // _SAMPLE)
    chosen = np.arange(0, count, every)[:_SAMPLE]
    sample = vectors(chosen).astype(np.float64)
    squares, directions = np.linalg.eigh(sample @ sample.T)
    largest = np.argsort(squares)[::-1][:most]
    largest = largest[squares[largest] > 1e-6 * squares.max()]
    axes = sample.T @ directions[:, largest] / np.sqrt(squares[largest])
    orthonormal: np.ndarray = axes.astype(np.float32)
    return orthonormal
