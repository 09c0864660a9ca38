"""Intervals against SciPy's tests, and their coverage in simulation."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from tune.reports.statistics import Interval, holm, mean_of, paired, significance, welch


@pytest.fixture
def sides() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    seeds = rng.normal(0, 0.05, 6)
    return rng.normal(0.52, 0.02, 6) + seeds, rng.normal(0.5, 0.04, 6) + seeds


def test_pairs_are_the_paired_t_test(sides: tuple[np.ndarray, np.ndarray]) -> None:
    found = paired(*sides)
    expected = stats.ttest_rel(*sides)
    interval = expected.confidence_interval(0.95)
    mean = float((sides[0] - sides[1]).mean())
    assert [found.mean, found.low, found.high, found.p] == pytest.approx(
        [mean, interval.low, interval.high, expected.pvalue]
    )


def test_unpaired_sides_are_welchs_test(sides: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = sides[0], sides[1][:4]
    found = welch(first, second)
    expected = stats.ttest_ind(first, second, equal_var=False)
    interval = expected.confidence_interval(0.95)
    mean = float(first.mean() - second.mean())
    assert [found.mean, found.low, found.high, found.p] == pytest.approx(
        [mean, interval.low, interval.high, expected.pvalue]
    )


def test_one_side_is_the_t_interval(sides: tuple[np.ndarray, np.ndarray]) -> None:
    values = sides[0]
    found = mean_of(values)
    expected = stats.t.interval(0.95, 5, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)


def test_the_error_of_the_test_sample_adds_to_that_of_the_seeds() -> None:
    """For a share p of n images alone, it is the normal interval of a proportion."""
    p, images = 0.9, 402
    found = mean_of([p, p, p], sampling_variance=p * (1 - p) / images)
    half = stats.norm.ppf(0.975) * math.sqrt(p * (1 - p) / images)
    assert (found.low, found.high) == pytest.approx((p - half, p + half))
    assert half == pytest.approx(0.0293, abs=1e-4)

    values = [0.88, 0.9, 0.92]
    without = mean_of(values)
    both = mean_of(values, sampling_variance=1e-4)
    squares = (without.high - without.mean) ** 2 + (stats.norm.ppf(0.975) * 0.01) ** 2
    assert both.high - both.mean == pytest.approx(math.sqrt(squares))


def test_p_with_both_errors_is_the_level_at_which_the_interval_ends_at_0() -> None:
    first, second, images = [0.88, 0.9, 0.92], [0.80, 0.85, 0.83], 4e-4
    found = paired(first, second, images)
    difference = np.subtract(first, second)
    t = stats.t.ppf(1 - found.p / 2, 2) * stats.sem(difference)
    z = stats.norm.ppf(1 - found.p / 2) * math.sqrt(images)
    assert math.hypot(t, z) == pytest.approx(difference.mean(), rel=1e-6)
    assert found.p > paired(first, second).p
    assert paired(first, second, 1e-12).p == pytest.approx(paired(first, second).p, rel=1e-6)
    assert mean_of([0.9, 0.9, 0.9], 1e-8).p <= 1e-15
    assert paired(first, first, 1e-4).p == pytest.approx(1)


@pytest.mark.parametrize("noise", [(0.02, 0.02), (0.005, 0.05)])
@pytest.mark.parametrize("method", [paired, welch])
def test_intervals_hold_what_they_promise(
    method: Callable[..., Interval], noise: tuple[float, float]
) -> None:
    """In 95 % of 4,000 simulated comparisons, up to four standard errors, they hold the truth,
    even if one side is ten times as noisy."""
    rng = np.random.default_rng(1)
    runs, truth, hits = 4000, 0.03, 0
    for _ in range(runs):
        first = rng.normal(truth, noise[0], 6)
        second = rng.normal(0, noise[1], 6)
        found = method(first, second)
        hits += found.low <= truth <= found.high
    assert abs(hits / runs - 0.95) < 4 * np.sqrt(0.95 * 0.05 / runs)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == pytest.approx([1.0, 1.0])


def test_holm_counts_questions_without_an_answer() -> None:
    missing = holm([0.01, 0.02], declared=5)
    assert missing == pytest.approx([0.05, 0.08])
    assert missing == pytest.approx(holm([0.01, 0.02, 1.0, 1.0, 1.0])[:2])


def test_looks_spend_less_than_five_percent_together() -> None:
    levels = [significance(look) for look in range(1, 60)]
    assert levels[0] == 0.04
    assert levels[1] == pytest.approx(0.002)
    assert sorted(levels, reverse=True) == levels
    assert sum(levels) == pytest.approx(0.044)


@pytest.mark.parametrize("values", [[0.5], [], [[0.5, 0.6]]])
def test_one_value_says_nothing(values: list[float]) -> None:
    with pytest.raises(ValueError, match="n >= 2"):
        mean_of(values)
    with pytest.raises(ValueError, match="n >= 2"):
        paired(values, values)


def test_nan_is_no_value() -> None:
    with pytest.raises(ValueError, match="finite"):
        paired([0.5, math.nan], [0.5, 0.6])
    with pytest.raises(ValueError, match="two sides"):
        paired([0.5, 0.6], [0.5, 0.6, 0.7])


@pytest.mark.parametrize("seeds", [2, 3])
def test_no_spread_at_all_decides_nothing(seeds: int) -> None:
    first, second = [0.75, 0.85, 0.95][:seeds], [0.7, 0.8, 0.9][:seeds]
    found = paired(first, second)
    assert (found.mean, found.low, found.high, found.p) == (pytest.approx(0.05), -np.inf, np.inf, 1)
    assert not found.decided
    same = mean_of([0.7] * seeds).clipped_to_unit()
    assert (same.mean, same.low, same.high) == (pytest.approx(0.7), 0, 1)


def test_an_interval_of_a_share_ends_at_0_and_1() -> None:
    """In simulation it covers as often, because the truth never lies in what is cut off."""
    rng, truth, hits = np.random.default_rng(0), 0.97, [0, 0]
    for _ in range(2000):
        found = mean_of(rng.normal(truth, 0.02, 3))
        cut = found.clipped_to_unit()
        assert 0 <= cut.low <= cut.high <= 1
        hits[0] += found.low <= truth <= found.high
        hits[1] += cut.low <= truth <= cut.high
    assert hits[0] == hits[1] > 1850
