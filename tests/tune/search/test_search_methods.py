"""Samplers and pruners by name, against Optuna, SciPy and counting."""

import logging
import math
import warnings
from collections import Counter
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, SuccessiveHalvingPruner
from optuna.trial import TrialState
from scipy.stats import qmc

from trainables.errors import UserError
from tune.search.grid import points
from tune.search.methods import check_pruner, check_sampler, make_pruner, make_sampler
from tune.search.sobol import at_coordinate

EPOCHS = 27


def epochs_run(pruner: BasePruner, trials: int) -> list[int]:
    """Epochs of trials with random curves under a pruner."""
    study = optuna.create_study(direction="maximize", pruner=pruner, study_name="s")
    rng = np.random.default_rng(0)
    found = []
    for _ in range(trials):
        trial = study.ask()
        values = rng.random() + 0.3 * rng.random(EPOCHS)
        for epoch, value in enumerate(values, 1):
            trial.report(float(value), epoch)
            # at the end there is nothing left to stop
            if epoch < EPOCHS and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, float(values.max()))
        found.append(epoch)
    return found


OPTUNAS: dict[str, BasePruner] = {
    "halving": SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
    "hyperband": HyperbandPruner(min_resource=1, max_resource=EPOCHS, reduction_factor=3),
    "median": MedianPruner(),
}


@pytest.mark.parametrize("name", OPTUNAS)
def test_pruners_stop_as_optunas_do(name: str) -> None:
    ours = epochs_run(make_pruner(name, EPOCHS), 60)
    assert ours == epochs_run(OPTUNAS[name], 60)
    assert min(ours) < EPOCHS


def test_none_stops_nobody() -> None:
    assert epochs_run(make_pruner("none", EPOCHS), 5) == [EPOCHS] * 5


DISTRIBUTIONS: list[BaseDistribution] = [
    FloatDistribution(-1.0, 3.0),
    FloatDistribution(1e-4, 1.0, log=True),
    FloatDistribution(0.0, 0.75, step=0.25),
    IntDistribution(1, 4),
    IntDistribution(0, 15, step=5),
    CategoricalDistribution(("a", "b", "c", "d")),
]


def sobol_study(seed: int, trials: int) -> list[dict[str, Any]]:
    names = [f"p{place}" for place in range(len(DISTRIBUTIONS))]
    study = optuna.create_study(sampler=make_sampler("sobol", seed, names))
    asked = dict(zip(names, DISTRIBUTIONS, strict=True))
    return [study.ask(asked).params for _ in range(trials + 1)][1:]


def test_a_sobol_study_fills_every_range_evenly() -> None:
    """Each of 2^k equal parts of a range holds one of 2^k points (Sobol 1967). The points are
    SciPy's."""
    found = sobol_study(3, 64)
    numbers = np.array([trial["p0"] for trial in found])
    assert sorted(np.floor((numbers + 1) / 4 * 64)) == list(range(64))
    rates = np.log10([trial["p1"] for trial in found])
    assert sorted(np.floor((rates + 4) / 4 * 64)) == list(range(64))
    for name in ("p2", "p3", "p4", "p5"):
        assert set(Counter(trial[name] for trial in found).values()) == {16}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = qmc.Sobol(6, rng=np.random.default_rng(3)).random(64)
    np.testing.assert_allclose((numbers + 1) / 4, expected[:, 0])
    assert found[:8] == sobol_study(3, 8)
    assert found[:8] != sobol_study(4, 8)


@pytest.mark.parametrize("distribution", [*DISTRIBUTIONS, IntDistribution(1, 64, log=True)])
def test_coordinates_cover_a_distribution(distribution: BaseDistribution) -> None:
    found = [at_coordinate(place, distribution) for place in np.linspace(0, 1 - 1e-12, 301)]
    internal = [distribution.to_internal_repr(value) for value in found]
    assert all(distribution._contains(value) for value in internal)
    assert internal == sorted(internal)
    if isinstance(distribution, CategoricalDistribution):
        assert set(found) == set(distribution.choices)
    else:
        ends = vars(distribution)
        assert found[0] == pytest.approx(ends["low"])
        assert found[-1] == pytest.approx(ends["high"])


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [
        (FloatDistribution(0.0, 1.0), [0, 0.25, 0.5, 0.75, 1]),
        (FloatDistribution(1e-4, 1.0, log=True), [1e-4, 1e-3, 1e-2, 1e-1, 1]),
        (FloatDistribution(0.0, 1.0, step=0.5), [0, 0.5, 1]),
        (FloatDistribution(0.5, 0.5), [0.5]),
        (IntDistribution(1, 3), [1, 2, 3]),
        (IntDistribution(0, 100), [0, 25, 50, 75, 100]),
        (IntDistribution(1, 16, log=True), [1, 2, 4, 8, 16]),
        (IntDistribution(10, 50, step=20), [10, 30, 50]),
    ],
)
def test_points_of_a_grid(distribution: BaseDistribution, expected: list[float]) -> None:
    assert points(distribution) == pytest.approx(expected)
    assert all(
        distribution._contains(distribution.to_internal_repr(p)) for p in points(distribution)
    )


@pytest.mark.parametrize("name", ["tpe", "cmaes"])
def test_a_model_finds_the_good_end_of_ranges_that_depend_on_a_choice(
    name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best rate is at the same position of both ranges, and random draws come near it less
    often. No warning is logged about the choice, which CMA-ES always draws at random."""
    monkeypatch.setattr(logging.getLogger("optuna"), "propagate", True)
    if name == "cmaes":
        pytest.importorskip("cmaes")

    def late_distance(name: str) -> float:
        study = optuna.create_study(direction="maximize", sampler=make_sampler(name, 0, []))
        found = []
        for _ in range(40):
            trial = study.ask()
            low = {"a": 1e-4, "b": 1e-2}[trial.suggest_categorical("kind", ["a", "b"])]
            rate = trial.suggest_float("rate", low, 100 * low, log=True)
            other = trial.suggest_float("other", 0.0, 1.0)
            place = math.log10(rate / low) / 2
            found.append(abs(place - 0.9) + abs(other - 0.2))
            study.tell(trial, -found[-1])
        return float(np.mean(found[30:]))

    assert late_distance(name) < 0.6 * late_distance("random")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(("name", "kept"), [("gp", ()), ("cmaes", ("cma:",))])
def test_a_trial_keeps_only_what_its_sampler_continues_from(
    name: str, kept: tuple[str, ...]
) -> None:
    study = optuna.create_study(sampler=make_sampler(name, 0, ["x", "y"]), direction="maximize")
    study.optimize(
        lambda trial: trial.suggest_float("x", 0, 1) - trial.suggest_float("y", 0, 1), 12
    )
    found = [key for trial in study.trials for key in trial.system_attrs]
    assert all(key.startswith(kept) for key in found)
    assert bool(found) == bool(kept)


def test_unknown_methods_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"unknown --sampler 'sobel'; did you mean 'sobol'\?"):
        check_sampler("sobel")
    with pytest.raises(UserError, match="unknown --pruner 'asha'; valid: halving, hyperband, "):
        check_pruner("asha")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install '?cmaes"):
        check_sampler("cmaes")
