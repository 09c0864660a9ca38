"""Importance of parameters: which of them tell the best trials from the others.

The method is PED-ANOVA (Watanabe et al. 2023, https://arxiv.org/abs/2304.10255) as Optuna computes
it, with two changes, so that no parameter is credited with the effect of another:

- A number whose range depends on another parameter, as the learning rate's on the optimizer, is
  compared by its position in the range, from 0 to 1. By its value it would tell the optimizer.
- A parameter that only some trials have is compared among these, and counts by their share. Optuna
  (conditional PED-ANOVA, https://arxiv.org/abs/2601.20800) also counts how much better they are,
  which is the effect of another parameter.

Intervals are those of a bootstrap over trials. Another method, such as fANOVA, may rank the
parameters differently.
"""

import math
import warnings
from collections.abc import Container
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

METHOD = "PED-ANOVA"
FEW = 10
"""Trials needed for a result."""
DRAWS = 200
"""Bootstrap samples of the trials."""
LEVEL = 0.95
"""Level of the intervals; also the share of the samples in which the first parameter must be first
for the order to count."""

_BEST = 5  # Optuna's documentation: PED-ANOVA needs at least so many trials in "the best"
_BEST_SHARE = 0.1
_SEED = 0  # of the bootstrap: the same record gives the same page
_POSITION = FloatDistribution(0.0, 1.0)

Scored = tuple[FrozenTrial, float]
"""A trial and its value at one epoch."""


@dataclass(frozen=True)
class Share:
    """A parameter's share of the importance, in [0, 1], with its bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Importances:
    """Importances at one fidelity."""

    fidelity: str
    """The epoch that is compared, in words."""

    trials: int

    best: float
    """Share of the trials that count as the best."""

    shares: dict[str, Share]
    """Parameter -> share of the importance, largest first; they add up to 1."""

    first: float
    """Share of the bootstrap samples in which the first parameter is first."""

    @property
    def decided(self) -> bool:
        """True where other trials of this study's kind would put the same parameter first."""
        return self.first >= LEVEL

    @property
    def sentence(self) -> str:
        """The result in words."""
        leader = next(iter(self.shares), None)
        if leader is None:
            return f"At {self.fidelity} no parameter differs between trials."
        often = f"{leader} is first in {self.first:.0%} of {DRAWS} resampled sets of trials"
        if self.decided:
            return f"At {self.fidelity} {often}."
        return f"At {self.fidelity} too few trials to tell: {often}."


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
    dependent = _dependent_ranges([trial for trial, _ in scored])
    trials = []
    for index, (trial, value) in enumerate(scored):
        trials.append(_comparable(index, trial, value, dependent))

    best = max(_BEST_SHARE, _BEST / len(trials))
    shares = _shares(trials, best)
    names = sorted(shares, key=lambda name: (-shares[name], name))
    drawn = _resampled_shares(trials, best, names)  # (DRAWS, P)

    tail = (1 - LEVEL) / 2
    lows, highs = np.quantile(drawn, [tail, 1 - tail], axis=0)
    intervals = {}
    for name, low, high in zip(names, lows.tolist(), highs.tolist(), strict=True):
        intervals[name] = Share(shares[name], low, high)
    return Importances(fidelity, len(trials), best, intervals, _first(drawn))


def _first(
    drawn: np.ndarray,  # (DRAWS, P)
) -> float:
    """Share of the samples in which the first parameter has the largest share."""
    if not drawn.size:
        return 0.0
    largest = drawn.max(axis=1)
    is_first = (drawn[:, 0] == largest) & (largest > 0)
    return float(is_first.mean())


def _resampled_shares(
    trials: list[FrozenTrial], best: float, names: list[str]
) -> np.ndarray:  # (DRAWS, P)
    """Shares of sets of as many trials, drawn with replacement."""
    random = np.random.default_rng(_SEED)
    rows = []
    for _ in range(DRAWS):
        drawn = random.integers(len(trials), size=len(trials))
        shares = _shares([trials[index] for index in drawn], best)
        rows.append([shares.get(name, 0.0) for name in names])
    return np.array(rows)


def _shares(trials: list[FrozenTrial], best: float) -> dict[str, float]:
    """Parameter -> share of the importance; all 0 where no parameter matters."""
    study = optuna.create_study(direction="maximize", storage=_GivenTrials(trials))
    evaluator = PedAnovaImportanceEvaluator(target_quantile=best)
    with warnings.catch_warnings():
        # Optuna warns of each choice that a single trial has made, and leaves it out.
        warnings.simplefilter("ignore")
        raw = evaluator.evaluate(study)

    top = _top(trials, best)
    weights = {}
    for name, importance in raw.items():
        weights[name] = importance * _without_the_condition(name, trials, top)
    total = sum(weights.values())
    return {name: weight / total if total else 0.0 for name, weight in weights.items()}


def _top(trials: list[FrozenTrial], best: float) -> list[FrozenTrial]:
    """The best trials as PED-ANOVA counts them: equal values are in or out together."""
    values = sorted((_value(trial) for trial in trials), reverse=True)
    cutoff = values[math.ceil(best * len(values)) - 1]
    return [trial for trial in trials if _value(trial) >= cutoff]


def _without_the_condition(name: str, trials: list[FrozenTrial], top: list[FrozenTrial]) -> float:
    """Factor on the importance of a parameter that only some trials have.

    With a share a of the best trials and b of all, Optuna multiplies what the parameter tells among
    them by a^2 / b (theorem 4.2 of conditional PED-ANOVA). b alone leaves out how good they are.
    """
    having = sum(name in trial.params for trial in trials) / len(trials)
    having_in_top = sum(name in trial.params for trial in top) / len(top)
    if not having_in_top:
        return 0.0
    return (having / having_in_top) ** 2


def _dependent_ranges(trials: list[FrozenTrial]) -> set[str]:
    """Numbers that were drawn from more than one range."""
    ranges: dict[str, set[BaseDistribution]] = {}
    for trial in trials:
        for name, distribution in trial.distributions.items():
            if isinstance(distribution, FloatDistribution | IntDistribution):
                ranges.setdefault(name, set()).add(distribution)
    return {name for name, found in ranges.items() if len(found) > 1}


def _comparable(index: int, trial: FrozenTrial, value: float, dependent: set[str]) -> FrozenTrial:
    """The trial with another value and with positions in place of the `dependent` numbers; a pruned
    one counts as complete."""
    params = dict(trial.params)
    distributions = dict(trial.distributions)
    for name in dependent & params.keys():
        params[name] = _position(params[name], distributions[name])
        distributions[name] = _POSITION
    return FrozenTrial(
        number=index,
        trial_id=index,
        state=TrialState.COMPLETE,
        value=value,
        params=params,
        distributions=distributions,
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_start,
        user_attrs={},
        system_attrs={},
        intermediate_values={},
    )


def _position(value: float, distribution: BaseDistribution) -> float:
    """Place of a number in its range, in [0, 1]."""
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low = float(distribution.low)
    high = float(distribution.high)
    if distribution.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    if high == low:
        return 0.5
    return min(1.0, max(0.0, (value - low) / (high - low)))


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None  # `_comparable` gives one
    return trial.value


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
