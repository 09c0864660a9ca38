"""Maps a few hundred points to a plane by exact t-SNE (van der Maaten & Hinton, JMLR 2008), in
NumPy.

scikit-learn's Barnes-Hut tree pays off only for thousands of points. For 600 points, the whole
matrix of pairs is small: 120 steps take a fifth of the time of scikit-learn's 350, end at a lower
divergence (`tests/trainables/plots/test_tsne.py`), and need none of its imports.
"""

import numpy as np

Matrix = np.ndarray

_STEPS = 120
_EXAGGERATED_STEPS = 40
"""The first steps, in which points of a neighbourhood gather (section 3.4)."""
_EXAGGERATION = np.float32(4)
_MOMENTUM = (0.5, 0.8)
"""Momentum while exaggerated, and afterwards."""
_RATE = (50, 200)
"""Learning rate while exaggerated, and afterwards."""
_LEAST_GAIN = 0.01
_SPREAD = 1e-4
"""Initial standard deviation along the first component."""
_SEARCH_STEPS = 40
_TOLERANCE = 1e-4
"""Largest error of the entropy of a point's neighbours, in nats."""


def tsne(
    features: Matrix,  # (n, d)
    perplexity: float,
) -> Matrix:  # (n, 2) float32
    """Map points to a plane in which neighbours stay neighbours, starting from their first two
    principal components. Equal input gives equal output on one machine.

    Args:
        perplexity: effective number of neighbours, below n - 1.
    """
    joint = joint_probabilities(features, perplexity)
    points, _ = principal_components(features)
    points = (points * _SPREAD / points[:, 0].std()).astype(np.float32)
    speed = np.zeros_like(points)
    gains = np.ones_like(points)
    work = _Work(joint)

    for step in range(_STEPS):
        exaggerated = step < _EXAGGERATED_STEPS
        phase = 0 if exaggerated else 1
        gradient = work.gradient(points, exaggerated)
        # Section 3.4: a coordinate that keeps its direction is accelerated (Jacobs 1988).
        turned = speed * gradient >= 0
        gains = np.where(turned, gains * 0.8, gains + 0.2)
        gains = np.maximum(gains, _LEAST_GAIN)
        speed = _MOMENTUM[phase] * speed - _RATE[phase] * gains * gradient
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
    """Normalised rows exp(-precision x distance), where bisection finds the precision that gives
    each row this entropy."""
    count = len(distances)
    low = np.zeros(count, np.float32)
    high = np.full(count, np.inf, np.float32)
    precision = 1 / np.median(distances, 1).clip(1e-12)
    for _ in range(_SEARCH_STEPS):
        rows = np.exp(-distances * precision[:, None])
        np.fill_diagonal(rows, 0)
        sums = rows.sum(1)
        found = np.log(sums) + precision * (rows * distances).sum(1) / sums
        if np.abs(found - entropy).max() < _TOLERANCE:
            break

        is_wide = found > entropy
        low = np.where(is_wide, precision, low)
        high = np.where(is_wide, high, precision)
        doubled = 2 * precision
        precision = np.where(np.isinf(high), doubled, (low + high) / 2)
    normalised: Matrix = rows / sums[:, None]
    return normalised


class _Work:
    """Matrices of all pairs, allocated once, because every step passes over them several times."""

    def __init__(self, joint: Matrix):
        count = len(joint)
        self._joint = joint
        self._exaggerated = joint * _EXAGGERATION
        self._kernel = np.empty_like(joint)
        self._forces = np.empty_like(joint)
        # 1 + |a - b|^2 is the product of (a, 1 + |a|^2, 1) and (-2 b, 1, |b|^2).
        self._left = np.ones((count, 4), np.float32)
        self._right = np.ones((count, 4), np.float32)
        self._with_one = np.ones((count, 3), np.float32)

    def gradient(self, points: Matrix, exaggerated: bool) -> Matrix:
        """Gradient (n, 2) of the divergence (equation 5)."""
        joint = self._exaggerated if exaggerated else self._joint
        kernel = self._student(points)
        forces = np.multiply(kernel, -1 / kernel.sum(), out=self._forces)
        forces += joint
        forces *= kernel

        self._with_one[:, :2] = points
        sums = forces @ self._with_one
        gradient: Matrix = 4 * (sums[:, 2:] * points - sums[:, :2])
        return gradient

    def _student(self, points: Matrix) -> Matrix:
        """Kernel 1 / (1 + |a - b|^2) of all pairs (n, n); 0 for a point with itself."""
        squares = (points * points).sum(1)
        self._left[:, :2] = points
        self._left[:, 2] = 1 + squares
        self._right[:, :2] = -2 * points
        self._right[:, 3] = squares
        kernel = np.matmul(self._left, self._right.T, out=self._kernel)
        np.reciprocal(kernel, out=kernel)
        np.fill_diagonal(kernel, 0)
        return kernel
