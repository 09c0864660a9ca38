"""The estimate of `--plan`, against studies that are counted trial by trial."""

import pytest

from tune.cli.plan import expected_epochs, total_epochs
from tune.search.rungs import rungs


def counted(trials: int, all_rungs: dict[int, int], epochs: int) -> int:
    """Epochs of so many trials, of which each rung lets exactly its share through."""
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
    assert 64 * expected_epochs(rungs(epochs), epochs) == counted(64, rungs(epochs), epochs)


def test_without_rungs_every_trial_runs_to_the_end() -> None:
    assert expected_epochs({}, 7) == 7


def test_first_trial_and_repeats_are_not_pruned() -> None:
    assert rungs(12) == {2: 4, 6: 2}
    assert total_epochs(trials=1, repeats=0, epochs=12) == 12
    assert total_epochs(trials=1, repeats=4, epochs=12) == 5 * 12
    assert total_epochs(trials=9, repeats=4, epochs=12) == 5 * 12 + counted(8, rungs(12), 12)
