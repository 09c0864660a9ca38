"""Covariance of the scores of runs over draws of test images, and what single draws contribute.

For a mean over images there is a closed form, the cluster-robust variance. mIoU is a ratio of sums,
so whole clusters of images are resampled. Images of one cluster (drawings of one letter, frames of
one source) are drawn together. Few-shot episodes share classes with each other, so the draw of
classes contributes a variance of its own.
"""

from dataclasses import dataclass

import numpy as np

from trainables.outcomes import ImageOutcomes

DRAWS = 2000
"""Number of resampled test sets in the bootstrap."""

_SEED = 0  # seed of the bootstrap, so that the same record gives the same interval
_DRAWS_AT_ONCE = 100
_SINGULAR = 1e-9  # smaller eigenvalues, relative to the number of episodes, are rounding errors


def mean_covariance(
    scores: np.ndarray,  # (n, R) score of each image in each run
    clusters: np.ndarray | None = None,  # (n,) int in [0, G); None: each image is alone
) -> np.ndarray | None:  # (R, R)
    """Compute the cluster-robust covariance of the means of R runs over the same images: the sums
    of each cluster's residuals, as in Liang & Zeger 1986, times G / (G - 1).

    Return None for a single cluster.
    """
    images = len(scores)
    residuals = _cluster_sums((scores - scores.mean(axis=0)) / images, clusters)

    count = len(residuals)
    if count < 2:
        return None
    covariance: np.ndarray = residuals.T @ residuals * count / (count - 1)
    return covariance


def iou_covariance(
    overlaps: np.ndarray,  # (R, n, C, 2) pixels of intersection and union
    clusters: np.ndarray | None = None,  # (n,) int in [0, G); None: each image is alone
) -> np.ndarray | None:  # (R, R)
    """Compute the covariance of the mIoU of R runs over the same images, by a bootstrap over
    clusters. The factor G / (G - 1) corrects the bootstrap variance of a mean, which is too small.

    Return None for a single cluster.
    """
    runs, _, classes, _ = overlaps.shape
    sums = _cluster_sums(overlaps.swapaxes(0, 1), clusters)  # (G, R, C, 2)
    count = len(sums)
    if count < 2:
        return None
    flat = sums.reshape(count, -1)

    random = np.random.default_rng(_SEED)
    equal = np.full(count, 1 / count)
    draws = []
    for _ in range(0, DRAWS, _DRAWS_AT_ONCE):
        weights = random.multinomial(count, equal, size=_DRAWS_AT_ONCE)  # (b, G)
        drawn = (weights @ flat).reshape(-1, runs, classes, 2)
        draws.append(_mean_iou(drawn))
    covariance = np.cov(np.concatenate(draws), rowvar=False) * count / (count - 1)
    return covariance.reshape(runs, runs)


def _mean_iou(
    sums: np.ndarray,  # (..., C, 2) pixels of intersection and union
) -> np.ndarray:  # (...)
    """Average the IoU over the classes that occur in truth or prediction; 0 if there are none."""
    intersection = sums[..., 0]
    union = sums[..., 1]
    present = union > 0
    ratio = np.where(present, intersection / np.maximum(union, 1), 0.0)
    mean: np.ndarray = ratio.sum(-1) / np.maximum(present.sum(-1), 1)
    return mean


def episode_covariance(
    scores: np.ndarray,  # (T, R) accuracy of each episode in each run
    members: np.ndarray,  # (T, N) classes of each episode, int in [0, K)
) -> np.ndarray:  # (R, R)
    """Compute the covariance of the mean accuracies of R runs over another draw of classes and
    episodes.

    The accuracy of an episode is modelled as a mean, plus an effect of each of its classes, plus
    noise: the first terms of Hoeffding's decomposition of a U-statistic (1948). With K classes of
    variance v and noise of variance w, the mean over T episodes has the variance N^2 v / K + w / T.
    If every episode has the same classes, v cannot be estimated and counts as 0.
    """
    episodes, way = members.shape
    found = _class_effects(scores, members)
    freedom = episodes - 1 - found.rank
    if found.rank == 0 or freedom < 1:
        return _covariance_of_mean(scores - scores.mean(axis=0), episodes - 1)

    # The effects are estimates, so their own error is subtracted.
    noise_covariance = found.noise.T @ found.noise / freedom
    spread = found.effects.T @ found.effects - noise_covariance * found.error
    class_covariance = spread / found.rank
    of_classes = way**2 * class_covariance / len(found.effects)
    covariance: np.ndarray = of_classes + noise_covariance / episodes
    return covariance


@dataclass(frozen=True)
class _ClassEffects:
    """Least-squares effects of K classes on the accuracies of T episodes in R runs."""

    effects: np.ndarray  # (K, R), of mean 0
    noise: np.ndarray  # (T, R), the residuals
    rank: int  # number of effects that the episodes can tell apart
    error: float  # variance of the sum of the effects' errors, for noise of variance 1


def _class_effects(
    scores: np.ndarray,  # (T, R)
    members: np.ndarray,  # (T, N) classes of each episode, int in [0, K)
) -> _ClassEffects:
    residuals = scores - scores.mean(axis=0)
    contains = np.zeros((len(members), int(members.max()) + 1))
    np.put_along_axis(contains, members, 1.0, axis=1)
    contains -= contains.mean(axis=0)

    values, vectors = np.linalg.eigh(contains.T @ contains)
    known = values > _SINGULAR * len(members)
    inverse = (vectors[:, known] / values[known]) @ vectors[:, known].T
    effects = inverse @ contains.T @ residuals
    noise = residuals - contains @ effects
    effects -= effects.mean(axis=0)
    return _ClassEffects(effects, noise, int(known.sum()), float(np.trace(inverse)))


def _covariance_of_mean(
    residuals: np.ndarray,  # (n, R)
    freedom: int,
) -> np.ndarray:  # (R, R)
    covariance: np.ndarray = residuals.T @ residuals / freedom / len(residuals)
    return covariance


def influences(
    run: ImageOutcomes, metric: str
) -> np.ndarray:  # (K,) for each cluster, image or class that was drawn
    """Compute the influence of each draw on the score of a run: its part of the score's deviation
    (delta method), scaled such that the sum of squares is the variance over draws."""
    if run.members is not None:
        scores = run.right[metric] / run.answers
        effects = _class_effects(scores[:, None], run.members).effects[:, 0]
        found = effects * run.members.shape[1] / len(effects)
    elif metric in run.overlaps:
        sums = _cluster_sums(run.overlaps[metric], run.clusters)  # (K, C, 2)
        intersection, union = sums.sum(axis=0).T
        present = union > 0
        ratio = intersection[present] / union[present]
        moved = sums[:, present, 0] - ratio * sums[:, present, 1]  # (K, C')
        found = (moved / union[present]).sum(axis=1) / max(1, present.sum())
    else:
        scores = run.right[metric] / run.answers
        found = _cluster_sums((scores - scores.mean()) / len(scores), run.clusters)

    count = len(found)
    scaled: np.ndarray = found * np.sqrt(count / max(1, count - 1))
    return scaled


def _cluster_sums(
    values: np.ndarray,  # (n, ...)
    clusters: np.ndarray | None,  # (n,) int in [0, K); None: each image is alone
) -> np.ndarray:  # (K, ...)
    if clusters is None:
        return values
    sums = np.zeros((clusters.max() + 1, *values.shape[1:]))
    np.add.at(sums, clusters, values)
    return sums
