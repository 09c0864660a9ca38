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

from tune.experiments import EXPERIMENTS
from tune.search.sampler import LATEST_OTHERS, STARTUP_TRIALS, SeededTPE, split


def test_scipys_normal_distribution_is_optunas() -> None:
    """Read from the installed source, as importing `tune.search.sampler` has put SciPy's in its
    place."""
    names: dict[str, Any] = {"__name__": "optunas"}
    exec(compile(Path(_truncnorm.__file__).read_text(), _truncnorm.__file__, "exec"), names)
    x = np.linspace(-12, 6, 500)
    np.testing.assert_allclose(_truncnorm._ndtr(x), names["_ndtr"](x), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(
        _truncnorm._log_ndtr(x), names["_log_ndtr"](x), rtol=1e-9, atol=1e-15
    )
    y = np.linspace(-60, -1e-6, 500)
    np.testing.assert_allclose(_truncnorm._ndtri_exp(y), names["_ndtri_exp"](y), rtol=1e-6)
    assert _truncnorm._log_ndtr is not names["_log_ndtr"]


def half_the_root(finished: int) -> int:
    return int(np.ceil(np.sqrt(finished / 4)))


class Reference(TPESampler):
    """Optuna's own modelling code throughout; the seeds, how the first are spread, and which trials
    a conditional parameter sees, are as in `SeededTPE`. Asked through `Positions`, so that its
    joint model has the parameters whose ranges depend on the optimizer.
    """

    def __init__(self, seed: int):
        super().__init__(n_startup_trials=STARTUP_TRIALS, multivariate=True)
        self.seed, self.ours, self._gamma = seed, SeededTPE(seed), half_the_root

    def sample_relative(
        self, study: Any, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self.reseed(trial.number, "")
        return super().sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Any, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        self.reseed(trial.number, param_name)
        same_range: Any = SameRange(study, param_name, param_distribution)
        if (
            len(same_range._get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED)))
            < STARTUP_TRIALS
        ):
            return self.ours.sample_independent(study, trial, param_name, param_distribution)
        return super().sample_independent(same_range, trial, param_name, param_distribution)

    def reseed(self, number: int, name: str) -> None:
        for stream, rng in enumerate((self._rng, self._random_sampler._rng)):
            rng.rng.seed(
                np.random.SeedSequence(
                    [self.seed, number, zlib.crc32(name.encode()), stream]
                ).generate_state(4)
            )


class SameRange:
    def __init__(self, study: Any, name: str, distribution: BaseDistribution):
        self.study, self.name, self.distribution = study, name, distribution

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self.study, attribute)

    def _get_trials(self, *args: Any, **kwargs: Any) -> list[FrozenTrial]:
        return [
            t
            for t in self.study._get_trials(*args, **kwargs)
            if t.distributions.get(self.name) == self.distribution
        ]


class Positions:
    """A trial that is asked for a place in [0, 1] where the range depends on the optimizer; `said`:
    what the space hears."""

    def __init__(self, trial: Trial):
        self.trial, self.said = trial, dict[str, Any]()

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        if name in ("optim.lr", "optim.weight_decay"):
            self.said[name] = low * (high / low) ** self.trial.suggest_float(name, 0, 1)
        else:
            self.said[name] = self.trial.suggest_float(name, low, high, log=log)
        return self.said[name]

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self.said[name] = self.trial.suggest_categorical(name, choices)
        return self.said[name]


def grow(study: optuna.Study, trials: int, *, positions: bool = False) -> list[dict[str, Any]]:
    """Trials of every state: completed, pruned with and without values (and NaN), failed; two at a
    time, so that one always runs."""
    running: list[Trial] = []
    said: list[dict[str, Any]] = []
    for _ in range(trials):
        trial = study.ask()
        asked: Any = Positions(trial) if positions else trial
        EXPERIMENTS["ssl"].space(asked, "tiny")
        said.append(asked.said if positions else trial.params)
        running.append(trial)
        if len(running) < 2:
            continue
        done = running.pop(0)
        value = -abs(np.log10(said[done.number]["optim.lr"]) + 2) - done.params["head.tau0"]
        kind = done.number % 7
        if kind in (1, 2):
            done.report(value - 1, 1)
        if kind == 2:
            done.report(float("nan") if done.number % 2 else value, 2)
        state = {
            1: TrialState.PRUNED,
            2: TrialState.PRUNED,
            3: TrialState.PRUNED,
            4: TrialState.FAIL,
        }.get(kind)
        study.tell(done, None if state else value, state)
    return said


def test_suggestions_are_optunas() -> None:
    ours, reference = (
        optuna.create_study(direction="maximize", sampler=kind(3))
        for kind in (SeededTPE, Reference)
    )
    for one, other in zip(grow(ours, 150), grow(reference, 150, positions=True), strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():  # a position and back costs the last digits
            assert value == (
                pytest.approx(other[name], rel=1e-9) if isinstance(value, float) else other[name]
            )
    assert {t.state for t in ours.trials} == {
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAIL,
        TrialState.RUNNING,
    }
    sometimes = ("schedule.warmup_frac", "schedule.step_gamma", "schedule.power")
    # the model has been asked about one
    assert max(sum(name in t.params for t in ours.trials) for name in sometimes) > STARTUP_TRIALS


@pytest.mark.parametrize("seed", [0, 1])
def test_the_first_trials_are_spread(seed: int) -> None:
    """A Latin hypercube: every sixth of a range once, on its scale; every choice as often."""
    study = optuna.create_study(direction="maximize", sampler=SeededTPE(seed))
    trials = [study.ask() for _ in range(7)][1:]  # the first is a user's default
    rates = [trial.suggest_float("rate", 1e-3, 1.0, log=True) for trial in trials]
    x = [trial.suggest_float("x", -1.0, 5.0) for trial in trials]
    assert (
        sorted(np.floor(2 * (np.log10(rates) + 3)))
        == sorted(np.floor(np.add(x, 1)))
        == list(range(6))
    )
    assert sorted(trial.suggest_categorical("name", ["a", "b", "c"]) for trial in trials) == list(
        "aabbcc"
    )
    assert sum(trial.suggest_categorical("flag", [True, False]) for trial in trials) == 3
    assert abs(np.corrcoef(rates, x)[0, 1]) < 0.95  # not the same order in both


def test_ranges_that_move_are_drawn_with_the_rest() -> None:
    """Within their ranges, and from what all optimizers have taught: near the end of SGD's rates
    that only Adam's has been good at."""
    study = optuna.create_study(direction="maximize", sampler=SeededTPE(0))

    def ask(trial: Trial) -> float:
        low, high = {"adam": (1e-4, 1e-2), "sgd": (1e-2, 1.0)}[
            trial.suggest_categorical("name", ["adam", "sgd"])
        ]
        rate = trial.suggest_float("rate", low, high, log=True)
        if trial.number % 3 == 0:
            trial.suggest_float("sometimes", 0.0, 1.0)
        assert low <= rate <= high
        return float(np.log(rate / low) / np.log(high / low))

    for name in ("adam", "sgd"):  # of SGD nothing good is known; both ranges have been met
        study.enqueue_trial({"name": name, "rate": 1e-2})
    places = []
    for _ in range(60):
        trial = study.ask()
        place = ask(trial)
        if trial.number >= 40:
            study.enqueue_trial({"name": "sgd"}, skip_if_exists=False)
            places.append(place)
        study.tell(trial, place if trial.params["name"] == "adam" else place - 10)
    assert trial.params["name"] == "sgd"
    assert np.median(places[1:]) > 0.8
    assert study.sampler.infer_relative_search_space(study, trial._cached_frozen_trial).keys() == {
        "name",
        "rate",
    }


@pytest.mark.parametrize("trials", [8, 90, 250, 251, 400])
def test_the_good_are_optunas_and_the_others_the_latest(trials: int) -> None:
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=1))
    grow(study, trials)
    seen = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING))
    finished = sum(t.state != TrialState.RUNNING for t in seen)
    below, above = _split_trials(study, seen, half_the_root(finished))
    sampler = SeededTPE(0)
    good, others = split([sampler._observe(t) for t in seen])
    assert [o.number for o in good] == [t.number for t in below]
    running = [t.number for t in above if t.state == TrialState.RUNNING]
    assert [o.number for o in others] == [t.number for t in above if t.number not in running][
        -LATEST_OTHERS:
    ] + running
    assert len(good) + len(others) <= 25 + LATEST_OTHERS + 1


def test_a_new_sampler_goes_on_as_the_old_one_would_have() -> None:
    straight, restarted = (
        optuna.create_study(direction="maximize", sampler=SeededTPE(0)) for _ in range(2)
    )
    for _ in range(25):
        restarted.sampler = SeededTPE(0)
        for study in (straight, restarted):
            trial = study.ask()
            EXPERIMENTS["ssl"].space(trial, "tiny")
            study.tell(trial, -trial.params["optim.lr"])
    assert [t.params for t in straight.trials] == [t.params for t in restarted.trials]
