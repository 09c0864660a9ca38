"""The sampler against Optuna's own TPE, of which it is a faster reading."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe import _truncnorm
from optuna.samplers._tpe.sampler import _split_trials
from optuna.trial import FrozenTrial, Trial, TrialState

import tune.sampler
from tune.experiments import EXPERIMENTS
from tune.sampler import LATEST_OTHERS, STARTUP_TRIALS, SeededTPE, split


def test_scipys_normal_distribution_is_optunas() -> None:
    """Read from the installed source, as importing `tune.sampler` has put SciPy's in its place."""
    names: dict[str, Any] = {"__name__": "optunas"}
    exec(compile(Path(_truncnorm.__file__).read_text(), _truncnorm.__file__, "exec"), names)
    x = np.linspace(-12, 6, 500)
    np.testing.assert_allclose(_truncnorm._ndtr(x), names["_ndtr"](x), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(_truncnorm._log_ndtr(x), names["_log_ndtr"](x), rtol=1e-9, atol=1e-15)
    y = np.linspace(-60, -1e-6, 500)
    np.testing.assert_allclose(_truncnorm._ndtri_exp(y), names["_ndtri_exp"](y), rtol=1e-6)
    assert _truncnorm._log_ndtr is not names["_log_ndtr"]


class Reference(TPESampler):
    """Optuna's own sampling code throughout; only the seeds, and which trials a conditional parameter sees, are as in `SeededTPE`."""

    def __init__(self, seed: int):
        super().__init__(n_startup_trials=STARTUP_TRIALS, multivariate=True)
        self.seed = seed

    def sample_relative(self, study: Any, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        self.reseed(trial.number, "")
        return super().sample_relative(study, trial, search_space)

    def sample_independent(self, study: Any, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        self.reseed(trial.number, param_name)
        same_range: Any = SameRange(study, param_name, param_distribution)
        return super().sample_independent(same_range, trial, param_name, param_distribution)

    def reseed(self, number: int, name: str) -> None:
        for stream, rng in enumerate((self._rng, self._random_sampler._rng)):
            rng.rng.seed(np.random.SeedSequence([self.seed, number, zlib.crc32(name.encode()), stream]).generate_state(4))


class SameRange:
    def __init__(self, study: Any, name: str, distribution: BaseDistribution):
        self.study, self.name, self.distribution = study, name, distribution

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self.study, attribute)

    def _get_trials(self, *args: Any, **kwargs: Any) -> list[FrozenTrial]:
        return [t for t in self.study._get_trials(*args, **kwargs) if t.distributions.get(self.name) == self.distribution]


def grow(study: optuna.Study, trials: int) -> None:
    """Trials of every state: completed, pruned with and without values (and NaN), failed; two at a time, so that one always runs."""
    running: list[Trial] = []
    for _ in range(trials):
        trial = study.ask()
        EXPERIMENTS["ssl"].space(trial, "tiny")
        running.append(trial)
        if len(running) < 2:
            continue
        done = running.pop(0)
        value = -abs(np.log10(done.params["optim.lr"]) + 2) - done.params["head.tau0"]
        kind = done.number % 7
        if kind in (1, 2):
            done.report(value - 1, 1)
        if kind == 2:
            done.report(float("nan") if done.number % 2 else value, 2)
        state = {1: TrialState.PRUNED, 2: TrialState.PRUNED, 3: TrialState.PRUNED, 4: TrialState.FAIL}.get(kind)
        study.tell(done, None if state else value, state)


def test_suggestions_are_optunas() -> None:
    ours, reference = (optuna.create_study(direction="maximize", sampler=kind(3)) for kind in (SeededTPE, Reference))
    for study in (ours, reference):
        grow(study, 90)
    assert [t.params for t in ours.trials] == [t.params for t in reference.trials]
    assert {t.state for t in ours.trials} == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING}
    assert sum("schedule.warmup_frac" in t.params for t in ours.trials) > STARTUP_TRIALS  # the model has been asked about it


@pytest.mark.parametrize("trials", [8, 90, 250, 251, 400])
def test_the_good_are_optunas_and_the_others_the_latest(trials: int) -> None:
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=1))
    grow(study, trials)
    seen = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING))
    finished = sum(t.state != TrialState.RUNNING for t in seen)
    below, above = _split_trials(study, seen, tune.sampler.default_gamma(finished))
    sampler = SeededTPE(0)
    good, others = split([sampler._observe(t) for t in seen])
    assert [o.number for o in good] == [t.number for t in below]
    running = [t.number for t in above if t.state == TrialState.RUNNING]
    assert [o.number for o in others] == [t.number for t in above if t.number not in running][-LATEST_OTHERS:] + running
    assert len(good) + len(others) <= 25 + LATEST_OTHERS + 1


def test_a_new_sampler_goes_on_as_the_old_one_would_have() -> None:
    straight, restarted = (optuna.create_study(direction="maximize", sampler=SeededTPE(0)) for _ in range(2))
    for _ in range(25):
        restarted.sampler = SeededTPE(0)
        for study in (straight, restarted):
            trial = study.ask()
            EXPERIMENTS["ssl"].space(trial, "tiny")
            study.tell(trial, -trial.params["optim.lr"])
    assert [t.params for t in straight.trials] == [t.params for t in restarted.trials]
