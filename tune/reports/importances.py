"""Parameter importance: how much of the difference between trials each parameter explains.

The importance of a parameter is its main effect in an analysis of variance of ranks (Conover and
Iman 1981). It is the share of the variance of the trials' ranks that a curve of the parameter
explains, corrected for chance like the adjusted R^2. The curve is a mean per choice of a
categorical parameter, or a parabola in a numeric one. Interactions are not included.

A parameter does not get credit for the effect of another one:

- A number is represented by its position in the range that it was drawn from. The range of the
  learning rate depends on the optimizer, so the raw value would reveal the optimizer.
- A conditional parameter explains differences only among the trials that have it.

Intervals come from a bootstrap over trials. PED-ANOVA (Watanabe et al. 2023), as implemented in
Optuna, compares the best tenth of the trials with the others. In a search of tens of trials that
tenth is about five trials, too few to rank parameters better than at random.
"""

import math
from dataclasses import dataclass

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import rankdata

METHOD = "analysis of variance of the trials' ranks, main effects"
FEW = 10
"""Minimum number of trials for a result."""
DRAWS = 1000
"""Number of bootstrap samples."""
LEVEL = 0.95
"""Level of the intervals. Also the share of bootstrap samples in which the first parameter must
come first for the order to be decided."""

_SEED = 0  # seed of the bootstrap, so that the same record gives the same page

Scored = tuple[FrozenTrial, float]
"""A trial and its value at the compared epoch."""


@dataclass(frozen=True)
class Share:
    """Share of the variance that a parameter explains, in [0, 1], with its bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Importances:
    """Importances at one fidelity."""

    fidelity: str
    """Description of the epoch at which trials are compared."""

    trials: int

    shares: dict[str, Share]
    """Parameter -> share of the variance that it explains, largest first."""

    first: float
    """Share of the bootstrap samples in which the first parameter comes first."""

    @property
    def decided(self) -> bool:
        """True if the order does not depend on single trials."""
        return self.first >= LEVEL

    @property
    def sentence(self) -> str:
        """The result as a sentence."""
        leader = next(iter(self.shares), None)
        if leader is None:
            return f"At {self.fidelity} no parameter differs between trials."
        often = f"{leader} is first in {self.first:.0%} of {DRAWS:,} resampled sets of trials"
        if self.decided:
            return f"At {self.fidelity} {often}."
        return f"At {self.fidelity} too few trials to tell: {often}."


def importances(trials: list[FrozenTrial], rung: int | None) -> list[Importances]:
    """Compute importances at equal fidelity: at the last epoch, and at epoch `rung`.

    Pruning lets few bad trials reach the last epoch, so the first result says little about bad
    configurations. The second covers all trials, but early in training.

    Args:
        trials: trials in any state.
        rung: epoch of the first rung; None if trials have only one epoch.
    Returns:
        The results that are based on at least `FEW` trials.
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
    trials = [trial for trial, _ in scored]
    ranks = rankdata([value for _, value in scored])
    columns = _designs(trials)

    all_once = np.ones((1, len(trials)))
    observed = _explained(columns, ranks, all_once)[0]
    order = np.argsort(-observed, kind="stable")
    drawn = _explained(columns, ranks, _resampled(len(trials)))[:, order]  # (DRAWS, P)

    tail = (1 - LEVEL) / 2
    lows, highs = np.quantile(drawn, [tail, 1 - tail], axis=0)
    names = list(columns)
    shares = {}
    for place, index in enumerate(order):
        value = float(observed[index])
        low = min(value, float(lows[place]))
        high = max(value, float(highs[place]))
        shares[names[index]] = Share(value, low, high)
    return Importances(fidelity, len(trials), shares, _first(drawn))


def _resampled(trials: int) -> np.ndarray:  # (DRAWS, n) number of times that each trial is drawn
    random = np.random.default_rng(_SEED)
    return random.multinomial(trials, np.full(trials, 1 / trials), size=DRAWS).astype(float)


def _first(
    drawn: np.ndarray,  # (DRAWS, P)
) -> float:
    """Share of the bootstrap samples in which the first parameter explains most."""
    if not drawn.size:
        return 0.0
    largest = drawn.max(axis=1)
    is_first = (drawn[:, 0] == largest) & (largest > 0)
    return float(is_first.mean())


def _explained(
    designs: dict[str, np.ndarray],  # each (n, k), NaN if a trial lacks the parameter
    ranks: np.ndarray,  # (n,)
    weights: np.ndarray,  # (B, n) number of times that each trial counts
) -> np.ndarray:  # (B, P)
    """Compute the share of the variance that each parameter explains, corrected for chance, at
    least 0."""
    mean = weights @ ranks / weights.sum(axis=1)
    total = weights @ ranks**2 - weights.sum(axis=1) * mean**2

    # A resampled set overfits twice: its trials already contain the chance of the original sample.
    times = 1 if len(weights) == 1 else 2
    shares = np.zeros((len(weights), len(designs)))
    for place, design in enumerate(designs.values()):
        explained = _explained_squares(design, ranks, weights, times)
        shares[:, place] = np.divide(explained, total, out=np.zeros_like(total), where=total > 0)
    return shares.clip(0.0, 1.0)


def _explained_squares(
    design: np.ndarray,  # (n, k), NaN if a trial lacks the parameter
    ranks: np.ndarray,  # (n,)
    weights: np.ndarray,  # (B, n)
    times: int,  # number of times to correct for chance
) -> np.ndarray:  # (B,)
    """Compute the sum of squares that a least-squares fit explains among the trials that have the
    parameter."""
    has = ~np.isnan(design[:, 0])
    x, y, w = design[has], ranks[has], weights[:, has]
    count = w.sum(axis=1)
    freedom = count - 1 - x.shape[1]
    known = freedom > 0

    safe = np.maximum(count, 1)
    x_mean = w @ x / safe[:, None]  # (B, k)
    y_mean = w @ y / safe  # (B,)
    covariance = np.einsum("bn,ni,nj->bij", w, x, x)
    covariance -= safe[:, None, None] * x_mean[:, :, None] * x_mean[:, None, :]
    with_ranks = (w * y) @ x - safe[:, None] * x_mean * y_mean[:, None]  # (B, k)
    squares = w @ y**2 - safe * y_mean**2

    slopes = np.einsum("bij,bj->bi", np.linalg.pinv(covariance, hermitian=True), with_ranks)
    rest = squares - (slopes * with_ranks).sum(axis=1)
    chance = np.where(known, (count - 1) / np.maximum(freedom, 1), np.inf) ** times
    corrected = squares - rest * np.where(known, chance, 0.0)
    return np.where(known, corrected, 0.0)


def _designs(trials: list[FrozenTrial]) -> dict[str, np.ndarray]:
    """Return parameter -> columns (n, k) of its curve, NaN if a trial lacks the parameter.
    Parameters with a single value are left out."""
    names = sorted({name for trial in trials for name in trial.params})
    designs = {}
    for name in names:
        having = [name in trial.params for trial in trials]
        rows = [trial for trial in trials if name in trial.params]
        columns = _columns(name, rows)
        if columns.shape[1]:
            design = np.full((len(trials), columns.shape[1]), np.nan)
            design[having] = columns
            designs[name] = design
    return designs


def _columns(name: str, trials: list[FrozenTrial]) -> np.ndarray:  # (m, k)
    """Return indicators of all choices but one, or a centred position and its square; k = 0 for a
    single value."""
    distributions = [trial.distributions[name] for trial in trials]
    values = [trial.params[name] for trial in trials]
    if any(isinstance(each, CategoricalDistribution) for each in distributions):
        texts = np.array([str(value) for value in values])
        choices = np.unique(texts)[1:]
        indicators: np.ndarray = texts[:, None] == choices
        return indicators.astype(float)

    pairs = zip(values, distributions, strict=True)
    position = np.array([_position(value, each) for value, each in pairs])
    if np.ptp(position) == 0:
        return np.zeros((len(position), 0))
    centred = position - position.mean()
    return np.stack([centred, centred**2], axis=1)


def _position(value: float, distribution: BaseDistribution) -> float:
    """Return the position of a number in its range, in [0, 1]."""
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low = float(distribution.low)
    high = float(distribution.high)
    if distribution.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    if high == low:
        return 0.5
    return (value - low) / (high - low)
