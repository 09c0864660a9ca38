"""The estimate of `--plan`, against studies counted trial by trial."""

from typing import Any

import pytest

from tests.commands import Call
from trainables.errors import TrialFailed
from tune.cli import plan
from tune.cli.plan import expected_epochs, total_epochs
from tune.search.rungs import rungs


def counted(trials: int, all_rungs: dict[int, int], epochs: int) -> int:
    """Epochs of this many trials when each rung passes exactly its share."""
    total, before = 0, 0
    for rung, factor in [*all_rungs.items(), (epochs, 1)]:
        total += trials * (rung - before)
        trials //= factor
        before = rung
    return total


@pytest.mark.parametrize("epochs", [12, 30, 100])
def test_expected_epochs_are_those_of_a_study_that_is_counted(epochs: int) -> None:
    assert rungs(epochs)
    assert 0 < expected_epochs(rungs(epochs), epochs) < epochs
    expected = counted(192, rungs(epochs), epochs)
    assert 192 * expected_epochs(rungs(epochs), epochs) == pytest.approx(expected)


def test_without_rungs_every_trial_runs_to_the_end() -> None:
    assert expected_epochs({}, 7) == 7


def test_first_trial_and_repeats_are_not_pruned() -> None:
    all_rungs = rungs(12, 1)
    assert all_rungs == {2: 4, 6: 2}
    assert total_epochs(1, 0, 12, 1) == 12
    assert total_epochs(1, 4, 12, 1) == 5 * 12
    assert total_epochs(9, 4, 12, 1) == 5 * 12 + counted(8, all_rungs, 12)


def test_the_first_four_trials_are_not_stopped_before_a_quarter() -> None:
    late = {3: 2, 6: 2}
    assert rungs(12, 2) == {1: 3, 2: 2} | late
    assert total_epochs(4, 0, 12, 2) == 12 + 3 * expected_epochs(late, 12)
    assert total_epochs(28, 0, 12, 2) == pytest.approx(
        12 + 3 * (3 + 3 / 2 + 6 / 4) + counted(24, rungs(12, 2), 12)
    )


def test_a_step_that_fails_costs_the_estimate_alone(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: Any) -> Any:
        raise TrialFailed("oom", "out of memory on cuda even at micro-batch 1")

    monkeypatch.setattr(plan, "profile", fails)
    planned = call("toy", "--plan")
    assert planned.code == 0, planned.err
    said = " ".join(planned.out.split())
    assert "no estimate: the first steps of trial 0 fail: out of memory on cuda" in said
    assert "space, as --space reads it" in said
