"""Upper bounds on the correlations of many images, from a few numbers per image.

Pixels with mean 0 and length 1 are projected onto a few axes. The product of two such vectors is
the product of their projections plus that of the remainders. By Cauchy-Schwarz, the latter is at
most the product of their lengths. So most pairs that do not correlate are excluded without
comparing pixels, and no pair that does correlate is lost.
"""

from collections.abc import Callable

import numpy as np

_SAMPLE = 1152  # images from which the axes are computed
_STEPS = (128, 512, 1152)  # axes used at first, and in later steps
_MOST_NUMBERS = 1 << 25  # for all images together: 128 MB
_TRIED = 1 << 23  # number of pairs after which it is known if sketches help
_WORTH = 0.6  # share of pairs left, above which bounds cost more than they save
_MARGIN = 1e-3  # of a bound, for rounding: a length near 0 is the root of its rounded square

MOST_SKETCHED = _MOST_NUMBERS // 64
"""Largest number of images for which sketches have enough numbers each."""
MOST_PIXELS = 3 * 64 * 64
"""Largest number of values per image for which a sample and its axes need little memory."""

Vectors = Callable[[np.ndarray], np.ndarray]
"""(k,) positions -> (k, D) float32 with mean 0 and length 1, or zeros."""


class Sketches:
    """Projections of images onto the principal directions of a sample of them.

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
        self._areas = [0, 0]  # pairs of rows and columns: requested, and remaining
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

    @property
    def pay(self) -> bool:
        """True if sketches have saved more comparisons than they cost, or have hardly been used."""
        asked, left = self._areas
        return asked < _TRIED or left < _WORTH * asked

    def without_unlike(
        self,
        near: np.ndarray,  # (a, b) bool
        left: np.ndarray,  # (a,) positions
        right: np.ndarray,  # (b,) positions
        least: float,  # correlation in [0, 1]
    ) -> np.ndarray:  # (a, b) bool
        """Exclude the pairs whose correlation is certainly below `least`."""
        rows = np.arange(len(left))
        columns = np.arange(len(right))
        kept = near
        products = np.zeros(near.shape, np.float32)
        begin = 0

        for end, rest in zip(self._ends, self._rests, strict=True):
            some = kept.any(1)
            others = kept.any(0)
            if not (some.all() and others.all()):
                rows = rows[some]
                columns = columns[others]
                kept = kept[np.ix_(some, others)]
                products = products[np.ix_(some, others)]
            if not len(rows):
                break

            a = left[rows]
            b = right[columns]
            products += self._coordinates[a, begin:end] @ self._coordinates[b, begin:end].T
            bound = rest[a][:, None] * rest[b]
            bound += products
            kept = kept & (bound >= least - _MARGIN)
            begin = end

        found = np.zeros_like(near)
        found[np.ix_(rows, columns)] = kept
        self._areas[0] += near.size
        self._areas[1] += int(kept.any(1).sum() * kept.any(0).sum())
        return found


def _main_axes(
    vectors: Vectors,
    count: int,
    most: int,
) -> np.ndarray:  # (D, k) float32, orthonormal columns, k <= most
    """Principal directions of a sample of images, in descending order of variance."""
    every = max(1, count // _SAMPLE)
    chosen = np.arange(0, count, every)[:_SAMPLE]
    sample = vectors(chosen).astype(np.float64)
    squares, directions = np.linalg.eigh(sample @ sample.T)
    largest = np.argsort(squares)[::-1][:most]
    largest = largest[squares[largest] > 1e-6 * squares.max()]
    axes = sample.T @ directions[:, largest] / np.sqrt(squares[largest])
    orthonormal: np.ndarray = axes.astype(np.float32)
    return orthonormal
