"""Tuning curves against the distribution that the trials are drawn from."""

import numpy as np
import pytest

from tune.reports.tuning_curve import tuning_curve


def test_the_median_is_that_of_the_best_of_n() -> None:
    rng = np.random.default_rng(0)
    curve = tuning_curve(rng.random(100_000).tolist(), 5)
    best = np.maximum.accumulate(rng.random((100_000, 5)), axis=1)
    assert curve.median == pytest.approx(np.median(best, axis=0), abs=0.01)


def test_the_band_covers_the_whole_curve_in_95_of_100_searches() -> None:
    rng = np.random.default_rng(1)
    truth = np.array([0.5 ** (1 / n) for n in range(1, 31)])
    covered = 0
    for values in rng.random((600, 16)):
        curve = tuning_curve(values.tolist(), 30)
        low, high = np.array(curve.low), np.array(curve.high)
        covered += bool(((low <= truth) & (truth <= high)).all())
    # at least: the curve meets the distribution at some points only
    assert covered / 600 >= 0.93


def test_few_draws_do_not_bound_the_best_of_many() -> None:
    curve = tuning_curve([0.2, 0.4, 0.6], 4)
    assert curve.high[-1] == 1.0
    assert curve.median[-1] == 0.6
    assert curve.low[0] == 0.0


@pytest.mark.parametrize("values", [[], [1.2], [float("nan")]])
def test_what_is_no_share_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="must be in"):
        tuning_curve(values, 3)
