"""Importances on studies whose true importances are known."""

from collections.abc import Callable

import numpy as np
import optuna
import pytest
from scipy import stats

from tune.reports.importances import FEW, Importances, importances

Objective = Callable[[optuna.Trial, float], float]
"""Trial and noise -> value."""


def searched(objective: Objective, trials: int, seed: int) -> Importances:
    noise = np.random.default_rng(seed)
    sampler = optuna.samplers.RandomSampler(seed=seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(lambda trial: objective(trial, noise.normal(0, 0.1)), n_trials=trials)
    [found] = importances(study.trials, None)
    return found


def by_optimizer(trial: optuna.Trial) -> tuple[str, float]:
    """The optimizer, and a learning rate whose range tells which optimizer it is."""
    name = trial.suggest_categorical("optim.name", ["adamw", "sgd"])
    low = {"adamw": 1e-4, "sgd": 1e-2}[name]
    rate = trial.suggest_float("optim.lr", low, 30 * low, log=True)
    for number in range(5):
        trial.suggest_float(f"nothing.{number}", 0, 1)
    return name, rate


def nothing_matters(trial: optuna.Trial, noise: float) -> float:
    by_optimizer(trial)
    return noise


def optimizer_matters(trial: optuna.Trial, noise: float) -> float:
    name, _ = by_optimizer(trial)
    return float(name == "sgd") + noise


def one_number_matters(trial: optuna.Trial, noise: float) -> float:
    """The best value is in the middle of the range."""
    by_optimizer(trial)
    return noise - 4 * (trial.suggest_float("matters", 0, 1) - 0.5) ** 2


@pytest.mark.parametrize("trials", [16, 60])
def test_noise_has_too_few_trials_to_tell(trials: int) -> None:
    found = [searched(nothing_matters, trials, seed) for seed in range(20)]
    assert sum(result.decided for result in found) <= 1
    undecided = next(result for result in found if not result.decided)
    assert "too few trials to tell" in undecided.sentence
    shares = [share.value for result in found for share in result.shares.values()]
    assert np.mean(shares) < 0.08


@pytest.mark.parametrize(
    ("objective", "name"),
    [(optimizer_matters, "optim.name"), (one_number_matters, "matters")],
)
def test_a_strong_effect_is_first_and_apart_from_the_second(
    objective: Objective, name: str
) -> None:
    for seed in range(5):
        found = searched(objective, 40, seed)
        (first, share), (_, second), *_ = found.shares.items()
        assert first == name
        assert found.decided
        assert "too few" not in found.sentence
        assert share.low > second.high
        assert share.low <= share.value <= share.high


def test_a_range_is_not_credited_with_what_sets_it() -> None:
    """By value alone, the learning rate would explain all that the optimizer does."""
    for seed in range(5):
        found = searched(optimizer_matters, 100, seed)
        assert found.shares["optim.lr"].value < 0.1
        assert found.shares["optim.name"].value > 0.6


def test_a_parameter_of_some_trials_is_not_credited_with_what_they_have_it_by() -> None:
    def objective(trial: optuna.Trial, noise: float) -> float:
        if trial.suggest_categorical("schedule.name", ["constant", "warmup"]) == "warmup":
            trial.suggest_float("schedule.warmup_frac", 0.01, 0.2)
            return 1 + noise
        return noise

    for seed in range(5):
        found = searched(objective, 60, seed)
        assert found.shares["schedule.warmup_frac"].value < 0.1


def test_importance_goes_to_what_matters_where_it_is_asked_for() -> None:
    """The final value depends on one parameter, which only half of the trials have. Early values
    depend on another."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("nothing", 0, 1)
        early = trial.suggest_float("early", 0, 1)
        trial.report(early, 1)
        if trial.suggest_categorical("switch", ["on", "off"]) == "on":
            return trial.suggest_float("matters", 0.01, 1, log=True)
        return 0.5

    study.optimize(objective, n_trials=200)
    last, first = importances(study.trials, 1)
    assert next(iter(last.shares)) == "matters"
    assert next(iter(first.shares)) == "early"
    assert first.shares["early"].value == pytest.approx(1, abs=0.01)
    assert importances(study.trials[: FEW - 1], 1) == []


def test_two_choices_have_the_adjusted_r2_of_their_ranks() -> None:
    def objective(trial: optuna.Trial, noise: float) -> float:
        return 0.1 * trial.suggest_categorical("choice", [0, 1]) + noise

    trials = 50
    noise = np.random.default_rng(3)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=3))
    study.optimize(lambda trial: objective(trial, noise.normal(0, 0.1)), n_trials=trials)
    [found] = importances(study.trials, None)
    choices = [trial.params["choice"] for trial in study.trials]
    ranks = stats.rankdata([trial.value for trial in study.trials])
    r2 = stats.pearsonr(choices, ranks).statistic ** 2
    assert found.shares["choice"].value == pytest.approx(1 - (1 - r2) * (trials - 1) / (trials - 2))


def test_equal_values_have_no_importance() -> None:
    def objective(trial: optuna.Trial, noise: float) -> float:
        trial.suggest_float("nothing", 0, 1)
        return 0.5

    found = searched(objective, 20, 0)
    assert found.shares["nothing"].value == 0
    assert not found.decided
