"""Intervals against SciPy's tests, a least-squares fit, and their own promise in simulation."""

import numpy as np
import pytest
from scipy import stats

from tune.reports.statistics import difference, holm, mean_of


@pytest.fixture
def scores() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (
        rng.normal(0.5, 0.02, (4, 3))
        + rng.normal(0, 0.05, 3)
        + np.array([0.0, 0.02, 0.05, 0.01])[:, None]
    )


def test_two_rows_are_the_paired_t_test(scores):
    found = difference(scores[:2], 1, 0)
    expected = stats.ttest_rel(scores[1], scores[0])
    interval = expected.confidence_interval(0.95)
    assert [found.mean, found.low, found.high, found.p] == pytest.approx(
        [(scores[1] - scores[0]).mean(), interval.low, interval.high, expected.pvalue]
    )


def test_one_row_is_the_t_interval(scores):
    found = mean_of(scores[:1], 0)
    assert (found.low, found.high) == pytest.approx(
        stats.t.interval(0.95, 2, scores[0].mean(), stats.sem(scores[0]))
    )


def test_more_rows_are_the_two_way_model(scores):
    """The contrast of a least-squares fit with a column for every configuration and every seed but
    one."""
    rows, seeds = scores.shape
    design = np.zeros((rows * seeds, rows + seeds - 1))
    for i in range(rows):
        for j in range(seeds):
            design[i * seeds + j, i] = 1
            if j:
                design[i * seeds + j, rows + j - 1] = 1
    beta, residual, rank, _ = np.linalg.lstsq(design, scores.ravel(), rcond=None)
    freedom = scores.size - rank
    contrast = np.zeros(design.shape[1])
    contrast[2], contrast[0] = 1, -1
    error = np.sqrt(residual[0] / freedom * contrast @ np.linalg.inv(design.T @ design) @ contrast)
    found = difference(scores, 2, 0)
    assert found.mean == pytest.approx(contrast @ beta)
    assert (found.high - found.low) / 2 == pytest.approx(stats.t.ppf(0.975, freedom) * error)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(contrast @ beta) / error, freedom))


@pytest.mark.parametrize("rows", [2, 6])
def test_intervals_hold_what_they_promise(rows):
    """Of 4,000 simulated comparisons 95 % contain the truth: within four standard errors of
    that."""
    rng, runs, truth = np.random.default_rng(rows), 4000, 0.03
    hits = 0
    for _ in range(runs):
        scores = rng.normal(0, 0.02, (rows, 3)) + rng.normal(0, 0.05, 3)
        scores[1] += truth
        found = difference(scores, 1, 0)
        hits += found.low <= truth <= found.high
    assert abs(hits / runs - 0.95) < 4 * np.sqrt(0.95 * 0.05 / runs)


def test_more_rows_are_narrower_on_average():
    rng = np.random.default_rng(0)
    widths = {
        rows: np.mean(
            [(d := difference(rng.normal(size=(rows, 3)), 1, 0)).high - d.low for _ in range(500)]
        )
        for rows in (2, 6)
    }
    assert widths[6] < 0.75 * widths[2]


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == pytest.approx([1.0, 1.0])


def test_one_seed_says_nothing():
    with pytest.raises(ValueError, match="seeds >= 2"):
        mean_of(np.ones((3, 1)), 0)
    with pytest.raises(ValueError, match="row != other"):
        difference(np.ones((3, 3)), 1, 1)


@pytest.mark.parametrize("seeds", [2, 3])
def test_no_spread_at_all_decides_nothing(seeds: int) -> None:
    scores = np.array([[0.7, 0.8, 0.9], [0.75, 0.85, 0.95]])[:, :seeds]
    found = difference(scores, 1, 0)
    assert (found.mean, found.low, found.high, found.p) == (pytest.approx(0.05), -np.inf, np.inf, 1)
    assert not found.decided
    same = difference(scores[[0, 0]], 1, 0)
    assert (same.mean, same.low, same.high) == (0, 0, 0)


def test_an_interval_of_a_share_ends_at_0_and_1():
    """In simulation it covers as often: what is cut off was never the truth."""
    rng, truth, hits = np.random.default_rng(0), 0.97, [0, 0]
    for _ in range(2000):
        found = mean_of(rng.normal(truth, 0.02, (1, 3)), 0)
        cut = found.clipped_to_unit()
        assert 0 <= cut.low <= cut.high <= 1
        hits[0] += found.low <= truth <= found.high
        hits[1] += cut.low <= truth <= cut.high
    assert hits[0] == hits[1] > 1850
