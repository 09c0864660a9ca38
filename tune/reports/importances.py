"""Importance of parameters: which of them tell the best trials from the others.

The method is conditional PED-ANOVA (Watanabe et al. 2023, https://arxiv.org/abs/2304.10255;
https://arxiv.org/abs/2601.20800) as Optuna computes it. It handles conditional parameters, which
only some trials have. Another method, such as fANOVA, may rank the parameters differently.
"""

import math
import warnings
from collections.abc import Container
from dataclasses import dataclass

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

METHOD = "conditional PED-ANOVA"
FEW = 10
"""Trials needed for a result."""

_BEST = 5  # Optuna's documentation: PED-ANOVA needs at least so many trials in "the best"
_BEST_SHARE = 0.1

Scored = tuple[FrozenTrial, float]
"""A trial and its value at one epoch."""


@dataclass(frozen=True)
class Importances:
    """Importances at one fidelity."""

    fidelity: str
    """The epoch that is compared, in words."""

    trials: int

    best: float
    """Share of the trials that count as the best."""

    shares: dict[str, float]
    """Parameter -> share of the importance, largest first; they add up to 1."""


def importances(trials: list[FrozenTrial], rung: int | None) -> list[Importances]:
    """Compute importances at equal fidelity: of the last epoch, and of epoch `rung`.

    Pruning lets few bad trials reach the last epoch, so that the first result sees little of what
    is bad. The second sees all trials, but early.

    Args:
        trials: in any state.
        rung: the first epoch at which trials are compared; None: trials have one epoch.
    Returns:
        Results with at least `FEW` trials.
    """
    completed = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    fidelities = {"the last epoch": [(t, t.value) for t in completed if t.value is not None]}
    if rung is not None:
        fidelities[f"epoch {rung}"] = _scored_at(rung, trials)

    found = []
    for fidelity, scored in fidelities.items():
        finite = [(trial, value) for trial, value in scored if math.isfinite(value)]
        if len(finite) >= FEW:
            found.append(_importances(fidelity, finite))
    return found


def _scored_at(epoch: int, trials: list[FrozenTrial]) -> list[Scored]:
    return [
        (trial, trial.intermediate_values[epoch])
        for trial in trials
        if epoch in trial.intermediate_values
    ]


def _importances(fidelity: str, scored: list[Scored]) -> Importances:
    completed = [_completed(index, trial, value) for index, (trial, value) in enumerate(scored)]
    study = optuna.create_study(direction="maximize", storage=_GivenTrials(completed))

    best = max(_BEST_SHARE, _BEST / len(scored))
    evaluator = PedAnovaImportanceEvaluator(target_quantile=best)
    with warnings.catch_warnings():
        # Optuna warns of each choice that a single trial has made, and leaves it out.
        warnings.simplefilter("ignore")
        shares = get_param_importances(study, evaluator=evaluator)
    return Importances(fidelity, len(scored), best, shares)


def _completed(index: int, trial: FrozenTrial, value: float) -> FrozenTrial:
    """The trial with another value; a pruned one counts as complete."""
    return FrozenTrial(
        number=index,
        trial_id=index,
        state=TrialState.COMPLETE,
        value=value,
        params=trial.params,
        distributions=trial.distributions,
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_start,
        user_attrs={},
        system_attrs={},
        intermediate_values={},
    )


class _GivenTrials(InMemoryStorage):
    """A storage of given trials.

    Adding them to an ordinary one copies each parameter's distribution, which takes longer than the
    importances.
    """

    def __init__(self, trials: list[FrozenTrial]) -> None:
        super().__init__()
        self._given = trials

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """The given trials in one of the states; never copied."""
        return [trial for trial in self._given if states is None or trial.state in states]
