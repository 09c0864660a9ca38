"""benchmarks/search_regret.py: the cost of a search, and its distance from the best."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.search_records import ratio
from benchmarks.search_regret import (
    Job,
    axes_of,
    default_point,
    params_at,
    read,
    record,
    regrets,
    together,
)
from benchmarks.search_tables import CURVES, REPORTED, Table, tables

TABLE = Table(
    name="made up",
    axes={"kind": ["poor", "fair", "good"]},
    curves={(0,): [0.0, 0.1], (1,): [0.2, 0.3], (2,): [0.1, 0.9]},
    default={"kind": "poor"},
)
"""Two epochs. The best value is .9, the median .3."""


class Listed:
    """A searcher that asks for these trainings, then repeatedly for the last of them."""

    def __init__(self, *wanted: tuple[str, range]):
        self._wanted = list(wanted)
        self.ended: list[tuple[list[float], bool]] = []

    def ask(self) -> Job:
        kind, epochs = self._wanted.pop(0) if len(self._wanted) > 1 else self._wanted[0]
        return Job(None, {"kind": kind}, epochs)

    def report(self, job: Job, epoch: int, value: float) -> bool:
        return value != 0.1

    def end(self, job: Job, stopped: bool) -> None:
        self.ended.append((job.seen, stopped))


def test_regret_is_in_units_of_the_best_above_the_median() -> None:
    # Four trainings of two epochs, two at a time: the second epoch of "good" is the ninth.
    fair = [("fair", range(2))] * 4
    found = regrets(Listed(*fair, ("good", range(1, 2))), TABLE)

    assert found == pytest.approx([(0.9 - 0.3) / 0.6, 0.0, 0.0])


def test_resumed_training_pays_for_the_further_epochs_alone() -> None:
    searcher = Listed(("good", range(1)), ("fair", range(1)), ("good", range(1, 2)))
    regrets(searcher, TABLE)

    assert searcher.ended[:3] == [([0.1], False), ([0.2], False), ([0.1, 0.9], False)]


def test_stopped_training_is_told_as_stopped() -> None:
    searcher = Listed(("good", range(2)), ("fair", range(2)))
    regrets(searcher, TABLE)

    assert searcher.ended[0] == ([0.1], True)
    assert searcher.ended[1] == ([0.2, 0.3], False)


@pytest.mark.parametrize("name", [*CURVES, *REPORTED])
def test_points_of_a_recorded_table_are_its_configurations(name: str) -> None:
    table = tables([name])[0]
    assert {"optim_name": "adam"}.items() <= table.default.items()
    assert params_at(table, default_point(table)) == pytest.approx(table.default)

    point: dict[str, Any] = {
        axis: 1.0 if choices is None else choices[-1] for axis, choices in axes_of(table).items()
    }
    last = tuple(len(table.values_of(axis, point)) - 1 for axis in table.axes)
    assert table.curve(params_at(table, point)) == table.curves[last]


def test_ratio_is_the_geometric_mean_over_tables() -> None:
    ours = [np.array([[0.1], [0.3]]), np.array([[0.5]])]
    theirs = [np.array([[0.4]]), np.array([[0.4], [0.6]])]

    assert ratio(ours, theirs) == pytest.approx([(0.5 * 1.0) ** 0.5])


def test_record_resumes_and_is_read_as_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {"with, comma": lambda table, seed: Listed(("good", range(seed, 2)))}
    monkeypatch.setattr("benchmarks.search_regret.CONTESTANTS", made)
    path = tmp_path / "record.csv"
    record(["with, comma"], [TABLE], 1, path)
    first = path.read_text()
    record(["with, comma"], [TABLE], 2, path)

    assert path.read_text().startswith(first)
    assert len(path.read_text().splitlines()) == 3
    assert [len(rows) for rows in together(read(path), "with, comma", ["made up"])] == [2]
