"""Optuna's TPE, made repeatable after a restart, told what ranges that depend on another parameter
have in common, and of bounded cost."""

import heapq
import math
import zlib
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe import _truncnorm
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from scipy import special

# Optuna brings Python versions of these, so as not to need SciPy, and they were a tenth of a
# suggestion's cost.
_truncnorm._ndtr, _truncnorm._log_ndtr, _truncnorm._ndtri_exp = (
    special.ndtr,
    special.log_ndtr,
    special.ndtri_exp,
)

# spread ones before the model is asked; small studies cannot afford the usual 10
STARTUP_TRIALS = 6
LATEST_OTHERS = 225  # with the good ones, of which there are never more than 25: at most 250
POSITION = FloatDistribution(0.0, 1.0)  # in a range, from its low to its high end, on its scale


@dataclass(frozen=True)
class Observation:
    """What the model needs of a trial. It is read once, and once more when it has finished: to read
    all for every suggestion took longer than TPE."""

    number: int
    finished: bool
    merit: tuple[float, float, float]
    """Order among the finished, best first: completed by value, then pruned by how far they came
    and their last value. Of a running trial it means nothing."""
    asked: int
    """How many parameters it had."""
    values: dict[int, float]
    """Parameter in a distribution (see `SeededTPE._key`) -> value in Optuna's internal
    representation. Of a range also the position."""
    ranges: frozenset[str]
    """Parameters that have a position."""


class SeededTPE(TPESampler):
    """Multivariate TPE (Watanabe 2023, https://arxiv.org/abs/2304.11127) whose draws are a function
    of (seed, trial, parameter, storage).

    A sampler that a restart builds anew would otherwise repeat its first random draws, and a trial
    that a kill caught between two parameters would get others than it was about to get.

    A parameter that every trial has, in a range that depends on another (`optim.lr` by
    `optim.name`), is modelled jointly with the others by its position in the range, [0, 1]: a rate
    of .3 that was good for SGD says nothing about AdamW, but that the ends of both ranges are bad
    is learned from all trials. Optuna leaves such a parameter out of its joint model, and draws it
    on its own. One that only some trials have is modelled on its own, from those that had the same
    range.

    Up to 225 trials beside the good ones the model is Optuna's. Beyond, the density of the good
    trials, l(x), still is; that of the others, g(x), is made of the latest, so that a suggestion
    does not cost more and more. Optuna's weights fade old trials out anyway.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(n_startup_trials=STARTUP_TRIALS, multivariate=True)
        self._seed = seed
        self._observed: dict[int, Observation] = {}
        self._keys: dict[str, list[tuple[BaseDistribution, int]]] = {}
        self._others_of: tuple[int, list[Observation]] = (-1, [])
        # ranges that all finished trials have; None before there is one
        self._shared: frozenset[str] | None = None
        self._positions: tuple[int, dict[str, float]] = (-1, {})

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """What all finished trials have: Optuna's space, and the positions of those whose ranges
        differ."""
        space = super().infer_relative_search_space(study, trial)
        self._others(study, trial)  # sees what has finished meanwhile
        return dict(sorted((dict.fromkeys(self._shared or (), POSITION) | space).items()))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self._reseed(trial.number, "")
        params = self._sample_relative(study, trial, search_space)  # which calls _sample
        self._positions = (
            trial.number,
            {name: params.pop(name) for name in list(params) if search_space[name] is POSITION},
        )
        return params

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        number, positions = self._positions
        if number == trial.number and param_name in positions and _is_range(param_distribution):
            return _value_at(positions[param_name], param_distribution)
        self._reseed(trial.number, param_name)
        space = {param_name: param_distribution}
        observations = self._observations(study, trial, space)
        if sum(o.finished for o in observations) < STARTUP_TRIALS:
            return self._spread(study, trial, param_name, param_distribution)
        return self._propose(observations, space)[param_name]

    def _spread(
        self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> Any:
        """A Latin hypercube (McKay et al. 1979): six trials in a row meet every sixth of a range,
        and choices equally often."""
        place = trial.number % STARTUP_TRIALS
        shuffle = np.random.default_rng([self._seed, zlib.crc32(name.encode())])
        sixth = shuffle.permutation(STARTUP_TRIALS)[place]
        if isinstance(distribution, CategoricalDistribution):
            return distribution.choices[
                shuffle.permutation(len(distribution.choices))[sixth % len(distribution.choices)]
            ]
        if _is_range(distribution):
            return _value_at((sixth + self._rng.rng.random()) / STARTUP_TRIALS, distribution)
        return self._random_sampler.sample_independent(study, trial, name, distribution)

    def _sample(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._propose(self._observations(study, trial, search_space), search_space)

    def _propose(
        self, observations: list[Observation], search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Of 24 draws from l(x) the one with the largest l(x) / g(x)."""
        l_x, g_x = (self._density(part, search_space) for part in split(observations))
        candidates = l_x.sample(self._rng.rng, self._n_ei_candidates)
        best = np.argmax(l_x.log_pdf(candidates) - g_x.log_pdf(candidates))
        return {
            name: distribution.to_external_repr(candidates[name][best].item())
            for name, distribution in search_space.items()
        }

    def _density(
        self, observations: list[Observation], search_space: dict[str, BaseDistribution]
    ) -> _ParzenEstimator:
        keys = {name: self._key(name, distribution) for name, distribution in search_space.items()}
        values = {
            name: np.asarray([o.values[key] for o in observations]) for name, key in keys.items()
        }
        return _ParzenEstimator(values, search_space, self._parzen_estimator_parameters)

    def _observations(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> list[Observation]:
        """The other trials, finished or running, that drew these parameters from these
        distributions; by number."""
        wanted = {self._key(name, distribution) for name, distribution in search_space.items()}
        return [o for o in self._others(study, trial) if wanted <= o.values.keys()]

    def _others(self, study: Study, trial: FrozenTrial) -> list[Observation]:
        # all parameters of a trial are drawn at once: the others do not change meanwhile
        if self._others_of[0] != trial.number:
            trials = study._get_trials(
                deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
            )
            # of a finished trial for good: of a thousand trials a call for each costs more than the
            # model
            known = self._observed
            others = [
                o if (o := known.get(t.number)) and o.finished else self._observe(t)
                for t in trials
                if t.number != trial.number
            ]
            self._others_of = trial.number, others
        return self._others_of[1]

    def _observe(self, trial: FrozenTrial) -> Observation:
        """Of a trial that had not finished when it was seen last."""
        finished, asked = trial.state.is_finished(), len(trial.params)
        if not finished and (known := self._observed.get(trial.number)) and known.asked == asked:
            return known
        values, ranges = {}, []
        for name, value in trial.params.items():
            distribution = trial.distributions[name]
            values[self._key(name, distribution)] = distribution.to_internal_repr(value)
            if _is_range(distribution):
                values[self._key(name, POSITION)] = _position(value, distribution)
                ranges.append(name)
        o = self._observed[trial.number] = Observation(
            trial.number, finished, _merit(trial), asked, values, frozenset(ranges)
        )
        if finished:
            self._shared = o.ranges if self._shared is None else self._shared & o.ranges
        return o

    def _key(self, name: str, distribution: BaseDistribution) -> int:
        """A number for each parameter in each distribution, as equality of distributions is
        slow."""
        for known, key in self._keys.setdefault(name, []):
            if known == distribution:
                return key
        key = sum(map(len, self._keys.values()))
        self._keys[name].append((distribution, key))
        return key

    def _reseed(self, number: int, name: str) -> None:
        for stream, rng in enumerate((self._rng, self._random_sampler._rng)):
            rng.rng.seed(
                np.random.SeedSequence(
                    [self._seed, number, zlib.crc32(name.encode()), stream]
                ).generate_state(4)
            )


def _is_range(distribution: BaseDistribution) -> TypeGuard[FloatDistribution]:
    return (
        isinstance(distribution, FloatDistribution)
        and distribution.step is None
        and distribution.low < distribution.high
    )


def _position(value: float, range_: FloatDistribution) -> float:
    """0 at the low end, 1 at the high end; a value from outside, which a user may enqueue, is at
    the nearer end."""
    low, high = range_.low, range_.high
    value = min(max(value, low), high)
    return (
        math.log(value / low) / math.log(high / low) if range_.log else (value - low) / (high - low)
    )


def _value_at(position: float, range_: FloatDistribution) -> float:
    low, high = range_.low, range_.high
    value = low * (high / low) ** position if range_.log else low + position * (high - low)
    return min(max(value, low), high)


def good_of(finished: int) -> int:
    """How many of so many finished trials make l(x): half the square root (Bergstra et al. 2013
    take a quarter of it), at most 25."""
    return min(math.ceil(0.5 * math.sqrt(finished)), 25)


def split(observations: list[Observation]) -> tuple[list[Observation], list[Observation]]:
    """The good trials that make l(x), and the latest of the others with those that still run; by
    number."""
    finished = [o for o in observations if o.finished]
    good = heapq.nsmallest(good_of(len(finished)), finished, key=lambda o: o.merit)
    numbers = {o.number for o in good}
    others = [o for o in finished if o.number not in numbers][-LATEST_OTHERS:] + [
        o for o in observations if not o.finished
    ]
    return sorted(good, key=lambda o: o.number), sorted(others, key=lambda o: o.number)


def _merit(trial: FrozenTrial) -> tuple[float, float, float]:
    if trial.state == TrialState.COMPLETE:
        return 0, 0, -(trial.value or 0.0)
    if not trial.intermediate_values:
        return 2, 0, 0
    step, value = max(trial.intermediate_values.items())
    return 1, -step, math.inf if math.isnan(value) else -value
