"""The error of a finite test set: how much a test score would change with another draw of images.

Runs that are evaluated on the same images share the sampling error of these images, so averaging
over seeds does not remove it. Its variance is the covariance, over images, of the scores of two
runs that differ in their seed. The effect of a run's own seed on each image varies between seeds
and is already part of their spread. The covariance leaves it out, so the two variances can be added
(the two-way decomposition of Owen 2007, https://arxiv.org/abs/0712.0511).

Searches that carve their test sets from one pool share some of the images, or other images of the
same clusters. Their scores then share part of the sampling error, which the spread over searches
does not show and more searches do not reduce. It is the sum, over what two test sets share, of the
products of their influences on the two scores (the delta method).
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from trainables.outcomes import ImageOutcomes
from tune.reports.score_covariance import (
    episode_covariance,
    influences,
    iou_covariance,
    mean_covariance,
)
from tune.study.view import StudyView

MISSING = "the error of a finite test set is not included"
"""Text for a report if `sampling_variance` returns None."""
OVERLAP_UNKNOWN = (
    "It is not on record which test images the searches share, so intervals leave out the error "
    "that these images have in common: they may be too narrow."
)
"""Text for a report over several searches if `overlap_is_known` returns False."""

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

    For several searches the variance is only the part that they share, because their spread already
    shows the rest: all of it if they have the same test images, 0 if their images are unrelated.

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


def crossed_covariance(metric: str, four: Sequence[Runs]) -> float | None:
    """Estimate the part of the covariance over searches of (first - second) and (third - fourth)
    that the draw of test images causes.

    Args:
        four: search -> outcomes of its run, for four settings with the same searches.
    Returns:
        None if outcomes are missing, or if all images belong to one cluster.
    """
    searches = list(four[0])
    outcomes = [runs[search] for runs in four for search in searches]
    covariance = _covariance(outcomes, metric)
    if covariance is None:
        return None

    count = len(searches)
    blocks = covariance.reshape(4, count, 4, count)
    crossed = blocks[0, :, 2] - blocks[0, :, 3] - blocks[1, :, 2] + blocks[1, :, 3]  # (R, R)
    within = float(np.diag(crossed).mean())
    # covariance between searches is no part of their spread
    between = (float(crossed.sum()) - count * within) / (count * (count - 1))
    return within - between


def overlap_is_known(runs: Iterable[ImageOutcomes]) -> bool:
    """True if the test sets are one, or it is on record which images they share."""
    some = list(runs)
    if not some:
        return False
    one_set = len({run.test_set for run in some}) == 1
    return one_set or all(run.ids is not None for run in some)


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
    """Compute the covariance (R, R) of the runs' scores over draws of the test sets; None if a run
    lacks the metric, or it cannot be estimated. Test sets of which it is unknown whether they
    overlap count as apart."""
    if not all(metric in run.right or metric in run.overlaps for run in outcomes):
        return None
    covariance = np.zeros((len(outcomes), len(outcomes)))
    test_sets = np.array([run.test_set for run in outcomes])
    for test_set in dict.fromkeys(test_sets.tolist()):
        members = np.flatnonzero(test_sets == test_set)
        block = _covariance_on_one([outcomes[index] for index in members.tolist()], metric)
        if block is None:
            return None
        covariance[np.ix_(members, members)] = block

    if len(set(test_sets)) > 1:
        of_draws = [influences(run, metric) for run in outcomes]
        for i, j in itertools.combinations(range(len(outcomes)), 2):
            if test_sets[i] != test_sets[j]:
                found = _shared_error(outcomes[i], of_draws[i], outcomes[j], of_draws[j])
                covariance[i, j] = covariance[j, i] = found
    return covariance


def _shared_error(
    first: ImageOutcomes,
    of_first: np.ndarray,  # (K,) influences
    second: ImageOutcomes,
    of_second: np.ndarray,  # (L,)
) -> float:
    """Covariance of two scores over what their different test sets share."""
    if first.ids is None or second.ids is None or first.pool != second.pool:
        return 0.0
    _, here, there = np.intersect1d(first.ids, second.ids, return_indices=True)
    return float(of_first[here] @ of_second[there])


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
