"""Rungs: the parts of a training at which trials are compared, and the check of how well they
rank."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from optuna.trial import FrozenTrial, TrialState
from scipy.stats import rankdata, spearmanr

ENOUGH = 6
"""Trials that a rung is judged by, at least."""
RANKS = 0.5
"""Rank correlation that a rung must have with the end of the training."""
MARGIN = 0.5
"""Standard errors that it must be below that for the rung to be switched off."""


@dataclass(frozen=True)
class RungRule:
    """When trials are compared, and how many continue. A study keeps the version it began with."""

    parts: tuple[tuple[int, int], ...]
    """(part of the epochs, part of the trials): 6, 4 says that after a sixth of the epochs the best
    quarter continues. Ascending in time."""

    first_look: int = 0
    """So many of the first trials are not stopped before the last rung."""

    watched: bool = False
    """A rung whose order is not that of the end is switched off."""

    later_counts: bool = False
    """Of two rungs at one epoch the later counts, otherwise the earlier."""


RULES = {
    1: RungRule(((6, 4), (2, 2))),
    2: RungRule(((12, 2), (6, 3), (2, 2)), first_look=4, watched=True, later_counts=True),
}
"""Version -> rule."""
LATEST = max(RULES)


@dataclass(frozen=True)
class Rung:
    """A comparison at the same fraction of every trial's epochs."""

    part: int
    """1 / part of the epochs have passed."""
    factor: int
    """One trial in so many continues (the paper's eta)."""
    is_last: bool

    def epoch(self, epochs: int) -> int:
        """The epoch, from 1, at which a trial of so many epochs is compared."""
        return math.ceil(epochs / self.part)


def rungs_of(epochs: int, version: int) -> list[Rung]:
    """Rungs of trials of so many epochs, in the order of time. The last epoch is no rung."""
    rule = RULES[version]
    kept: dict[int, tuple[int, int]] = {}
    for part, factor in rule.parts:
        epoch = math.ceil(epochs / part)
        is_taken = epoch in kept and not rule.later_counts
        if epoch < epochs and not is_taken:
            kept[epoch] = (part, factor)
    last = list(kept.values())[-1:]
    return [Rung(part, factor, (part, factor) in last) for part, factor in kept.values()]


def rungs(epochs: int, version: int = LATEST) -> dict[int, int]:
    """Epoch at which a trial is compared -> one in so many continues."""
    return {rung.epoch(epochs): rung.factor for rung in rungs_of(epochs, version)}


def epochs_of(trial: FrozenTrial, epochs: int) -> int:
    """Epochs of a trial that runs to its end.

    Args:
        epochs: of the study, unless they are searched.
    """
    return int(trial.params.get("train.epochs", epochs))


@dataclass(frozen=True)
class RungCheck:
    """How well a rung has ranked so far."""

    rung: Rung
    trials: int
    """Trials that ran on: to the last rung, or to the end where the rung is the last."""
    correlation: float | None
    """Rank correlation between their values at the rung and there, corrected for the trials that
    the rung has kept out; None below three trials."""

    @property
    def is_off(self) -> bool:
        """True where the correlation is below .5 by more than half its standard error."""
        if self.correlation is None or self.trials < ENOUGH:
            return False
        error = 1 / math.sqrt(self.trials - 3)
        clipped = min(max(self.correlation, -0.999), 0.999)
        return math.atanh(clipped) + MARGIN * error < math.atanh(RANKS)


    def line(self, epochs: int) -> str:
        """The check in words, for trials of so many epochs."""
        epoch = f"epoch {self.rung.epoch(epochs)}"
        if self.correlation is None:
            return f"{epoch}: too few trials ran on to tell"
        ranks = f"{self.correlation:.2f} over {self.trials} trials that ran on"
        if self.is_off:
            return f"{epoch}: {ranks}; it ranks too badly to stop anybody, and is off"
        return f"{epoch}: {ranks}"


def check_rungs(trials: Sequence[FrozenTrial], epochs: int, version: int) -> list[RungCheck]:
    """Checks of all rungs of a study; none where the version does not watch them."""
    if not RULES[version].watched:
        return []
    found = rungs_of(epochs, version)
    return [check_rung(rung, found[-1], trials, epochs) for rung in found]


def check_rung(rung: Rung, last: Rung, trials: Sequence[FrozenTrial], epochs: int) -> RungCheck:
    """Compare the order at a rung with the order at the last one, or that of the last rung with the
    order of the completed trials.

    Only trials that ran on have both values, and most of those were the best at the rung: within
    so narrow a range a correlation is low even where the rung ranks well. It is corrected for this
    (Thorndike 1949, case 2): values become normal scores, those at the rung among all trials that
    reached it.
    """
    at_rung: list[float] = []
    pairs: list[tuple[int, float]] = []
    for trial in trials:
        own_epochs = epochs_of(trial, epochs)
        value = trial.intermediate_values.get(rung.epoch(own_epochs))
        if value is None or math.isnan(value):
            continue
        later = _later(trial, last, own_epochs, is_last=rung == last)
        if later is not None and not math.isnan(later):
            pairs.append((len(at_rung), later))
        at_rung.append(value)

    if len(pairs) < 3:
        return RungCheck(rung, len(pairs), None)
    scores = normal_scores(at_rung)
    kept = [scores[place] for place, _ in pairs]
    correlation = range_corrected(kept, [later for _, later in pairs], scores)
    return RungCheck(rung, len(pairs), correlation)


def _later(trial: FrozenTrial, last: Rung, epochs: int, *, is_last: bool) -> float | None:
    if not is_last:
        return trial.intermediate_values.get(last.epoch(epochs))
    return trial.value if trial.state == TrialState.COMPLETE else None


def range_corrected(
    kept: Sequence[float], later: Sequence[float], scores: Sequence[float]
) -> float | None:
    """Rank correlation of `kept` and `later` as it would be if none of `scores` had been left out.

    Args:
        kept: scores of the trials that ran on.
        later: what became of them.
        scores: scores of all trials.
    """
    if len(set(kept)) < 2 or len(set(later)) < 2:
        return None
    observed = float(spearmanr(kept, later).statistic)
    ratio = _spread(scores) / _spread(kept)
    return observed * ratio / math.sqrt(1 + observed**2 * (ratio**2 - 1))


def normal_scores(values: Sequence[float]) -> list[float]:
    """Quantiles of the normal distribution at the ranks of the values."""
    normal = NormalDist()
    count = len(values)
    return [normal.inv_cdf((rank - 0.5) / count) for rank in rankdata(values)]


def _spread(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
