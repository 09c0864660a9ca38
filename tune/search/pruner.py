"""ASHA's rule (Li et al. 2020, https://arxiv.org/abs/1810.05934, algorithm 2), with decisions that
a kill cannot change."""

import math

from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.trial import FrozenTrial

RUNGS = ((6, 4), (2, 2))
"""(part of the epochs, part of the trials): after a sixth of the epochs the best quarter continues,
at half of them the better half."""
_STOPPED = "stopped_at_epoch"  # attribute of a stopped trial: the epoch


def rungs(epochs: int) -> dict[int, int]:
    """Epoch at which a trial is compared -> one in so many continues (the paper's eta). The last
    epoch is no rung."""
    found: dict[int, int] = {}
    for part, factor in RUNGS:
        found.setdefault(math.ceil(epochs / part), factor)
    return {epoch: factor for epoch, factor in found.items() if epoch < epochs}


class DurableHalving(BasePruner):
    """Stops a trial that is not among the best quarter, or half, of those that have reached its
    rung; the first ones must be the best so far.

    Optuna's `SuccessiveHalvingPruner` records that a trial has reached a rung before it decides.
    After a kill in between it takes the trial for one that has passed. Here the stop is recorded
    first, so that asking again gives the first answer, whichever trials have come since.

    Args:
        epochs: epochs of a trial that runs to the end.
    """

    def __init__(self, epochs: int) -> None:
        self._rungs = rungs(epochs)

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return whether the trial stops at its last reported epoch, and record the decision."""
        epoch = trial.last_step
        if epoch not in self._rungs:
            return False
        rung = f"completed_rung_{epoch}"
        if rung in trial.system_attrs:
            return trial.system_attrs.get(_STOPPED) == epoch

        value = trial.intermediate_values[epoch]
        others = [
            other.system_attrs[rung]
            for other in study.get_trials(deepcopy=False)
            if rung in other.system_attrs
        ]
        already_stopped = trial.system_attrs.get(_STOPPED) == epoch
        stop = already_stopped or not _among_best(value, others, self._rungs[epoch])
        if stop:
            study._storage.set_trial_system_attr(trial._trial_id, _STOPPED, epoch)
        study._storage.set_trial_system_attr(trial._trial_id, rung, value)
        return stop


def _among_best(value: float, others: list[float], factor: int) -> bool:
    """True where `value` is among the best `1 / factor` (at least one) of itself and the others;
    larger is better."""
    if math.isnan(value):
        return False
    places = max(1, (len(others) + 1) // factor)
    return sum(other > value for other in others) < places
