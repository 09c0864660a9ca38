"""Maps a few hundred points to a plane by exact t-SNE (van der Maaten & Hinton, JMLR 2008), in
NumPy.

scikit-learn's Barnes-Hut tree pays off only for thousands of points. For 600 points, the whole
matrix of pairs is small: 100 steps take a tenth of the time of scikit-learn's 350, end at a lower
divergence (`tests/trainables/plots/test_tsne.py`), and need none of its imports.
"""

import numpy as np

Matrix = np.ndarray

_STEPS = 100
_EXAGGERATED_STEPS = 50
"""The first steps, in which points of a neighbourhood gather (section 3.4)."""
_EXAGGERATION = np.float32(4)
_MOMENTUM = (0.5, 0.85)
"""Momentum while exaggerated, and afterwards."""
_LEAST_GAIN = 0.01
_SPREAD = 1e-4
"""Initial standard deviation along the first component."""
_SEARCH_STEPS = 40
_TOLERANCE = 1e-4
"""Largest error of the entropy of a point's neighbours, in nats."""
_LARGEST_FACTOR = 8
"""Largest factor on a precision in one step of its search."""
_MOST_PRECISE = np.float32(1e15)
"""Largest precision; its square is a float32. Features of length 1 have smaller distances only if
they are equal."""
_BLOCKS = 6
"""Blocks along each side of the matrix of pairs."""
_NOWHERE = np.float32(1e30)
"""Square of a distance at which the kernel is 0."""


def tsne(
    features: Matrix,  # (n, d)
    start: Matrix,  # (n, 2), their first two principal components
    perplexity: float,
) -> Matrix:  # (n, 2) float32
    """Map points to a plane in which neighbours stay neighbours. Equal input gives equal output on
    one machine.

    Args:
        perplexity: effective number of neighbours, below n - 1.
    """
    joint = joint_probabilities(features, perplexity)
    points = (start * _SPREAD / start[:, 0].std()).astype(np.float32)
    speed = np.zeros_like(points)
    gains = np.ones_like(points)
    work = _Work(joint)

    for step in range(_STEPS):
        exaggerated = step < _EXAGGERATED_STEPS
        # Belkina et al. (2019): the number of points by the exaggeration.
        rate = len(points) / (_EXAGGERATION if exaggerated else 1)
        momentum = _MOMENTUM[0 if exaggerated else 1]
        gradient = work.gradient(points, exaggerated)
        # Section 3.4: a coordinate that keeps its direction is accelerated (Jacobs 1988).
        turned = speed * gradient >= 0
        gains = np.where(turned, gains * 0.8, gains + 0.2)
        gains = np.maximum(gains, _LEAST_GAIN)
        speed = momentum * speed - rate * gains * gradient
        points = (points + speed).astype(np.float32)
    centred: Matrix = points - points.mean(0)
    return centred


def principal_components(
    features: Matrix,  # (n, d)
) -> tuple[Matrix, tuple[float, float]]:
    """Projections (n, 2) on the first two principal components, and the shares of variance that
    they explain."""
    centred = features - features.mean(0)
    images, width = centred.shape
    if images < width:
        variances, vectors = np.linalg.eigh(centred @ centred.T)
        scales = np.sqrt(variances[:-3:-1].clip(0))
        projected = vectors[:, :-3:-1] * scales
    else:
        variances, vectors = np.linalg.eigh(centred.T @ centred)
        projected = centred @ vectors[:, :-3:-1]

    # The sign of a component is arbitrary: make its longest projection positive.
    longest = np.abs(projected).argmax(0)
    projected = projected * np.sign(projected[longest, [0, 1]])
    first, second = variances[:-3:-1] / variances.clip(0).sum()
    return projected, (float(first), float(second))


def joint_probabilities(
    features: Matrix,  # (n, d)
    perplexity: float,
) -> Matrix:  # (n, n) float32, sums to 1
    """Probabilities that pairs are neighbours, from a Gaussian around each point whose width gives
    it `perplexity` neighbours (equations 1 and 2, symmetric)."""
    distances = _squared_distances(features.astype(np.float32))
    np.fill_diagonal(distances, np.inf)
    distances -= distances.min(1, keepdims=True)  # so that not all exponentials of a row are 0
    np.fill_diagonal(distances, 0)

    conditional = _with_entropy(distances, np.log(perplexity))
    count = len(features)
    joint: Matrix = (conditional + conditional.T) / np.float32(2 * count)
    return joint


def divergence(joint: Matrix, points: Matrix) -> float:
    """Kullback-Leibler divergence of the pairs in a plane from `joint`, in nats, which `tsne`
    minimises."""
    kernel = 1 / (1 + _squared_distances(points.astype(np.float64)))
    np.fill_diagonal(kernel, 0)
    shown = kernel / kernel.sum()
    pairs = joint > 0
    return float((joint[pairs] * np.log(joint[pairs] / shown[pairs])).sum())


def _squared_distances(points: Matrix) -> Matrix:
    squares = (points * points).sum(1)
    found = squares[:, None] + squares - 2 * (points @ points.T)
    distances: Matrix = found.clip(0)
    return distances


def _with_entropy(distances: Matrix, entropy: float) -> Matrix:
    """Normalised rows exp(-precision x distance), where Newton's method finds the precision that
    gives each row this entropy."""
    precision = 1 / distances.mean(1).clip(1e-12)
    rows = np.empty_like(distances)
    weighted = np.empty_like(distances)
    for _ in range(_SEARCH_STEPS):
        np.multiply(distances, -precision[:, None], out=rows)
        np.exp(rows, out=rows)
        np.fill_diagonal(rows, 0)
        sums = rows.sum(1)
        np.multiply(rows, distances, out=weighted)
        mean = weighted.sum(1) / sums
        variance = np.einsum("ij,ij->i", weighted, distances) / sums - mean**2
        excess = np.log(sums) + precision * mean - entropy
        if np.abs(excess).max() < _TOLERANCE:
            break

        # The derivative of the entropy by the logarithm of the precision is -precision^2 variance.
        slope = (precision**2 * variance).clip(1e-12)
        limit = np.log(_LARGEST_FACTOR)
        precision *= np.exp((excess / slope).clip(-limit, limit))
        # More equal points than neighbours have no such precision: it would grow for ever.
        precision = precision.clip(max=_MOST_PRECISE)
    normalised: Matrix = rows / sums[:, None]
    return normalised


class _Work:
    """Matrices of all pairs, allocated once, because every step passes over them several times.

    They are symmetric. So each pair is worked on once: the matrices are cut into blocks, and those
    above the diagonal are kept.
    """

    def __init__(self, joint: Matrix):
        side = -(-len(joint) // _BLOCKS)  # rounded up
        self._count = len(joint)
        self._shape = (_BLOCKS, side)
        # The first `_BLOCKS` of them lie on the diagonal.
        pairs = sorted(zip(*np.triu_indices(_BLOCKS), strict=True), key=lambda ij: ij[1] - ij[0])
        self._rows, self._columns = np.array(pairs).T
        # Sums over the blocks of a row are products with these.
        numbers = np.arange(_BLOCKS)[:, None]
        self._of_row = (self._rows == numbers).astype(np.float32)
        self._of_column = (self._columns == numbers).astype(np.float32)
        self._joint = self._cut(joint)
        self._kernel = np.empty_like(self._joint)
        self._forces = np.empty_like(self._joint)
        self._once = np.triu(np.ones((side, side), np.float32), 1)
        self._joint[:_BLOCKS] *= self._once
        self._exaggerated = self._joint * _EXAGGERATION

        # 1 + |a - b|^2 is the product of (a, 1 + |a|^2, 1) and (-2 b, 1, |b|^2).
        size = _BLOCKS * side
        self._left = np.ones((size, 4), np.float32)
        self._right = np.ones((size, 4), np.float32)
        self._with_one = np.ones((size, 3), np.float32)
        for places in (self._left[:, 2], self._right[:, 3]):
            places[self._count :] = _NOWHERE
        self._with_one[self._count :] = 0

    def gradient(self, points: Matrix, exaggerated: bool) -> Matrix:
        """Gradient (n, 2) of the divergence (equation 5)."""
        joint = self._exaggerated if exaggerated else self._joint
        kernel = self._student(points)
        forces = np.multiply(kernel, -0.5 / kernel.sum(), out=self._forces)
        forces += joint
        forces *= kernel

        self._with_one[: self._count, :2] = points
        blocks = self._with_one.reshape(*self._shape, 3)
        on_rows = forces @ blocks[self._columns]
        on_columns = forces.transpose(0, 2, 1) @ blocks[self._rows]
        flat = (len(self._rows), -1)
        sums = self._of_row @ on_rows.reshape(flat) + self._of_column @ on_columns.reshape(flat)
        sums = sums.reshape(-1, 3)[: self._count]
        gradient: Matrix = 4 * (sums[:, 2:] * points - sums[:, :2])
        return gradient

    def _student(self, points: Matrix) -> Matrix:
        """Kernel 1 / (1 + |a - b|^2) of each pair once; 0 elsewhere."""
        squares = (points * points).sum(1)
        self._left[: self._count, :2] = points
        self._left[: self._count, 2] = 1 + squares
        self._right[: self._count, :2] = -2 * points
        self._right[: self._count, 3] = squares
        left = self._left.reshape(*self._shape, 4)[self._rows]
        right = self._right.reshape(*self._shape, 4)[self._columns]
        kernel = np.matmul(left, right.transpose(0, 2, 1), out=self._kernel)
        np.reciprocal(kernel, out=kernel)
        kernel[:_BLOCKS] *= self._once
        return kernel

    def _cut(self, matrix: Matrix) -> Matrix:  # (blocks, side, side)
        """The blocks on and above the diagonal; 0 beyond the matrix."""
        blocks, side = self._shape
        whole = np.zeros((blocks * side, blocks * side), np.float32)
        whole[: self._count, : self._count] = matrix
        cut = whole.reshape(blocks, side, blocks, side)
        return np.ascontiguousarray(cut[self._rows, :, self._columns])
