"""Predict, before a comparison over several searches runs, its power, and the accuracy lost by
splitting one long search into several.

The spread between searches was measured on recorded trainings of two tasks
(docs/notes/evidence.md). On other data it differs, so these are rough figures for choosing a size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import nctdtr, stdtrit

from tune.reports.statistics import significance

SEED_SD = 0.02
"""Assumed standard deviation of test accuracy between seeds."""
DIFFERENCE = 0.05
"""Difference between two settings for which the power is computed."""


@dataclass(frozen=True)
class Spread:
    """Searches of one length, averaged over the recorded tasks."""

    trials: int

    choice: float
    """Mean test accuracy, over seeds, of the configuration chosen by such a search."""

    sd: float
    """Standard deviation of that mean between searches."""


RECORDED = (
    Spread(4, 0.9026, 0.0297),
    Spread(8, 0.9137, 0.0117),
    Spread(12, 0.9163, 0.0099),
    Spread(25, 0.9193, 0.0084),
    Spread(75, 0.9217, 0.0069),
)
"""From docs/results/search_luck_*.json. Values are interpolated in the logarithm of trials, and
constant beyond both ends."""


def power(searches: int, trials: int, finals: int, questions: int) -> float:
    """Compute the probability that a comparison detects a difference of `DIFFERENCE`.

    Assumes the paired t test of a first look, at the strictest level that Holm's method uses for
    this number of questions. The two searches of a pair are taken as independent; if they share
    anything, the power is higher.

    Args:
        searches: searches of each setting, at least two.
        trials: trials of each search.
        finals: trainings of the chosen configuration under fresh seeds.
    """
    search_sd = _interpolated(trials, [spread.sd for spread in RECORDED])
    replicate_sd = math.hypot(search_sd, SEED_SD / math.sqrt(finals))
    error = replicate_sd * math.sqrt(2 / searches)

    freedom = searches - 1
    level = significance(1) / questions
    critical = float(stdtrit(freedom, 1 - level / 2))
    return float(1 - nctdtr(freedom, DIFFERENCE / error, critical))


def splitting_loss(searches: int, trials: int) -> float:
    """Return how much higher the test accuracy would be if one search with all the trials chose,
    instead of each separate search."""
    choices = [spread.choice for spread in RECORDED]
    return _interpolated(searches * trials, choices) - _interpolated(trials, choices)


def _interpolated(trials: int, values: Sequence[float]) -> float:
    known = [math.log(spread.trials) for spread in RECORDED]
    return float(np.interp(math.log(trials), known, values))
