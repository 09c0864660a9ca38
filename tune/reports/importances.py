"""Which parameters tell the best trials from the others.

Conditional PED-ANOVA (Watanabe et al. 2023, https://arxiv.org/abs/2304.10255;
https://arxiv.org/abs/2601.20800) as Optuna computes it: it knows parameters that are only sometimes
asked for. Another method, such as fANOVA, may rank them wholly differently.
"""

import math
import warnings
from dataclasses import dataclass

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState, create_trial

METHOD = "conditional PED-ANOVA"
FEW = 10
"""With fewer trials nothing is said."""
_BEST = 5  # trials that PED-ANOVA should have to call "the best" (Optuna's documentation)


@dataclass(frozen=True)
class Importances:
    """Shares that add up to 1, largest first."""

    fidelity: str
    trials: int
    best: float
    """Share of the trials that count as the best."""
    shares: dict[str, float]


def importances(trials: list[FrozenTrial], rung: int | None) -> list[Importances]:
    """At equal fidelity: over the trials that ran to the end by their last value, and over all that
    reached epoch `rung` by its value.

    Pruning lets few bad trials reach the end, so that the first sees little of what is bad; the
    second sees all of it, but early.
    """
    final = [(t, t.value) for t in trials if t.state == TrialState.COMPLETE and t.value is not None]
    found = [("the last epoch", final)]
    if rung is not None:
        found.append(
            (
                f"epoch {rung}",
                [(t, t.intermediate_values[rung]) for t in trials if rung in t.intermediate_values],
            )
        )
    return [
        _of(name, scored)
        for name, scored in found
        if sum(math.isfinite(value) for _, value in scored) >= FEW
    ]


def _of(fidelity: str, scored: list[tuple[FrozenTrial, float]]) -> Importances:
    study = optuna.create_study(direction="maximize", storage=optuna.storages.InMemoryStorage())
    finite = [(t, value) for t, value in scored if math.isfinite(value)]
    study.add_trials(
        [
            create_trial(value=value, params=t.params, distributions=t.distributions)
            for t, value in finite
        ]
    )
    best = max(0.1, _BEST / len(finite))
    # choices that one trial alone has made: Optuna leaves them out, and says so for each
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shares = get_param_importances(
            study, evaluator=PedAnovaImportanceEvaluator(target_quantile=best)
        )
    return Importances(fidelity, len(finite), best, shares)
