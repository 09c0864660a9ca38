"""The sampler against Optuna's own TPE, which it computes faster."""

import json
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
from tune.search.sampler import (
    LATEST_OTHERS,
    STARTUP_TRIALS,
    History,
    SeededTPE,
    _scipy_normal,
    split,
)

RECORDED = Path(__file__).with_name("draws.json")
"""Thirty suggestions of `mixed`, drawn by commit 5d3a9ec."""


def test_scipys_normal_distribution_is_optunas() -> None:
    names = ("_ndtr", "_log_ndtr", "_ndtri_exp")
    optunas = {name: getattr(_truncnorm, name) for name in names}
    with _scipy_normal():
        scipys = {name: getattr(_truncnorm, name) for name in names}
    assert {name: getattr(_truncnorm, name) for name in names} == optunas
    assert all(optunas[name] is not scipys[name] for name in names)
    x = np.linspace(-12, 6, 500)
    for name in ("_ndtr", "_log_ndtr"):
        np.testing.assert_allclose(scipys[name](x), optunas[name](x), rtol=1e-9, atol=1e-15)
    y = np.linspace(-60, -1e-6, 500)
    np.testing.assert_allclose(scipys["_ndtri_exp"](y), optunas["_ndtri_exp"](y), rtol=1e-6)


def test_another_optuna_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(_truncnorm, "_ndtri_exp")
    with pytest.raises(RuntimeError, match="has no _ndtri_exp in its _truncnorm module"):
        SeededTPE(0)


def mixed(trial: Trial) -> None:
    """Suggest choices, a range that depends on one of them, a plain range, integers, a conditional
    range."""
    kind = trial.suggest_categorical("optim.name", ["sgd", "adam", "lars"])
    low, high = {"sgd": (0.01, 1.0), "adam": (1e-4, 1e-2), "lars": (0.1, 3.0)}[kind]
    trial.suggest_float("optim.lr", low, high, log=True)
    trial.suggest_float("head.dropout", 0.0, 0.6)
    trial.suggest_int("aug.operations", 1, 9)
    if trial.suggest_categorical("schedule.name", ["constant", "warm"]) == "warm":
        trial.suggest_float("schedule.warmup", 0.01, 0.5)


def test_draws_are_those_on_record() -> None:
    study = optuna.create_study(direction="maximize", sampler=SeededTPE(0))
    running: list[Trial] = []
    for _ in range(30):
        trial = study.ask()
        mixed(trial)
        running.append(trial)
        if len(running) < 3:
            continue
        done = running.pop(0)
        value = done.params["optim.lr"] - done.params["head.dropout"]
        done.report(value, 1)
        state = TrialState.PRUNED if done.number % 4 == 1 else None
        study.tell(done, None if state else value, state)
    recorded = json.loads(RECORDED.read_text())
    for trial, wanted in zip(study.trials, recorded, strict=True):
        assert trial.params.keys() == wanted.keys()
        for name, value in trial.params.items():  # the last digit depends on the processor
            exact = not isinstance(value, float)
            assert value == (wanted[name] if exact else pytest.approx(wanted[name], rel=1e-12))


def test_trials_that_begin_together_do_not_share_their_draws() -> None:
    """Two trials ask for parameters in turn, and get what they get one after the other."""
    straight, in_turn = (
        optuna.create_study(direction="maximize", sampler=SeededTPE(0)) for _ in range(2)
    )
    for study in (straight, in_turn):
        for number in range(12):
            trial = study.ask()
            mixed(trial)
            study.tell(trial, trial.params["optim.lr"] - number)
    one_by_one, by_turns = ([study.ask(), study.ask()] for study in (straight, in_turn))
    for trial in (*one_by_one, *by_turns):  # draws from the joint model
        trial.suggest_categorical("optim.name", ["sgd", "adam", "lars"])
    for trial in by_turns:
        trial.suggest_categorical("schedule.name", ["constant", "warm"])
    for trial in (*one_by_one, *by_turns):
        mixed(trial)
    assert [t.params for t in straight.trials] == [t.params for t in in_turn.trials]


def test_what_is_forgotten_counts_as_if_it_had_failed() -> None:
    """The model sees no failed trial, so a study in which trials 1 and 3 failed draws the same."""
    drawn = []
    for state, left_out in ((None, (1, 3)), (TrialState.FAIL, ()), (None, ())):

        def forgotten(study: Any, number: int, left_out: tuple[int, ...] = left_out) -> Any:
            return left_out if number >= 12 else ()

        study = optuna.create_study(direction="maximize", sampler=SeededTPE(0, forgotten))
        for number in range(16):
            if number < 12:
                params = {"optim.lr": 10.0 ** -(1 + number % 5), "head.dropout": 0.04 * number}
                study.enqueue_trial(params)
            trial = study.ask()
            rate = trial.suggest_float("optim.lr", 1e-6, 1.0, log=True)
            trial.suggest_float("head.dropout", 0.0, 0.6)
            if state and number in (1, 3):
                study.tell(trial, state=state)
                continue
            study.tell(trial, 9.0 if number in (1, 3) else rate)
        drawn.append([trial.params for trial in study.trials[12:]])
    forgets, failed, learns = drawn
    assert forgets == failed
    assert forgets[0] != learns[0]


def half_the_root(finished: int) -> int:
    return int(np.ceil(np.sqrt(finished / 4)))


class Reference(TPESampler):
    """Optuna's own modelling code throughout. The seeds, the spread of the first trials, and the
    trials that a conditional parameter is modelled from are those of `SeededTPE`. It is asked
    through `Positions`, so that its joint model has the parameters whose ranges depend on the
    optimizer."""

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
    """A trial that is asked for a position in [0, 1] if the range depends on the optimizer. `said`
    is what the space gets."""

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
    """Add trials of every state: completed, pruned with and without values (and NaN), failed. Run
    two at a time, so that one is always running."""
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
    for one, other in zip(grow(ours, 80), grow(reference, 80, positions=True), strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():  # converting to a position and back loses the last digits
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
    # the model has been asked for at least one of them
    assert max(sum(name in t.params for t in ours.trials) for name in sometimes) > STARTUP_TRIALS


@pytest.mark.parametrize("seed", [0, 1])
def test_the_first_trials_are_spread(seed: int) -> None:
    """They form a Latin hypercube: each sixth of a range once, on its scale, and each choice
    equally often."""
    study = optuna.create_study(direction="maximize", sampler=SeededTPE(seed))
    trials = [study.ask() for _ in range(7)][1:]  # the first trial is a user's default
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
    assert abs(np.corrcoef(rates, x)[0, 1]) < 0.95  # the two orders differ


def test_ranges_that_move_are_drawn_with_the_rest() -> None:
    """They stay within their ranges and learn from all optimizers: SGD's rates come near the
    position where only Adam has done well."""
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

    for name in ("adam", "sgd"):  # so that both ranges are known; SGD's trials only get bad values
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
    history = History()
    good, others = split([history.observe(t) for t in seen])
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
