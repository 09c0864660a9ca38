"""The power and the split that `--plan` prints, against the records and a simulation."""

import json

import numpy as np
import pytest
from scipy import stats

from search_spaces.classify import A_TO_E
from tests import REPO
from tune.cli.plan import expectation
from tune.reports.search_power import (
    DIFFERENCE,
    RECORDED,
    SEED_SD,
    Spread,
    power,
    splitting_loss,
)


def recorded(trials: int, what: str) -> float:
    """Mean over the tasks of a record."""
    values = []
    for path in sorted((REPO / "docs/results").glob("search_luck_*.json")):
        rows = json.loads(path.read_text())["budgets"]
        values += [row[what] for row in rows if row["trials"] == trials]
    assert len(values) == 2
    return float(np.mean(values))


@pytest.mark.parametrize("spread", RECORDED, ids=lambda spread: str(spread.trials))
def test_spreads_are_those_of_the_records(spread: Spread) -> None:
    assert spread.choice == pytest.approx(recorded(spread.trials, "true_test"), abs=6e-5)
    assert spread.sd == pytest.approx(recorded(spread.trials, "sd_between_searches"), abs=6e-5)


@pytest.mark.parametrize(("searches", "trials", "finals"), [(5, 4, 1), (5, 12, 3), (8, 8, 1)])
def test_power_is_that_of_simulated_t_tests(searches: int, trials: int, finals: int) -> None:
    [spread] = [one for one in RECORDED if one.trials == trials]
    sd = np.hypot(spread.sd, SEED_SD / np.sqrt(finals)) * np.sqrt(2)
    drawn = np.random.default_rng(0).normal(DIFFERENCE, sd, (20_000, searches))
    found = stats.ttest_1samp(drawn, 0, axis=1)
    simulated = np.mean((found.pvalue < 0.04 / 4) & (found.statistic > 0))
    assert power(searches, trials, finals, questions=4) == pytest.approx(simulated, abs=0.01)


def test_power_grows_with_searches_and_their_length() -> None:
    assert power(5, 4, 1, 4) < power(5, 12, 3, 4) < power(8, 12, 3, 4)
    assert power(5, 12, 3, 1) > power(5, 12, 3, 4)


def test_one_search_of_all_trials_chooses_better() -> None:
    assert splitting_loss(1, 12) == 0
    assert splitting_loss(5, 4) > splitting_loss(5, 12) > 0


def test_plan_says_what_to_expect() -> None:
    said = expectation(5, 12, 3, A_TO_E.without(A_TO_E.controls))
    assert f"{power(5, 12, 3, 4):.0%} of such comparisons find a difference" in said
    assert "(4 questions, " in said
    assert f"one search of 60 trials would choose better by {splitting_loss(5, 12):.3f}" in said
    assert "says nothing about the settings" in expectation(1, 12, 3, A_TO_E)
