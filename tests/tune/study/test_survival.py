"""Expected lengths of trials, against sums worked out by hand."""

import pytest

from tune.study.survival import survival


def test_the_default_runs_to_its_end() -> None:
    assert survival(trials=4, epochs=27, version="halving").expected(0) == 27


def test_the_second_trial_of_a_halving_by_three() -> None:
    """At each of the rungs 1, 3 and 9, one of the trials that have reached it continues."""
    first = 1 / 2  # the default has reached it too
    second = 1 / (1 + first)
    third = 1 / (1 + first * second)
    length = 1 + first * (3 - 1 + second * (9 - 3 + third * (27 - 9)))

    found = survival(trials=4, epochs=27, version="halving")

    assert found.expected(1) == pytest.approx(length)
    assert found.expected(1, after=9) == 27
    assert found.expected(1, after=3) == pytest.approx(9 + third * (27 - 9))
    # one trial has run to its end, two are as expected
    assert found.longer({0: 27, 1: 27}) == pytest.approx((27 + 2 * length) / (3 * length))


def test_more_trials_than_were_planned_are_as_the_last_of_them() -> None:
    found = survival(trials=4, epochs=27, version="halving")
    assert found.expected(9) == found.expected(3)


def test_the_first_trial_beside_the_default_is_expected_to_pass_the_last_rung() -> None:
    """The only rung is at epoch 1 of 2, and one of the two trials that reach it continues."""
    found = survival(trials=4, epochs=2, version=4)
    assert found.expected(1) == 2
    assert survival(trials=4, epochs=2, version=2).expected(1) == 1 + 1 / 2
