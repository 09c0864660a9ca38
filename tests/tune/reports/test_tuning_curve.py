"""Tuning curves against the distribution that the trials are drawn from."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tune.reports.tuning_curve import NARROW_UP_TO, tuning_curve
from tune.reports.tuning_figure import NOTE, results, tuning_figure, tuning_section
from tune.study.log_state import Run


def test_the_median_is_that_of_the_best_of_n() -> None:
    rng = np.random.default_rng(0)
    curve = tuning_curve(rng.random(100_000).tolist(), 5)
    best = np.maximum.accumulate(rng.random((100_000, 5)), axis=1)
    assert curve.median == pytest.approx(np.median(best, axis=0), abs=0.01)


@pytest.mark.heavy
def test_the_band_covers_the_whole_curve_in_95_of_100_searches() -> None:
    rng = np.random.default_rng(1)
    truth = np.array([0.5 ** (1 / n) for n in range(1, 31)])
    covered = 0
    for values in rng.random((600, 16)):
        curve = tuning_curve(values.tolist(), 30)
        low, high = np.array(curve.low), np.array(curve.high)
        covered += bool(((low <= truth) & (truth <= high)).all())
    # coverage may exceed 95 %, because the curve meets the distribution at a few points only
    assert covered / 600 >= 0.93


def kolmogorov_smirnov(draws: int, trials: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ranks of the band's bounds among the draws."""
    levels = 0.5 ** (1 / np.arange(1, trials + 1))
    distance = stats.kstwo.ppf(0.95, draws)
    low, high = (np.ceil((levels + sign * distance) * draws) for sign in (-1, 1))
    return low.clip(0).astype(int), high.clip(max=draws + 1).astype(int)


def test_the_band_is_narrower_than_that_of_kolmogorov_and_smirnov() -> None:
    values = np.sort(np.random.default_rng(2).random(60))
    curve = tuning_curve(values.tolist(), 60)
    ends = np.concatenate([[0.0], values, [1.0]])
    low, high = (ends[ranks] for ranks in kolmogorov_smirnov(60, 60))
    width = np.array(curve.high) - np.array(curve.low)
    assert width.mean() < 0.75 * (high - low).mean()
    assert (np.array(curve.low)[9:] > low[9:]).all()
    # the best of more trials is bounded
    assert (np.array(curve.high) < 1).sum() > (high < 1).sum()


def test_the_band_of_many_draws_is_that_of_kolmogorov_and_smirnov() -> None:
    draws = NARROW_UP_TO + 50
    values = np.sort(np.random.default_rng(3).random(draws))
    curve = tuning_curve(values.tolist(), draws)
    ends = np.concatenate([[0.0], values, [1.0]])
    low, high = (ends[ranks] for ranks in kolmogorov_smirnov(draws, draws))
    np.testing.assert_array_equal(curve.low, low)
    np.testing.assert_array_equal(curve.high, high)


def test_equal_results_are_no_error() -> None:
    """Results of a small test set are equal now and then."""
    curve = tuning_curve([0.5] * 8 + [0.75] * 8, 4)
    assert curve.median == [0.5, 0.75, 0.75, 0.75]
    assert curve.low[0] == 0.5
    again = tuning_curve([0.5] * 8 + [0.75] * 8, 4)
    assert again == curve


def test_few_draws_do_not_bound_the_best_of_many() -> None:
    curve = tuning_curve([0.2, 0.4, 0.6], 4)
    assert curve.high[-1] == 1.0
    assert curve.median[-1] == 0.6
    assert curve.low[0] == 0.0


@pytest.mark.parametrize("values", [[], [1.2], [float("nan")]])
def test_what_is_no_share_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="must be in"):
        tuning_curve(values, 3)


def search(*reached: float, stopped: int = 0, sampler: str | int = 2) -> Any:
    """A record whose trial 0 is the default. The first `stopped` of the others were stopped
    early."""
    trials = {0: Run(state="COMPLETE", history=[{"val/top1": 0.99}])}
    for number, value in enumerate(reached, start=1):
        history = [{"val/top1": value}, {"val/top1": value / 2}]
        state = "PRUNED" if number <= stopped else "COMPLETE"
        trials[number] = Run(state=state, history=history)
    trials[len(trials)] = Run(state="FAIL", history=[{"val/top1": 0.98}])
    manifest = SimpleNamespace(rules={"sampler": sampler})
    return SimpleNamespace(objective="val/top1", trials=trials, manifest=manifest)


def test_results_are_the_best_epochs_of_drawn_trials() -> None:
    assert results(search(0.2, 0.6, 0.4, stopped=1)) == [0.2, 0.6, 0.4]


def test_figure_has_a_band_and_a_line_for_every_setting_with_enough_trials() -> None:
    searches = {"A": [search(0.2, 0.3, 0.4), search(0.5, 0.6)], "B": [search(0.2)]}
    figure = tuning_figure(searches)
    assert figure is not None
    area, line = figure.data
    assert line.name == "A"
    assert list(line.x) == [1, 2, 3, 4, 5]
    expected = tuning_curve([0.2, 0.3, 0.4, 0.5, 0.6], 5)
    assert list(line.y) == expected.median
    assert list(area.y) == expected.high + expected.low[::-1]
    assert NOTE.split(".")[0] in tuning_section(searches)


def test_twelve_settings_have_colours_of_their_own_and_fainter_bands() -> None:
    trials = [search(0.2, 0.3, 0.4, 0.5)]
    figure = tuning_figure({f"setting {number}": trials for number in range(12)})
    alone = tuning_figure({"A": trials})
    assert figure is not None
    assert alone is not None
    assert len({line.line.color for line in figure.data[1::2]}) == 12
    assert figure.data[0].opacity < alone.data[0].opacity / 3


@pytest.mark.parametrize(
    ("sampler", "stopped", "said"),
    [
        (2, 0, "independent draws, while the sampler spreads its first trials and then learns"),
        ("sobol", 1, "learns from them and whether a trial is stopped depends on the others."),
        ("random", 1, "independent draws, while whether a trial is stopped depends"),
        ("random", 0, "are exact, because these draws are independent."),
    ],
)
def test_the_note_says_whether_draws_are_independent(
    sampler: str | int, stopped: int, said: str
) -> None:
    searches = {"A": [search(0.2, 0.3, 0.4, 0.5, sampler=sampler, stopped=stopped)]}
    assert said in tuning_section(searches)


def test_no_figure_without_trials_or_for_a_metric_that_is_no_share() -> None:
    assert tuning_figure({"A": [search(0.2)]}) is None
    assert tuning_figure({"A": [search(1.0, 8.0, 9.0, 12.0)]}) is None
    assert tuning_section({"A": []}) == ""
