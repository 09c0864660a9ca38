"""Optuna's samplers with draws that survive a restart."""

import copy
from collections.abc import Callable, Container
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tune.search.positions import POSITION, draw_key, is_range, position_in, value_at

GAINS = "objectives"
"""Attribute of a completed trial in a study of several objectives: all of them, to be maximized."""
_KEPT = ("cma:", "cmawm:")
"""Prefixes of attributes that a sampler continues from. Others only inform other processes."""


class Repeatable(BaseSampler):
    """One of Optuna's samplers, with draws that depend only on (seed, trial, parameter, storage).

    An Optuna sampler keeps random state and caches, which a restart loses. Here a new sampler makes
    every draw, seeded for this trial and parameter. It sees each value in a range of real numbers
    as its position in that range, [0, 1]. So a rate whose range depends on the optimizer is
    modelled with the rest, while Optuna's own sampler would draw it at random. The new sampler does
    not see the trial that it draws for, because a kill may have left that trial with only some of
    its parameters.

    Args:
        make: makes a sampler from a seed.
        objectives: number of the study's objectives; several are an attribute of each completed
            trial (`GAINS`).
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int, objectives: int = 1) -> None:
        self._make = make
        self._seed = seed
        self._objectives = objectives
        self._finished: dict[int, FrozenTrial] = {}
        self._positions: dict[int, dict[str, float]] = {}

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the parameters that are drawn jointly."""
        sampler = self._sampler(trial.number, "")
        return sampler.infer_relative_search_space(self._others(study, trial), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw jointly. Positions are kept until their ranges are known."""
        sampler = self._sampler(trial.number, "")
        drawn = sampler.sample_relative(self._others(study, trial), trial, search_space)
        positions = [name for name in drawn if search_space[name] == POSITION]
        self._positions[trial.number] = {name: drawn.pop(name) for name in positions}
        return drawn

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw one parameter, by its position if it has one."""
        sampler = self._sampler(trial.number, param_name)
        others = self._others(study, trial)
        if not is_range(param_distribution):
            return sampler.sample_independent(others, trial, param_name, param_distribution)

        place = self._positions.get(trial.number, {}).get(param_name)
        if place is None:
            place = sampler.sample_independent(others, trial, param_name, POSITION)
        return value_at(place, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, *ending: Any) -> None:
        """Forget what was drawn for the trial."""
        self._positions.pop(trial.number, None)

    def _sampler(self, number: int, name: str) -> BaseSampler:
        key = draw_key(self._seed, number, name)
        state = np.random.SeedSequence(key).generate_state(1)
        return self._make(int(state[0]))

    def _others(self, study: Study, trial: FrozenTrial) -> Any:
        return _Others(study, trial.number, self._seen, self._objectives)

    def _seen(self, trial: FrozenTrial) -> FrozenTrial:
        known = self._finished.get(trial.number)
        if known is not None:
            return known
        seen = _by_position(trial)
        if self._objectives > 1:
            seen.values = trial.user_attrs.get(GAINS)
        if trial.state.is_finished():
            self._finished[trial.number] = seen
        return seen


class _Others:
    """A study as a sampler sees it: without the trial that is drawn for."""

    def __init__(
        self,
        study: Study,
        number: int,
        seen: Callable[[FrozenTrial], FrozenTrial],
        objectives: int,
    ):
        self.directions = [StudyDirection.MAXIMIZE] * objectives
        self.direction = StudyDirection.MAXIMIZE
        self._study = study
        self._number = number
        self._seen = seen
        self._storage = _Attributes(study._storage)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _is_multi_objective(self) -> bool:
        return len(self.directions) > 1

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        trials = self._study.get_trials(deepcopy=False, states=states)
        return [self._seen(trial) for trial in trials if trial.number != self._number]

    get_trials = _get_trials


class _Attributes:
    """A storage in which a sampler can set only those attributes of a trial that it continues
    from."""

    def __init__(self, storage: Any):
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        is_preview = trial_id < 0
        if key.startswith(_KEPT) and not is_preview:
            self._storage.set_trial_system_attr(trial_id, key, value)


def _by_position(trial: FrozenTrial) -> FrozenTrial:
    """Return the trial with a position in place of each value from a range."""
    params = dict(trial.params)
    distributions = dict(trial.distributions)
    for name, distribution in trial.distributions.items():
        if is_range(distribution):
            params[name] = position_in(distribution, trial.params[name])
            distributions[name] = POSITION
    seen = copy.copy(trial)
    seen.params = params
    seen.distributions = distributions
    return seen
