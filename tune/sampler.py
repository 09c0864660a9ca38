"""Optuna's TPE, made repeatable after a restart and told that conditional ranges are different things."""

import zlib
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

STARTUP_TRIALS = 6  # random ones before the model is asked; small studies cannot afford the usual 10


class SeededTPE(TPESampler):
    """Multivariate TPE (Watanabe 2023, https://arxiv.org/abs/2304.11127) whose draws are a function of (seed, trial, parameter, storage).

    A sampler that a restart builds anew would otherwise repeat its first random draws, and a trial that a kill caught between two
    parameters would get others than it was about to get.

    A parameter whose range depends on another (`optim.lr` by `optim.name`) is modelled from the trials that had the same range: a rate
    of .3 that was good for SGD says nothing about AdamW.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(n_startup_trials=STARTUP_TRIALS, multivariate=True)
        self._seed = seed

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        self._reseed(trial.number, "")
        return super().sample_relative(study, trial, search_space)

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        self._reseed(trial.number, param_name)
        same_range: Any = _SameRange(study, param_name, param_distribution)
        return super().sample_independent(same_range, trial, param_name, param_distribution)

    def _reseed(self, number: int, name: str) -> None:
        for stream, rng in enumerate((self._rng, self._random_sampler._rng)):
            rng.rng.seed(np.random.SeedSequence([self._seed, number, zlib.crc32(name.encode()), stream]).generate_state(4))


class _SameRange:
    """A study of which only the trials show that drew `name` from this very distribution."""

    def __init__(self, study: Study, name: str, distribution: BaseDistribution):
        self._study, self._name, self._distribution = study, name, distribution

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._study, attribute)

    def _get_trials(self, *args: Any, **kwargs: Any) -> list[FrozenTrial]:
        return [t for t in self._study._get_trials(*args, **kwargs) if t.distributions.get(self._name) == self._distribution]
