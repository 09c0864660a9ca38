"""The error of a finite test set: how much a test score would change with another draw of images.

Runs that are evaluated on the same images share the sampling error of these images, so averaging
over seeds does not remove it. Its variance is the covariance, over images, of the scores of two
runs that differ in their seed. The effect of a run's own seed on each image varies between seeds
and is already part of their spread. The covariance leaves it out, so the two variances can be added
(the two-way decomposition of Owen 2007, https://arxiv.org/abs/0712.0511).

For a mean over images there is a closed form, the cluster-robust variance. mIoU is a ratio of sums,
so whole clusters of images are resampled. Images of one cluster (drawings of one letter, frames of
one source) are drawn together. Few-shot episodes share classes with each other, so the draw of
classes contributes a variance of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainables.outcomes import ImageOutcomes
from tune.study.view import StudyView

DRAWS = 2000
"""Number of resampled test sets in the bootstrap."""
MISSING = "the error of a finite test set is not included"
"""Text for a report if `sampling_variance` returns None."""

_SEED = 0  # seed of the bootstrap, so that the same record gives the same interval
_DRAWS_AT_ONCE = 100
_SINGULAR = 1e-9  # smaller eigenvalues, relative to the number of episodes, are rounding errors

Runs = Mapping[Any, ImageOutcomes]
"""Seed (or search) -> outcomes of its run. Runs with the same key share more than their test
images."""


def outcomes_of(study: StudyView, number: int) -> dict[int, ImageOutcomes]:
    """Return the outcomes of a trial's repeats, by seed. Repeats that diverged or that an earlier
    version recorded have none."""
    found = {}
    for (trial, seed), run in study.repeats.items():
        if trial != number or run.state != "COMPLETE" or run.outcome is None:
            continue
        diverged = bool(run.reason)
        if run.outcome.tested and not diverged:
            found[seed] = ImageOutcomes.from_record(run.outcome.tested)
    return found


def sampling_variance(metric: str, first: Runs, second: Runs | None = None) -> float | None:
    """Estimate the variance, over test images, of the mean of `metric` over one configuration's
    runs, or of the difference between the means of two configurations.

    Runs on different test sets share no sampling error. For several searches that each have their
    own test images the variance is 0, because their spread already shows all of the error.

    Args:
        metric: full name, such as `test/top1`.
        second: the configuration that is subtracted.
    Returns:
        The variance without the effects of the runs' own seeds, unless a configuration has only one
        run. None if outcomes are missing, or if all images belong to one cluster.
    """
    runs = [*first.items()]
    if second is not None:
        runs += second.items()
    outcomes = [run for _, run in runs]
    if not first or (second is not None and not second):
        return None
    if not all(metric in run.right or metric in run.overlaps for run in outcomes):
        return None

    covariance = _covariance(outcomes, metric)
    if covariance is None:
        return None
    seeds = np.array([seed for seed, _ in runs])
    is_first = np.arange(len(runs)) < len(first)

    variance = _between_seeds(covariance, seeds, is_first, is_first)
    if second is not None:
        variance += _between_seeds(covariance, seeds, ~is_first, ~is_first)
        variance -= 2 * _between_seeds(covariance, seeds, is_first, ~is_first)
    return max(0.0, variance)


def _between_seeds(
    covariance: np.ndarray,  # (R, R) of the runs' scores
    seeds: np.ndarray,  # (R,)
    rows: np.ndarray,  # (R,) bool: the runs of one configuration
    columns: np.ndarray,  # (R,) bool: runs of the same or of another configuration
) -> float:
    """Mean covariance of runs that differ in their seed; of all runs if no seeds differ."""
    block = covariance[np.ix_(rows, columns)]
    differ = seeds[rows][:, None] != seeds[columns][None, :]
    if not differ.any():
        return float(block.mean())
    return float(block[differ].mean())


def _covariance(outcomes: Sequence[ImageOutcomes], metric: str) -> np.ndarray | None:
    """Compute the covariance (R, R) of the runs' scores over draws of the test sets; None if it
    cannot be estimated."""
    covariance = np.zeros((len(outcomes), len(outcomes)))
    test_sets = np.array([run.test_set for run in outcomes])
    for test_set in dict.fromkeys(test_sets.tolist()):
        members = np.flatnonzero(test_sets == test_set)
        block = _covariance_on_one([outcomes[index] for index in members.tolist()], metric)
        if block is None:
            return None
        covariance[np.ix_(members, members)] = block
    return covariance


def _covariance_on_one(outcomes: Sequence[ImageOutcomes], metric: str) -> np.ndarray | None:
    """Compute the same for runs on a single test set."""
    first = outcomes[0]
    if metric in first.overlaps:
        overlaps = np.stack([run.overlaps[metric] for run in outcomes])
        return iou_covariance(overlaps, first.clusters)

    scores = np.stack([run.right[metric] / run.answers for run in outcomes], axis=1)
    if first.members is not None:
        return episode_covariance(scores, first.members)
    return mean_covariance(scores, first.clusters)


def mean_covariance(
    scores: np.ndarray,  # (n, R) score of each image in each run
    clusters: np.ndarray | None = None,  # (n,) int in [0, G); None: each image is alone
) -> np.ndarray | None:  # (R, R)
    """Compute the cluster-robust covariance of the means of R runs over the same images: the sums
    of each cluster's residuals, as in Liang & Zeger 1986, times G / (G - 1).

    Return None for a single cluster.
    """
    images, runs = scores.shape
    residuals = (scores - scores.mean(axis=0)) / images
    if clusters is not None:
        sums = np.zeros((clusters.max() + 1, runs))
        np.add.at(sums, clusters, residuals)
        residuals = sums

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
    runs, images, classes, _ = overlaps.shape
    if clusters is None:
        clusters = np.arange(images)
    count = int(clusters.max()) + 1
    if count < 2:
        return None

    sums = np.zeros((count, runs, classes, 2))
    np.add.at(sums, clusters, overlaps.swapaxes(0, 1))
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
    classes = int(members.max()) + 1
    residuals = scores - scores.mean(axis=0)
    contains = np.zeros((episodes, classes))
    np.put_along_axis(contains, members, 1.0, axis=1)

    contains -= contains.mean(axis=0)
    values, vectors = np.linalg.eigh(contains.T @ contains)
    known = values > _SINGULAR * episodes
    inverse = (vectors[:, known] / values[known]) @ vectors[:, known].T
    effects = inverse @ contains.T @ residuals  # (K, R)
    noise = residuals - contains @ effects
    rank = int(known.sum())
    freedom = episodes - 1 - rank
    if rank == 0 or freedom < 1:
        return _covariance_of_mean(residuals, episodes - 1)

    # The effects are estimates, so their own error is subtracted.
    noise_covariance = noise.T @ noise / freedom
    effects -= effects.mean(axis=0)
    spread = effects.T @ effects - noise_covariance * np.trace(inverse)
    class_covariance = spread / rank
    of_classes = way**2 * class_covariance / classes
    covariance: np.ndarray = of_classes + noise_covariance / episodes
    return covariance


def _covariance_of_mean(
    residuals: np.ndarray,  # (n, R)
    freedom: int,
) -> np.ndarray:  # (R, R)
    covariance: np.ndarray = residuals.T @ residuals / freedom / len(residuals)
    return covariance
