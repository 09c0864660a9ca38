"""Rungs: when trials are compared, the first comparison, and the check of their order, against
NumPy, SciPy and simulated trials."""

import math

import numpy as np
import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import Trial, TrialState
from scipy import stats

from tune.search.pruner import DurableHalving, curves_of
from tune.search.rungs import (
    ENOUGH,
    Curve,
    Rung,
    RungCheck,
    check_rung,
    check_rungs,
    normal_scores,
    range_corrected,
    rungs,
)


@pytest.mark.parametrize(
    ("epochs", "version", "expected"),
    [
        (12, 1, {2: 4, 6: 2}),
        (12, 2, {1: 3, 2: 2, 3: 2, 6: 2}),
        (12, 4, {1: 3, 2: 2, 3: 2, 6: 2}),
        (6, 2, {1: 2, 2: 2, 3: 2}),
        (100, 2, {9: 3, 17: 2, 25: 2, 50: 2}),
        (2, 1, {1: 4}),
        (2, 2, {1: 2}),
        (1, 2, {}),
        (81, "halving", {3: 3, 9: 3, 27: 3}),
        (81, "hyperband", {3: 3, 9: 3, 27: 3}),
    ],
)
def test_rungs_are_parts_of_the_epochs(epochs: int, version: int | str, expected: object) -> None:
    assert rungs(epochs, version) == expected


def test_normal_scores_are_scipys() -> None:
    values = np.random.default_rng(0).integers(12, size=30).astype(float)
    expected = stats.norm.ppf((stats.rankdata(values) - 0.5) / 30)
    np.testing.assert_allclose(normal_scores(list(values)), expected, atol=1e-9)


@pytest.mark.parametrize("correlation", [-0.4, 0.0, 0.5, 0.9])
@pytest.mark.parametrize("kept", [0.1, 0.25, 1.0])
def test_the_correction_finds_the_correlation_before_selection(
    correlation: float, kept: float
) -> None:
    """Keep the best part, by the first value, of 200,000 pairs with a known correlation."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=200_000)
    second = correlation * first + math.sqrt(1 - correlation**2) * rng.normal(size=len(first))
    chosen = first >= np.quantile(first, 1 - kept)
    found = range_corrected(first[chosen], second[chosen], first)
    assert found == pytest.approx(correlation, abs=0.02)


def test_without_selection_the_check_is_the_correlation_of_normal_scores() -> None:
    rng = np.random.default_rng(1)
    curves = [Curve({2: a, 3: b}, 12, None) for a, b in rng.normal(size=(9, 2))]
    check = check_rung(Rung(6, 2), curves, 2)
    columns = [normal_scores([curve.values[epoch] for curve in curves]) for epoch in (2, 3)]
    assert check.trials == 9
    assert check.correlation == pytest.approx(stats.pearsonr(*columns).statistic)


def test_a_late_rung_is_judged_by_the_end() -> None:
    ends = [0.1, 0.4, 0.2, None]
    values = [0.0, 0.3, 0.1, 0.9]
    curves = [Curve({6: value}, 12, end) for value, end in zip(values, ends, strict=True)]
    check = check_rung(Rung(2, 2), curves, 2)
    assert check.trials == 3
    assert check.correlation is not None
    assert check.correlation > 0.99  # ranks agree; scores of three and of four differ a little


def test_trials_are_compared_by_their_best_epoch_so_far() -> None:
    """A trial leads at epoch 5 and falls back at the rung. Version 2 sees only the fall."""

    def epochs_of_the_second(version: int) -> int:
        pruner = DurableHalving(12, version)
        study = optuna.create_study(direction="maximize", pruner=pruner)
        run_trial(study, [0.5] * 12)
        for _ in range(2):
            run_trial(study, [0.1] * 12)
        return run_trial(study, [0.4, 0.4, 0.6, 0.4, 0.6, 0.4, *[0.4] * 6])[1]

    assert epochs_of_the_second(2) == 6
    assert epochs_of_the_second(4) == 12


def test_the_check_of_a_rung_compares_as_the_rung_does() -> None:
    """The later values 1, 2, 3 are in the order of the best values so far, and opposite to the
    order at the rung."""
    curves = [
        Curve({1: 0.1, 2: 0.09, 3: 0.3}, 12, None),
        Curve({1: 0.2, 2: 0.08, 3: 0.4}, 12, None),
        Curve({1: 0.3, 2: 0.07, 3: 0.5}, 12, None),
    ]
    correlations = [check_rung(Rung(6, 2), curves, version).correlation for version in (2, 4)]
    assert correlations == [pytest.approx(-1), pytest.approx(1)]


def test_one_trial_beside_the_default_passes_the_last_rung() -> None:
    """The better two of the first four trials continue after a quarter."""

    def completed(version: int) -> list[int]:
        pruner = DurableHalving(12, version)
        study = optuna.create_study(direction="maximize", pruner=pruner)
        for value in [0.9, 0.1, 0.2, 0.3, *[0.05] * 8]:
            run_trial(study, [value] * 12)
        return [trial.number for trial in study.trials if trial.state == TrialState.COMPLETE]

    assert completed(2) == [0]
    assert completed(4) == [0, 3]


@pytest.mark.parametrize("end", [TrialState.FAIL, TrialState.PRUNED, None])
def test_a_rival_that_is_lost_has_a_successor(end: TrialState | None) -> None:
    """PRUNED means that the rival diverged, None that it still runs. The default is behind until
    half its epochs."""
    study = optuna.create_study(direction="maximize", pruner=DurableHalving(12, 4))
    run_trial(study, [0.1] * 3 + [0.9] * 9)
    rival = study.ask()
    for epoch in range(1, 8):
        rival.report(0.3, epoch)
        assert not rival.should_prune()
    if end is not None:
        study.tell(rival, state=end)

    _, epochs = run_trial(study, [0.5] * 12)

    assert epochs == (6 if end is None else 12)


def test_a_rung_is_off_only_when_enough_trials_tell() -> None:
    rung = Rung(6, 2)
    assert RungCheck(rung, ENOUGH, -0.5, 1).is_off
    assert not RungCheck(rung, ENOUGH - 1, -0.5, 1).is_off
    assert not RungCheck(rung, ENOUGH, 0.3, 1).is_off  # within a standard error of .5
    assert RungCheck(rung, ENOUGH, 0.3, 0).is_off
    assert not RungCheck(rung, ENOUGH, 0.51, 0).is_off
    assert RungCheck(rung, 100, 0.35, 1).is_off
    assert not RungCheck(rung, 100, 0.5, 1).is_off
    assert not RungCheck(rung, 0, None, 0).is_off


def run_trial(study: optuna.Study, values: list[float]) -> tuple[Trial, int]:
    """Report values epoch by epoch. Return the trial and the number of epochs that it ran."""
    trial = study.ask()
    for epoch, value in enumerate(values, 1):
        trial.report(value, epoch)
        if trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return trial, epoch
    study.tell(trial, max(values))
    return trial, len(values)


def test_the_first_four_are_not_stopped_before_a_quarter() -> None:
    study = optuna.create_study(direction="maximize", pruner=DurableHalving(12, 2))
    epochs = [run_trial(study, [1 - number / 10] * 12)[1] for number in range(8)]
    assert epochs[0] == 12
    assert epochs[1:4] == [3, 3, 3]
    assert max(epochs[4:]) <= 2
    first_version = optuna.create_study(direction="maximize", pruner=DurableHalving(12, 1))
    epochs = [run_trial(first_version, [1 - number / 10] * 12)[1] for number in range(4)]
    assert epochs == [12, 2, 2, 2]


def test_a_rung_that_ranks_backwards_is_switched_off() -> None:
    """The lower the first epochs, the higher the end. Once that is known, no trial is stopped
    early."""
    storage = InMemoryStorage()
    study = optuna.create_study(
        direction="maximize", storage=storage, pruner=DurableHalving(12, 2), study_name="s"
    )
    rng = np.random.default_rng(0)
    stopped_early = []
    for _ in range(20):
        early = float(rng.random())
        _, epochs = run_trial(study, [early] * 2 + [1 - early] * 10)
        stopped_early.append(epochs <= 2)
    assert not any(stopped_early[ENOUGH:])
    checks = check_rungs(curves_of(study.trials, 12), 12, 2)
    assert [check.is_off for check in checks] == [True, True, False, False]
    assert "is off" in checks[0].line(12)

    again = optuna.load_study(study_name="s", storage=storage, pruner=DurableHalving(12, 2))
    for trial in study.trials:  # asked again, each trial gets its first answer
        cut = optuna.trial.create_trial(
            value=0.0, intermediate_values=trial.intermediate_values, system_attrs={}
        )
        cut.system_attrs.update(trial.system_attrs)
        was_stopped = trial.state == TrialState.PRUNED
        assert again.pruner.prune(again, cut) == was_stopped


def test_trials_of_different_length_are_compared_at_the_same_part() -> None:
    """If a space searches the number of epochs, epoch 3 of 36 corresponds to epoch 1 of 12."""
    study = optuna.create_study(direction="maximize", pruner=DurableHalving(12, 2))
    for _ in range(4):
        run_trial(study, [0.5] * 12)
    long = study.ask()
    long.suggest_int("train.epochs", 36, 36)
    for epoch in (1, 2):
        long.report(0.1, epoch)
        assert not long.should_prune()
    long.report(0.1, 3)
    assert long.should_prune()
