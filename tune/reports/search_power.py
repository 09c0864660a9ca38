"""Expectations of a comparison over several searches, before it runs: its power, and the accuracy
that splitting one long search into several costs.

The spread between searches was measured on recorded trainings (docs/notes/evidence.md), on two
tasks. On other data it is another: these are rough figures for a choice between sizes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import nctdtr, stdtrit

from tune.reports.statistics import significance

SEED_SD = 0.02
"""Standard deviation of test accuracy between seeds that is assumed."""
DIFFERENCE = 0.05
"""Difference between two settings whose power is stated."""


@dataclass(frozen=True)
class Spread:
    """Searches of one length, on average over the recorded tasks."""

    trials: int

    choice: float
    """Mean test accuracy of the configuration that such a search chooses, over seeds."""

    sd: float
    """Standard deviation of that mean between searches."""


RECORDED = (
    Spread(4, 0.9026, 0.0297),
    Spread(8, 0.9137, 0.0117),
    Spread(12, 0.9163, 0.0099),
    Spread(25, 0.9193, 0.0084),
    Spread(75, 0.9217, 0.0069),
)
"""From docs/results/search_luck_*.json; between two of them the logarithm of trials counts, beyond
them the nearest."""


def power(searches: int, trials: int, finals: int, questions: int) -> float:
    """Probability that a comparison finds a difference of `DIFFERENCE`.

    The paired t test of a first look, with the smallest level that Holm's rule has among so many
    questions; the sides of a pair share nothing, so where they do it is higher.

    Args:
        searches: of each setting, at least two.
        trials: of a search.
        finals: trainings of its choice under fresh seeds.
    """
    search_sd = _interpolated(trials, [spread.sd for spread in RECORDED])
    replicate_sd = math.hypot(search_sd, SEED_SD / math.sqrt(finals))
    error = replicate_sd * math.sqrt(2 / searches)

    freedom = searches - 1
    level = significance(1) / questions
    critical = float(stdtrit(freedom, 1 - level / 2))
    return float(1 - nctdtr(freedom, DIFFERENCE / error, critical))


def splitting_loss(searches: int, trials: int) -> float:
    """Test accuracy by which the choice of one search with all the trials would be better than
    that of each search."""
    choices = [spread.choice for spread in RECORDED]
    return _interpolated(searches * trials, choices) - _interpolated(trials, choices)


def _interpolated(trials: int, values: Sequence[float]) -> float:
    known = [math.log(spread.trials) for spread in RECORDED]
    return float(np.interp(math.log(trials), known, values))
