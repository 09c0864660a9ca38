"""The simulation behind `make calibration`: its rules against SciPy and the product, its draws
against the records."""

import numpy as np
import pytest
from scipy import stats

from benchmarks import verdict_rules as rules
from benchmarks.recorded_seeds import TASKS, Searches, Side, draw_searches, load
from benchmarks.verdict_calibration import DEFAULT, Row, all_equal, decide, judge
from benchmarks.verdict_rules import QUESTIONS, SETTINGS, Scores
from benchmarks.verdict_simulation import OverlappingSets, World, tables
from trainables.outcomes import ImageOutcomes
from tune.reports.sampling_error import sampling_variance

RNG = np.random.default_rng(3)
NO_SAMPLING = np.zeros(20)


def scores(tables: int = 20, replicates: int = 5) -> Scores:
    """Tables whose settings have unequal variances."""
    return Scores(
        {
            name: RNG.normal(0.5, 0.01 * (1 + number), (tables, replicates))
            for number, name in enumerate(SETTINGS)
        },
        {},
    )


@pytest.fixture(scope="module", params=TASKS)
def side(request: pytest.FixtureRequest) -> Side:
    return load(request.param)


def test_p_values_are_those_of_scipy() -> None:
    first, second = RNG.normal(size=(2, 20, 6))
    paired = stats.ttest_rel(first, second, axis=1).pvalue
    welch = stats.ttest_ind(first, second, axis=1, equal_var=False).pvalue
    np.testing.assert_allclose(rules.paired(first, second, NO_SAMPLING).p, paired)
    np.testing.assert_allclose(rules.welch(first, second, NO_SAMPLING).p, welch)


def test_a_block_of_two_rows_is_the_paired_t_test() -> None:
    values = RNG.normal(size=(20, 2, 4))
    everything = np.ones((20, 2), dtype=bool), np.ones((20, 4), dtype=bool)
    row, other = np.zeros(20, dtype=int), np.ones(20, dtype=int)
    found = rules.block_design(values, *everything, row, other)
    expected = stats.ttest_rel(values[:, 0], values[:, 1], axis=1)
    np.testing.assert_allclose(found.p, expected.pvalue)


def test_tests_of_spread_are_those_of_scipy() -> None:
    values = RNG.normal(size=(5, 20, 6)) * np.arange(1, 6)[:, None, None]
    for table in range(20):
        groups = values[:, table]
        assert rules.bartlett(values)[table] == pytest.approx(stats.bartlett(*groups).pvalue)
        assert rules.brown_forsythe(values)[table] == pytest.approx(stats.levene(*groups).pvalue)


def test_sign_flips_are_the_exact_permutation_test() -> None:
    differences = RNG.normal(0.3, 1, (3, 6))
    for values, p in zip(differences, rules.flip_p(differences), strict=True):
        exact = stats.permutation_test(
            (values,), np.mean, permutation_type="samples", n_resamples=np.inf
        )
        assert p == pytest.approx(exact.pvalue)


def test_rules_agree_with_the_functions_that_pages_use() -> None:
    known = scores()
    known.replicates["A"][0, 2] = np.nan  # a missing replicate
    sampling = {question: np.full(20, 1e-4) for question in QUESTIONS}
    rules.agrees_with_product(known, 20)
    rules.agrees_with_product(Scores(known.replicates, sampling), 20)


def test_more_looks_keep_the_first_decision() -> None:
    looks = [np.array([0, 1, 0]), np.array([-1, -1, 0])]
    assert rules.first_decision(looks).tolist() == [-1, 1, 0]


def test_the_smoothed_seeds_have_the_moments_of_the_records(side: Side) -> None:
    many = side.smoothed(np.random.default_rng(0), 20_000)
    np.testing.assert_allclose(many.truth, side.truth, atol=1e-9)
    both = np.concatenate([side.peaks, side.test])
    smooth = np.concatenate([many.peaks, many.test])
    expected = np.cov(both)
    np.testing.assert_allclose(np.cov(smooth), expected, atol=0.05 * expected.max())


def test_one_seed_for_all_trials_is_shared_and_one_each_is_not(side: Side) -> None:
    rng = np.random.default_rng(0)
    shared = draw_searches(side, rng, (500,), 2, "one")
    own = draw_searches(side, rng, (500,), 2, "each")
    assert (shared.rows[:, 0] == side.default).all()

    def seeds(searches: Searches, trial: int) -> np.ndarray:
        row = searches.rows[:, trial, None]
        return side.peaks[row, np.arange(side.peaks.shape[1])] == searches.shown[:, [trial]]

    assert (seeds(shared, 0) & seeds(shared, 1)).any(1).all()
    assert not (seeds(own, 0) & seeds(own, 1)).any(1).all()


def test_test_images_drawn_anew_move_a_table_by_what_it_expects(side: Side) -> None:
    rng = np.random.default_rng(0)
    parts = {"A": side, "B": side.part("one", np.array([side.default]))}
    sides = {name: parts["A" if name in "CE" else "B"] for name in SETTINGS}
    plain = tables(World(sides), rng, 2000, DEFAULT)
    moved = tables(World(sides, images=True), rng, 2000, DEFAULT)
    question = ("C", "A")

    def variance(found: Scores) -> float:
        difference = found.replicates["C"] - found.replicates["A"]
        return float(difference.mean(1).var())

    added = variance(moved) - variance(plain)
    assert added > 0
    assert added == pytest.approx(moved.sampling[question].mean(), rel=0.6)


def test_overlapping_test_sets_move_a_table_by_what_the_product_expects() -> None:
    """By as much as the product estimates, and by what searches share of their images."""
    rng = np.random.default_rng(0)
    tables_, searches, images = 300, 3, 40
    sets = OverlappingSets.draw(rng, tables_, searches, images, 0.5)
    weights = sets.weights(images)
    assert weights.sum(2) == pytest.approx(1)
    right = rng.random(images) < 0.7
    scores = weights @ right
    differences = np.broadcast_to(right.astype(float), (tables_, searches, images))
    found = sets.shared_variance(differences)

    for table in range(20):
        outcomes = {}
        for search in range(searches):
            ids = np.flatnonzero(sets.members[table, search])
            correct = right[sets.pools[table, ids]].astype(float)
            assert correct.mean() == pytest.approx(scores[table, search])
            outcomes[search] = ImageOutcomes(
                test_set=f"{search}", right={"test/top1": correct}, pool="p", ids=ids
            )
        expected = sampling_variance("test/top1", outcomes)
        assert found[table] == pytest.approx(expected)

    # the variance of the mean is that of each search's own draw and of what they share
    own = scores.var(1, ddof=1).mean() / searches
    assert own + found.mean() == pytest.approx(scores.mean(1).var(), rel=0.25)


def test_a_rule_that_always_decides_is_seen_to_fail(side: Side) -> None:
    def always(known: Scores) -> np.ndarray:
        return np.ones((len(known.replicates["A"]), len(QUESTIONS)), dtype=int)

    found = decide(
        World(all_equal(side)), np.random.default_rng(0), 50, DEFAULT, {"* always": always}
    )
    counts = judge(found["* always"], np.zeros(len(QUESTIONS), dtype=int))
    row = Row("settings", side.name, "equal", "", "* always", 50, *counts)
    assert row.false == 50
    assert row.fails


def test_shares_are_counted() -> None:
    signs = np.array([[1, 0], [-1, 0], [0, 0], [1, 1]])
    assert judge(signs, np.array([0, 0])) == (3, 0, 1)
    assert judge(signs, np.array([1, 0])) == (2, 2, 1)
