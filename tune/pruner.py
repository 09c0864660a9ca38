"""ASHA's rule (Li et al. 2020, https://arxiv.org/abs/1810.05934, algorithm 2), with decisions that a kill cannot change."""

import math

from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.trial import FrozenTrial

REDUCTION_FACTOR = 5
"""Eta of the paper: one in so many goes on."""
_SPACING = 2
"""The next rung is so many times as far. In the paper it is eta as well, which leaves a short training one rung and no second look."""
_STOPPED = "stopped_at_rung"


def first_rung(epochs: int) -> int:
    """A quarter of the epochs: earlier, what does not learn at all is still ahead of what has begun to."""
    return max(1, round(epochs / 4))


def rungs(epochs: int) -> list[int]:
    """Epochs at which a trial is compared: first rung, x2, x4 ... below the last epoch."""
    rung, all_rungs = first_rung(epochs), []
    while rung < epochs:
        all_rungs.append(rung)
        rung *= _SPACING
    return all_rungs


class DurableHalving(BasePruner):
    """At every rung a trial must be among the best fifth of those that have reached it; the first nine must be the best so far.

    Optuna's `SuccessiveHalvingPruner` notes that a trial has been at a rung before it decides. Killed in between, it takes the trial for
    one that was let through. Here the stop is noted first, so that asking again gives the first answer, whoever has come since.
    """

    def __init__(self, epochs: int) -> None:
        self._rungs = rungs(epochs)

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        if trial.last_step not in self._rungs:
            return False
        number = self._rungs.index(trial.last_step)
        rung = f"completed_rung_{number}"
        if rung in trial.system_attrs:
            return trial.system_attrs.get(_STOPPED) == number
        value = trial.intermediate_values[trial.last_step]
        others = [t.system_attrs[rung] for t in study.get_trials(deepcopy=False) if rung in t.system_attrs]
        stop = trial.system_attrs.get(_STOPPED) == number or not _among_best(value, others)
        if stop:
            study._storage.set_trial_system_attr(trial._trial_id, _STOPPED, number)
        study._storage.set_trial_system_attr(trial._trial_id, rung, value)
        return stop


def _among_best(value: float, others: list[float]) -> bool:
    """Whether `value` is among the best fifth (at least one) of itself and the others; larger is better."""
    if math.isnan(value):
        return False
    places = max(1, (len(others) + 1) // REDUCTION_FACTOR)
    return sum(other > value for other in others) < places
