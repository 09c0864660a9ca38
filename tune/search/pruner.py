"""ASHA's rule (Li et al. 2020, https://arxiv.org/abs/1810.05934, algorithm 2), with decisions that
a kill cannot change."""

import math
import zlib
from collections.abc import Sequence

from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from tune.search.rungs import LATEST, RULES, Curve, Rung, check_rung, rungs_of

EPOCHS = "epochs"
"""Attribute of a trial: the number of epochs that its function has reported."""

_STOPPED = "stopped_at_epoch"  # attribute of a stopped trial: the epoch


class DurableHalving(BasePruner):
    """Stops a trial that is not among the best of those that have reached its rung. The first
    trials at a rung must be the best so far.

    Optuna's `SuccessiveHalvingPruner` records that a trial has reached a rung before it decides.
    After a kill in between, it takes the trial for one that has passed. Here the stop is recorded
    first, so that asking again gives the first answer, whichever trials have come since.

    Rungs are fractions of a trial's own epochs: if a space searches the number of epochs, trials
    are compared at the same place in their schedules.

    Args:
        epochs: epochs of a trial that runs to its end; 0: each trial reports its own (`EPOCHS`),
            and is not stopped before it has.
        version: version of the rule, or its name (`tune.search.rungs.RULES`).
    """

    def __init__(self, epochs: int, version: int | str = LATEST) -> None:
        self._epochs = epochs
        self._version = version
        self._rule = RULES[version]

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return True if the trial stops at its last reported epoch; record the decision."""
        epoch = trial.last_step
        epochs = _epochs_of(trial, self._epochs)
        rungs = self._rungs(study, trial, epochs)
        rung = next((rung for rung in rungs if rung.epoch(epochs) == epoch), None)
        if rung is None or epoch is None:
            return False
        name = self._attribute(study, trial, rung, epoch)
        if name in trial.system_attrs:
            return trial.system_attrs.get(_STOPPED) == epoch

        value = self._rule.value(trial.intermediate_values, epoch)
        trials = study.get_trials(deepcopy=False)
        others = [other.system_attrs[name] for other in trials if name in other.system_attrs]
        stop = trial.system_attrs.get(_STOPPED) == epoch
        if not stop and not _among_best(value, others, rung.factor):
            is_needed = rung == rungs[-1] and self._is_needed(trial, trials, name)
            stop = not is_needed and not self._lets_pass(rung, trial, trials)
        if stop:
            study._storage.set_trial_system_attr(trial._trial_id, _STOPPED, epoch)
        study._storage.set_trial_system_attr(trial._trial_id, name, value)
        return stop

    def lacks_rungs(self, study: Study, trial: FrozenTrial) -> bool:
        """True if a trial has a value at a rung's epoch but is not recorded at the rung, so that
        later trials are compared with fewer. Always False for a trial that reports its own number
        of epochs."""
        if EPOCHS in trial.user_attrs or not self._epochs:
            return False
        epochs = _epochs_of(trial, self._epochs)
        reached = [
            self._attribute(study, trial, rung, rung.epoch(epochs))
            for rung in self._rungs(study, trial, epochs)
            if rung.epoch(epochs) in trial.intermediate_values
        ]
        return not set(reached) <= trial.system_attrs.keys()

    def _rungs(self, study: Study, trial: FrozenTrial, epochs: int) -> list[Rung]:
        """Rungs of a trial of this many epochs."""
        return rungs_of(epochs, self._version)

    def _attribute(self, study: Study, trial: FrozenTrial, rung: Rung, epoch: int) -> str:
        """Attribute of trials that have reached the rung. Version 1 named it by the epoch."""
        if self._version == 1:
            return f"completed_rung_{epoch}"
        return f"completed_rung_1/{rung.part}"

    def _is_needed(self, trial: FrozenTrial, trials: list[FrozenTrial], last_rung: str) -> bool:
        """True if no trial but the default (trial 0) has passed the last rung.

        Args:
            last_rung: attribute of the trials that have reached it.
        """
        if not self._rule.needs_rival:
            return False
        rivals = (
            other
            for other in trials
            if other.number not in (0, trial.number)
            and other.state in (TrialState.RUNNING, TrialState.COMPLETE)
            and last_rung in other.system_attrs
            and _STOPPED not in other.system_attrs
        )
        return next(rivals, None) is None

    def _lets_pass(self, rung: Rung, trial: FrozenTrial, trials: list[FrozenTrial]) -> bool:
        """True if the rung stops nobody now: the trial is one of the first, or the rung is off."""
        if not rung.stops(trial.number, self._rule):
            return True
        if not self._rule.watched:
            return False
        return check_rung(rung, curves_of(trials, self._epochs), self._version).is_off


class DurableHyperband(DurableHalving):
    """Hyperband (Li et al. 2018, https://jmlr.org/papers/v18/16-558.html): brackets of successive
    halving, where bracket b leaves out the first b rungs. A trial is compared within its bracket. A
    hash of its number chooses the bracket, with Optuna's shares of the brackets.
    """

    def _rungs(self, study: Study, trial: FrozenTrial, epochs: int) -> list[Rung]:
        return super()._rungs(study, trial, epochs)[self.bracket(study, trial) :]

    def _attribute(self, study: Study, trial: FrozenTrial, rung: Rung, epoch: int) -> str:
        name = super()._attribute(study, trial, rung, epoch)
        return f"{name} of bracket {self.bracket(study, trial)}"

    def bracket(self, study: Study, trial: FrozenTrial) -> int:
        """Number of the trial's bracket, from 0."""
        shares = self._shares(_epochs_of(trial, self._epochs))
        hashed = zlib.crc32(f"{study.study_name}_{trial.number}".encode())
        place = hashed % sum(shares)
        for bracket, share in enumerate(shares):
            place -= share
            if place < 0:
                return bracket
        raise AssertionError("a remainder is below the sum")

    def _shares(self, epochs: int) -> list[int]:
        """Relative number of trials in each bracket (algorithm 1, line 3)."""
        rungs = rungs_of(epochs, self._version)
        eta = rungs[0].factor if rungs else 1
        brackets = len(rungs) + 1
        later = range(brackets - 1, -1, -1)  # number of rungs of each bracket
        return [math.ceil(brackets * eta**count / (count + 1)) for count in later]


class DurableStops(BasePruner):
    """One of Optuna's pruners that look only at values. A stop is recorded before it is reported,
    so that asking again after a kill gives the same answer."""

    def __init__(self, pruner: BasePruner) -> None:
        self._pruner = pruner

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return True if the trial stops at its last reported epoch; record the stop."""
        epoch = trial.last_step
        if epoch is None:
            return False
        if trial.system_attrs.get(_STOPPED) == epoch:
            return True
        stop = self._pruner.prune(study, trial)
        if stop:
            study._storage.set_trial_system_attr(trial._trial_id, _STOPPED, epoch)
        return stop


def curves_of(trials: Sequence[FrozenTrial], epochs: int) -> list[Curve]:
    """Convert trials to the form that the check of rungs reads.

    Args:
        epochs: epochs of the study's trials.
    """
    return [
        Curve(trial.intermediate_values, _epochs_of(trial, epochs), _end(trial)) for trial in trials
    ]


def longest(trials: Sequence[FrozenTrial], epochs: int) -> int:
    """Return the epochs of the study's trials: those of the longest that has reported its own.

    Args:
        epochs: epochs of a trial that has not reported its own; 0: not known.
    """
    return max((trial.user_attrs.get(EPOCHS, epochs) for trial in trials), default=epochs)


def _end(trial: FrozenTrial) -> float | None:
    return trial.value if trial.state == TrialState.COMPLETE else None


def _epochs_of(trial: FrozenTrial, epochs: int) -> int:
    """Epochs of a trial that runs to its end: its own if it has reported them or they are searched,
    or else those of the study."""
    own = trial.user_attrs.get(EPOCHS)
    if own is not None:
        return int(own)
    return int(trial.params.get("train.epochs", epochs))


def _among_best(value: float, others: list[float], factor: int) -> bool:
    """True if `value` is among the best `1 / factor` (at least one) of itself and the others;
    larger is better."""
    if math.isnan(value):
        return False
    places = max(1, (len(others) + 1) // factor)
    return sum(other > value for other in others) < places
