"""Rungs: the points of a training at which trials are compared, and a check of how well they rank
trials."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

ENOUGH = 6
"""Minimum number of trials to judge a rung by."""
RANKS = 0.5
"""Rank correlation that a rung must have with the end of the training."""


@dataclass(frozen=True)
class RungRule:
    """When trials are compared, and how many continue. A study keeps the version it began with."""

    parts: tuple[tuple[int, int], ...]
    """(part of the epochs, part of the trials), in ascending order of time: (6, 4) means that after
    a sixth of the epochs the best quarter continues."""

    first_look: int = 0
    """Number of first trials that are observed for longer."""

    first_stop: int = 1
    """The first trials are not stopped before 1 / first_stop of their epochs."""

    watched: bool = False
    """A rung that does not rank trials as the end does is switched off."""

    later_counts: bool = False
    """True: of two rungs at one epoch the later one counts; False: the earlier one."""

    best_so_far: bool = False
    """True: trials are compared by their best epoch so far, as at their ends; False: by the epoch
    of the rung."""

    needs_rival: bool = False
    """The last rung stops no trial while only the default has passed it: a study without a second
    configuration compares nothing."""

    margin: float = 1.0
    """A rung is switched off if its correlation is below `RANKS` by more than this many standard
    errors."""

    def value(self, values: Mapping[int, float], epoch: int) -> float:
        """Return the value by which a trial is compared at an epoch; NaN if it has none there.

        Args:
            values: epoch -> objective.
        """
        value = values.get(epoch, math.nan)
        if math.isnan(value) or not self.best_so_far:
            return value
        return max(earlier for other, earlier in values.items() if other <= epoch)


_EARLY = RungRule(
    ((12, 3), (6, 2), (4, 2), (2, 2)),
    first_look=4,
    first_stop=4,
    watched=True,
    later_counts=True,
)
_THIRDS = ((27, 3), (9, 3), (3, 3))
RULES: dict[int | str, RungRule] = {
    1: RungRule(((6, 4), (2, 2))),
    2: _EARLY,
    3: replace(_EARLY, best_so_far=True, needs_rival=True),
    4: replace(_EARLY, best_so_far=True, needs_rival=True, margin=0.0),
    "halving": RungRule(_THIRDS, later_counts=True),
    "hyperband": RungRule(_THIRDS, later_counts=True),
    "median": RungRule(()),
    "none": RungRule(()),
}
"""Version of the default, or name of another pruner (`tune.search.methods`) -> rule."""
LATEST = 4


@dataclass(frozen=True)
class Rung:
    """A comparison at the same fraction of every trial's epochs."""

    part: int
    """1 / part of the epochs have passed."""
    factor: int
    """One in this many trials continues (the paper's eta)."""

    def stops(self, number: int, rule: RungRule) -> bool:
        """True if the rung may stop this trial: it is not one of the first, or has trained long
        enough."""
        return number >= rule.first_look or self.part <= rule.first_stop

    def epoch(self, epochs: int) -> int:
        """Return the epoch, from 1, at which a trial of this many epochs is compared."""
        return math.ceil(epochs / self.part)


def rungs_of(epochs: int, version: int | str) -> list[Rung]:
    """Rungs of trials of this many epochs, in order of time. The last epoch is not a rung."""
    rule = RULES[version]
    kept: dict[int, tuple[int, int]] = {}
    for part, factor in rule.parts:
        epoch = math.ceil(epochs / part)
        is_taken = epoch in kept and not rule.later_counts
        if epoch < epochs and not is_taken:
            kept[epoch] = (part, factor)
    return [Rung(part, factor) for part, factor in kept.values()]


def rungs(epochs: int, version: int | str = LATEST) -> dict[int, int]:
    """Epoch at which a trial is compared -> factor: one in so many trials continues."""
    return {rung.epoch(epochs): rung.factor for rung in rungs_of(epochs, version)}


@dataclass(frozen=True)
class Curve:
    """The training of a trial as far as it got."""

    values: Mapping[int, float]
    """Epoch -> objective."""
    epochs: int
    """Epochs of the whole training."""
    end: float | None
    """Objective of a completed trial; None if it is running or ended otherwise."""


@dataclass(frozen=True)
class RungCheck:
    """The result of checking how well a rung has ranked trials so far."""

    rung: Rung
    trials: int
    """Number of trials that continued."""
    correlation: float | None
    """Rank correlation between their values at the rung and later, corrected for the trials that
    the rung has stopped; None for fewer than three trials."""
    margin: float
    """Standard errors by which it must be below `RANKS`."""

    @property
    def is_off(self) -> bool:
        """True if the correlation is too low for the rung to stop trials."""
        if self.correlation is None or self.trials < ENOUGH:
            return False
        error = 1 / math.sqrt(self.trials - 3)
        clipped = min(max(self.correlation, -0.999), 0.999)
        return math.atanh(clipped) + self.margin * error < math.atanh(RANKS)

    def line(self, epochs: int) -> str:
        """Describe a check that has a correlation, for trials of this many epochs."""
        epoch = f"epoch {self.rung.epoch(epochs)}"
        ranks = f"{self.correlation:.2f} over {self.trials} trials that continued"
        if self.is_off:
            return f"{epoch}: {ranks}; it ranks too badly to stop trials, and is off"
        return f"{epoch}: {ranks}"


def check_rungs(curves: Sequence[Curve], epochs: int, version: int | str) -> list[RungCheck]:
    """Check all rungs of a study; the list is empty if the version does not watch them."""
    if not RULES[version].watched:
        return []
    return [check_rung(rung, curves, version) for rung in rungs_of(epochs, version)]


def check_rung(rung: Rung, curves: Sequence[Curve], version: int | str) -> RungCheck:
    """Compare the order of trials at a rung with their order later: at the epoch where the first
    trials may be stopped for the first time, or at the end if the rung is not earlier than that.

    Only trials that continued have both values, and most of those were the best at the rung. Within
    such a narrow range a correlation is low even if the rung ranks well, so it is corrected
    (Thorndike 1949, case 2). For this, values become normal scores; those at the rung are taken
    among all trials that reached it.
    """
    rule = RULES[version]
    at_rung: list[float] = []
    places: list[int] = []
    later: list[float] = []
    for curve in curves:
        value = rule.value(curve.values, rung.epoch(curve.epochs))
        if math.isnan(value):
            continue
        then = curve.end
        if not rung.stops(0, rule):
            then = rule.value(curve.values, math.ceil(curve.epochs / rule.first_stop))
        if then is not None and not math.isnan(then):
            places.append(len(at_rung))
            later.append(then)
        at_rung.append(value)

    if len(places) < 3:
        return RungCheck(rung, len(places), None, rule.margin)
    scores = normal_scores(at_rung)
    correlation = range_corrected(scores[places], normal_scores(later), scores)
    return RungCheck(rung, len(places), correlation, rule.margin)


def range_corrected(kept: np.ndarray, later: np.ndarray, scores: np.ndarray) -> float | None:
    """Return the correlation of `kept` and `later` as if none of `scores` had been left out.

    Args:
        kept: (K,) scores of the trials that continued.
        later: (K,) scores of the same trials later.
        scores: (N,) scores of all trials.
    Returns:
        None if all scores in `kept`, or all in `later`, are equal.
    """
    if np.ptp(kept) == 0 or np.ptp(later) == 0:
        return None
    observed = float(np.corrcoef(kept, later)[0, 1])
    ratio = float(scores.std() / kept.std())
    return observed * ratio / math.sqrt(1 + observed**2 * (ratio**2 - 1))


def normal_scores(values: Sequence[float]) -> np.ndarray:  # (N,)
    """Return quantiles of the normal distribution at the ranks of the values; equal values share
    the mean of their ranks."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last_rank = count.cumsum()
    ranks = last_rank - (count - 1) / 2
    normal = NormalDist()
    scores = [normal.inv_cdf((rank - 0.5) / len(values)) for rank in ranks]
    return np.array(scores)[place]
