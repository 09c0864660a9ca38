"""Measures of a representation that need no labels: candidates for the objective of `ssl` on images
without labels.

Features are float32 arrays (n, d). Views are features of augmented images: row i of each belongs to
image i. Larger means better unless a docstring says otherwise. `benchmarks/label_free.py` measures
the worth of each.
"""

import itertools

import numpy as np
import torch

from trainables.metrics import rankme

_CLUSTERS = 16
_TEMPERATURE = 0.1  # of the contrast between views
_LIDAR_RIDGE = 1e-4  # LiDAR's delta, relative to the mean variance within images


def candidates(
    clean: np.ndarray,  # (n, d): unaugmented images
    pairs: dict[str, tuple[np.ndarray, np.ndarray]],  # name -> two views (n, d) each
    clusters: bool = True,
) -> dict[str, float]:
    """Return the value of every candidate. `pairs` has at least "a" and "b", drawn
    independently."""
    found = {"rankme": rankme(torch.from_numpy(clean)), "alpha": spectral_decay(clean)}
    for name, (first, second) in pairs.items():
        values = retrieval(first, second)
        found |= {f"{kind}.{name}": value for kind, value in values.items()}

    first, second = pairs["a"]
    found["view_rank"] = view_rank(first, second, clean)
    found["alignment"] = alignment(first, second)
    found["uniformity"] = uniformity(np.concatenate([first, second]))
    if clusters:
        found["clusters"] = cluster_agreement(clean, first, second)
    found["lidar"] = lidar(np.stack([*pairs["a"], *pairs["b"]]))
    return found


def retrieval(
    first: np.ndarray,  # (n, d)
    second: np.ndarray,  # (n, d)
) -> dict[str, float]:
    """Return shares of images whose views find each other by cosine, and soft forms of them.

    `mutual`: each is the other's nearest among all 2n - 1 others. `nearest`: mean over both
    directions. `cross`: the same among the n views of the other draw. `rank`: mean reciprocal rank
    among those. `contrast`: mean log of the softmax at temperature 0.1 among those.
    """
    count = len(first)
    views = unit(np.concatenate([first, second]))
    similarity = views @ views.T  # (2n, 2n)
    np.fill_diagonal(similarity, -np.inf)
    own = np.concatenate([np.arange(count, 2 * count), np.arange(count)])
    # A view that ties with others does not count as found: in a collapsed network all views tie.
    others = similarity.copy()
    others[np.arange(2 * count), own] = -np.inf
    right = similarity[np.arange(2 * count), own] > others.max(1)

    across = similarity[:count, count:]  # (n, n)
    ranks = _ranks(across), _ranks(across.T)
    hits = [(rank == 1).mean() for rank in ranks]
    soft = [_log_softmax_of_own(across), _log_softmax_of_own(across.T)]
    return {
        "mutual": float((right[:count] & right[count:]).mean()),
        "nearest": float(right.mean()),
        "cross": float(np.mean(hits)),
        "rank": float(np.mean([(1 / rank).mean() for rank in ranks])),
        "contrast": float(np.mean(soft)),
    }


def view_rank(
    *pictures: np.ndarray,  # (n, d) each
) -> float:
    """Return 1 minus the mean log rank at which pictures of one image find each other by cosine,
    over all pairs and both directions, relative to ln(n)."""
    ranks = [
        _ranks(unit(one) @ unit(other).T) for one, other in itertools.permutations(pictures, 2)
    ]
    return float(1 - np.log(np.concatenate(ranks)).mean() / np.log(len(pictures[0])))


def _ranks(
    similarity: np.ndarray,  # (n, n)
) -> np.ndarray:  # (n,), from 1
    """Return the rank of the diagonal in each row; ties count against it."""
    return (similarity >= similarity.diagonal()[:, None]).sum(1)


def _log_softmax_of_own(
    similarity: np.ndarray,  # (n, n)
) -> float:
    logits = similarity.astype(np.float64) / _TEMPERATURE
    top = logits.max(1, keepdims=True)
    normaliser = top[:, 0] + np.log(np.exp(logits - top).sum(1))
    return float((logits.diagonal() - normaliser).mean())


def alignment(
    first: np.ndarray,  # (n, d)
    second: np.ndarray,  # (n, d)
) -> float:
    """Return the mean squared distance between the unit vectors of two views (Wang & Isola 2020,
    section 4.1, alpha = 2), in [0, 4]; smaller is better."""
    return float(np.square(unit(first) - unit(second)).sum(1).mean())


def uniformity(
    z: np.ndarray,  # (n, d)
) -> float:
    """Return the log of the mean of exp(-2 |x - y|^2) over pairs of unit vectors (Wang & Isola
    2020, section 4.1, t = 2), in [-8, 0]; smaller is better."""
    z = unit(z).astype(np.float64)
    above = np.triu_indices(len(z), 1)
    squared_distance = (2 - 2 * z @ z.T)[above]
    return float(np.log(np.exp(-2 * squared_distance).mean()))


def spectral_decay(
    z: np.ndarray,  # (n, d)
) -> float:
    """Return the exponent alpha of the power law of the covariance's eigenvalues (Agrawal et al.
    2022, alpha-ReQ), fitted by least squares on logarithms; 1 is best.

    Eigenvalues below 1e-6 of the largest are left out.
    """
    values = np.linalg.eigvalsh(np.cov(z.astype(np.float64), rowvar=False))[::-1]
    values = values[values > 1e-6 * max(values[0], 1e-30)]
    if len(values) < 3:
        return float("nan")
    slope, _ = np.polyfit(np.log(np.arange(1, len(values) + 1)), np.log(values), 1)
    return float(-slope)


def lidar(
    views: np.ndarray,  # (q, n, d): q views of each of n images
) -> float:
    """Return the effective rank of the linear discriminants between images (Thilak et al. 2023,
    LiDAR), where an image is a class and its views are the members. In [1, d]."""
    views = views.astype(np.float64)
    count, images, width = views.shape
    means = views.mean(0)  # (n, d)
    centred = means - means.mean(0)
    between = centred.T @ centred / (images - 1)
    residuals = (views - means).reshape(-1, width)
    within = residuals.T @ residuals / (images * (count - 1))
    scale = max(np.trace(within) / width, 1e-30)
    within += _LIDAR_RIDGE * scale * np.eye(width)

    values, vectors = np.linalg.eigh(within)
    whitening = vectors / np.sqrt(values) @ vectors.T
    spectrum = np.linalg.eigvalsh(whitening @ between @ whitening).clip(0)
    if spectrum.sum() <= 0:
        return 1.0
    shares = spectrum / spectrum.sum() + 1e-7
    return float(np.exp(-(shares * np.log(shares)).sum()))


def cluster_agreement(
    clean: np.ndarray,  # (n, d)
    first: np.ndarray,  # (n, d)
    second: np.ndarray,  # (n, d)
) -> float:
    """Return the adjusted Rand index between the clusters of two views. A view belongs to the
    nearest of 16 k-means centres of unaugmented images. Agreement by chance gives 0."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score

    different = len(np.unique(unit(clean), axis=0))
    clusters = min(_CLUSTERS, len(clean) // 8, different)
    found = KMeans(clusters, n_init=1, random_state=0, max_iter=20).fit(unit(clean))
    one, two = found.predict(unit(first)), found.predict(unit(second))
    if len(np.unique(one)) == 1 and len(np.unique(two)) == 1:
        return 0.0  # sklearn returns 1, because both are one cluster
    return float(adjusted_rand_score(one, two))


def unit(
    z: np.ndarray,  # (n, d)
) -> np.ndarray:  # (n, d)
    """Scale rows to length 1; rows of zeros stay."""
    length = np.linalg.norm(z, axis=1, keepdims=True)
    scaled: np.ndarray = z / np.maximum(length, 1e-12)
    return scaled
