"""Optuna's TPE with draws that survive a restart, a joint model over ranges that depend on another
parameter, and bounded cost."""

import contextlib
import heapq
import math
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe import _truncnorm
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from tune.search.positions import POSITION, draw_key, is_range, position_in, value_at

STARTUP_TRIALS = 6
"""Number of trials with spread-out draws before the model is used; small studies cannot afford the
usual 10."""
LATEST_OTHERS = 225
"""Maximum number of trials in g(x). With the good ones, at most 25, the model sees 250."""

_NORMAL = ("_ndtr", "_log_ndtr", "_ndtri_exp")
"""Functions of Optuna's normal distribution; SciPy's have the same names without underscore."""


Forgotten = Callable[[Study, int], Collection[int]]
"""Study, number of the trial that is drawn -> numbers of the trials that the model leaves out."""


def none_forgotten(study: Study, number: int) -> Collection[int]:
    """Return no trials."""
    return ()


@dataclass(frozen=True)
class Observation:
    """A trial as the model sees it. It is read once while it runs, and once more when it has
    finished: reading all trials for every suggestion took longer than TPE itself."""

    number: int
    finished: bool
    merit: tuple[float, float, float]
    """Order among the finished trials, best first: completed ones by value, then pruned ones by
    their last epoch and its value. Meaningless for a running trial."""
    asked: int
    """Number of its parameters."""
    values: dict[int, float]
    """Parameter in a distribution (see `History.key`) -> value in Optuna's internal representation.
    For a range, also the position in it."""
    ranges: frozenset[str]
    """Parameters that have a position."""


class History:
    """All observed trials of a study."""

    def __init__(self) -> None:
        self.shared: frozenset[str] | None = None
        """Ranges that all finished trials have; None before a trial has finished."""
        self._observed: dict[int, Observation] = {}
        self._keys: dict[str, list[tuple[BaseDistribution, int]]] = {}

    def others(self, study: Study, number: int) -> list[Observation]:
        """Observations of all trials but `number` that have finished or are running, by number."""
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        trials = study._get_trials(deepcopy=False, states=states)
        # A finished trial does not change. With a thousand trials, one call for each would cost
        # more than the model.
        known = self._observed
        return [
            o if (o := known.get(trial.number)) and o.finished else self.observe(trial)
            for trial in trials
            if trial.number != number
        ]

    def observe(self, trial: FrozenTrial) -> Observation:
        """Read a trial that had not finished when it was last read."""
        finished = trial.state.is_finished()
        asked = len(trial.params)
        known = self._observed.get(trial.number)
        if known is not None and not finished and known.asked == asked:
            return known

        values: dict[int, float] = {}
        ranges = []
        for name, value in trial.params.items():
            distribution = trial.distributions[name]
            values[self.key(name, distribution)] = distribution.to_internal_repr(value)
            if is_range(distribution):
                values[self.key(name, POSITION)] = position_in(distribution, value)
                ranges.append(name)
        observation = Observation(
            trial.number, finished, _merit(trial), asked, values, frozenset(ranges)
        )
        self._observed[trial.number] = observation
        if finished:
            shared = observation.ranges
            self.shared = shared if self.shared is None else self.shared & shared
        return observation

    def key(self, name: str, distribution: BaseDistribution) -> int:
        """Return a number for each parameter in each distribution, because comparing distributions
        is slow."""
        keys = self._keys.setdefault(name, [])
        for known, key in keys:
            if known == distribution:
                return key
        key = sum(map(len, self._keys.values()))
        keys.append((distribution, key))
        return key


@dataclass
class Drawing:
    """The data that one trial's draws are based on, fixed when the trial begins."""

    others: list[Observation]
    """The other trials, finished or running, by number."""
    shared: frozenset[str]
    """Ranges that all finished trials have."""
    positions: dict[str, float]
    """Positions that the joint model has drawn; empty before."""


class SeededTPE(TPESampler):
    """Multivariate TPE (Watanabe 2023, https://arxiv.org/abs/2304.11127) with draws that depend
    only on (seed, trial, parameter, storage).

    Otherwise a sampler that a restart creates anew would repeat its first random draws, and a trial
    that a kill interrupted between two parameters would get different ones.

    A parameter that every trial has may have a range that depends on another parameter (`optim.lr`
    on `optim.name`). It is modelled jointly with the others, by its position in the range, [0, 1].
    A rate of .3 that was good for SGD says nothing about AdamW, but the model can learn from all
    trials that the ends of both ranges are bad. Optuna leaves such a parameter out of its joint
    model and draws it independently. Conditional parameters are modelled independently, from the
    trials that had the same range.

    With up to 225 trials besides the good ones, the model is Optuna's. With more, the density of
    the good trials, l(x), is still Optuna's. The density of the others, g(x), uses only the latest,
    which bounds the cost of a suggestion. Optuna's weights fade old trials out anyway.

    Args:
        forgotten: trials that the model leaves out. They must follow from the trial that is drawn
            and from the storage.
    Raises:
        RuntimeError: this version of Optuna lacks something that the sampler relies on.
    """

    def __init__(self, seed: int, forgotten: Forgotten = none_forgotten) -> None:
        super().__init__(n_startup_trials=STARTUP_TRIALS, multivariate=True)
        _check_optuna()
        self._seed = seed
        self._forgotten = forgotten
        self._history = History()
        self._drawings: dict[int, Drawing] = {}  # trial -> drawing, until the trial has ended

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Begin a trial. Return the parameters that all finished trials have: Optuna's space, and
        the positions of those whose ranges differ."""
        space = super().infer_relative_search_space(study, trial)
        drawing = self._begin(study, trial.number)
        positions = dict.fromkeys(drawing.shared, POSITION)
        return dict(sorted((positions | space).items()))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw from the joint model."""
        self._reseed(trial.number, "")
        parameters = self._sample_relative(study, trial, search_space)  # calls `_sample`
        positions = [name for name in parameters if search_space[name] is POSITION]
        drawing = self._drawing(study, trial.number)
        drawing.positions = {name: parameters.pop(name) for name in positions}
        return parameters

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw one parameter: by the position that the joint model has drawn, or from the trials
        that had the same range."""
        drawing = self._drawing(study, trial.number)
        if param_name in drawing.positions and is_range(param_distribution):
            return value_at(drawing.positions[param_name], param_distribution)

        self._reseed(trial.number, param_name)
        space = {param_name: param_distribution}
        observations = self._observations(drawing, space)
        if sum(o.finished for o in observations) < STARTUP_TRIALS:
            return self._spread(study, trial, param_name, param_distribution)
        return self._propose(observations, space)[param_name]

    def after_trial(self, study: Study, trial: FrozenTrial, *ending: Any) -> None:
        """Forget the data that the trial's draws were based on."""
        super().after_trial(study, trial, *ending)
        self._drawings.pop(trial.number, None)

    def _begin(self, study: Study, number: int) -> Drawing:
        left_out = self._forgotten(study, number)
        others = [o for o in self._history.others(study, number) if o.number not in left_out]
        drawing = Drawing(others, self._history.shared or frozenset(), positions={})
        self._drawings[number] = drawing
        return drawing

    def _drawing(self, study: Study, number: int) -> Drawing:
        drawing = self._drawings.get(number)
        return self._begin(study, number) if drawing is None else drawing

    def _spread(
        self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> Any:
        """Draw from a Latin hypercube (McKay et al. 1979): six trials in a row cover every sixth of
        a range, and use choices equally often."""
        place = trial.number % STARTUP_TRIALS
        shuffle = np.random.default_rng([self._seed, zlib.crc32(name.encode())])
        sixth = shuffle.permutation(STARTUP_TRIALS)[place]
        if isinstance(distribution, CategoricalDistribution):
            choices = distribution.choices
            order = shuffle.permutation(len(choices))
            return choices[order[sixth % len(choices)]]
        if is_range(distribution):
            position = (sixth + self._rng.rng.random()) / STARTUP_TRIALS
            return value_at(position, distribution)
        return self._random_sampler.sample_independent(study, trial, name, distribution)

    def _sample(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw from the joint model, if Optuna uses one."""
        drawing = self._drawing(study, trial.number)
        return self._propose(self._observations(drawing, search_space), search_space)

    def _propose(
        self, observations: list[Observation], search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw 24 candidates from l(x) and take the one with the largest l(x) / g(x)."""
        good, others = split(observations)
        with _scipy_normal():
            l_x = self._density(good, search_space)
            g_x = self._density(others, search_space)
            candidates = l_x.sample(self._rng.rng, self._n_ei_candidates)
            best = np.argmax(l_x.log_pdf(candidates) - g_x.log_pdf(candidates))
        return {
            name: distribution.to_external_repr(candidates[name][best].item())
            for name, distribution in search_space.items()
        }

    def _density(
        self, observations: list[Observation], search_space: dict[str, BaseDistribution]
    ) -> _ParzenEstimator:
        values = {}
        for name, distribution in search_space.items():
            key = self._history.key(name, distribution)
            values[name] = np.asarray([o.values[key] for o in observations])
        return _ParzenEstimator(values, search_space, self._parzen_estimator_parameters)

    def _observations(
        self, drawing: Drawing, search_space: dict[str, BaseDistribution]
    ) -> list[Observation]:
        """The other trials that drew these parameters from these distributions."""
        wanted = {self._history.key(name, d) for name, d in search_space.items()}
        return [o for o in drawing.others if wanted <= o.values.keys()]

    def _reseed(self, number: int, name: str) -> None:
        """Make the next draws depend only on (seed, trial, parameter)."""
        key = draw_key(self._seed, number, name)
        for stream, rng in enumerate((self._rng, self._random_sampler._rng)):
            sequence = np.random.SeedSequence([*key, stream])
            rng.rng.seed(sequence.generate_state(4))


def _check_optuna() -> None:
    missing = [name for name in _NORMAL if not hasattr(_truncnorm, name)]
    if missing:
        raise RuntimeError(
            f"Optuna {optuna.__version__} has no {', '.join(missing)} in its _truncnorm module; "
            "install the version that pyproject.toml names"
        )


@contextlib.contextmanager
def _scipy_normal() -> Iterator[None]:
    """Replace Optuna's normal distribution with SciPy's within the block.

    Optuna has its own Python versions of these functions, to be independent of SciPy. They took a
    tenth of the time of a suggestion, and agree with SciPy's to nine digits.
    """
    from scipy import special  # takes a quarter of a second; the first trials need not wait

    original = {name: getattr(_truncnorm, name) for name in _NORMAL}
    ours = {name: getattr(special, name.removeprefix("_")) for name in _NORMAL}
    vars(_truncnorm).update(ours)
    try:
        yield
    finally:
        vars(_truncnorm).update(original)


def good_of(finished: int) -> int:
    """Number of good trials, which make l(x), among this many finished ones: half the square root
    (Bergstra et al. 2013 take a quarter of it), at most 25."""
    return min(math.ceil(0.5 * math.sqrt(finished)), 25)


def split(observations: list[Observation]) -> tuple[list[Observation], list[Observation]]:
    """Split into the good trials, which make l(x), and the latest of the others together with
    running trials; each list by number."""
    finished = [o for o in observations if o.finished]
    running = [o for o in observations if not o.finished]
    good = heapq.nsmallest(good_of(len(finished)), finished, key=lambda o: o.merit)
    numbers = {o.number for o in good}
    rest = [o for o in finished if o.number not in numbers]
    others = rest[-LATEST_OTHERS:] + running
    return sorted(good, key=lambda o: o.number), sorted(others, key=lambda o: o.number)


def _merit(trial: FrozenTrial) -> tuple[float, float, float]:
    if trial.state == TrialState.COMPLETE:
        return 0, 0, -(trial.value or 0.0)
    if not trial.intermediate_values:
        return 2, 0, 0
    step, value = max(trial.intermediate_values.items())
    return 1, -step, math.inf if math.isnan(value) else -value
