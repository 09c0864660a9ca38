"""The pace of a run's first epoch, with known clocks and in a real run."""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.toy import Toy, ToyConfig
from trainables import pace
from trainables.base import Metrics, TrainConfig
from trainables.engine.fit import fit
from trainables.pace import PACE, Pace, PaceFile, read_pace
from tune.execution.runtimes import LocalRuntime


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a clock that advances only when the list's only item is changed."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_steps_give_the_time_of_an_epoch(tmp_path: Path, clock: list[float]) -> None:
    file = PaceFile(tmp_path, epoch_steps=50, judged=6.0)
    clock[0] += 30  # the first step includes setup
    file.look(1)
    for step in (2, 3, 4):
        clock[0] += 0.5
        file.look(step)
        assert (read_pace(tmp_path) is None) == (step < 3)  # at least a second is timed first

    found = read_pace(tmp_path)
    assert found == Pace(steps=3, step_s=0.5, epoch_steps=50, validation_s=0.5 * 6 / 3)
    assert found.epoch_s == 50 * 0.5 + 1.0


def test_a_slower_epoch_is_told_again(tmp_path: Path, clock: list[float]) -> None:
    file = PaceFile(tmp_path, epoch_steps=1000, judged=0.0)
    file.look(0)
    told = []
    for step in range(10, 200, 10):
        clock[0] += 5 if step <= 40 else 20
        file.look(step)
        found = read_pace(tmp_path)
        assert found is not None
        if found.steps not in [steps for steps, _ in told]:
            told.append((found.steps, found.step_s))
    steady = [(10, 0.5), (20, 0.5), (40, 0.5)]
    assert told == [*steady, (50, 40 / 50), (70, 80 / 70), (110, 160 / 110), (190, 320 / 190)]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"steps": 1}'])
def test_what_is_no_pace_says_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / PACE).write_text(content)
    assert read_pace(tmp_path) is None


def test_a_run_tells_its_pace_during_its_first_epoch_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "_FIRST_S", 0.0)
    seen: dict[int, Pace | None] = {}

    class Watched(Toy):
        def before_step(self, step: int, total_steps: int) -> None:
            super().before_step(step, total_steps)
            seen[step] = read_pace(tmp_path)

    def report(epoch: int, metrics: Metrics) -> bool:
        assert not (tmp_path / PACE).exists()
        return True

    config = ToyConfig(train=TrainConfig(epochs=2, batch_size=20))
    data: Any = Toy.load_data(config.data)
    (tmp_path / PACE).write_text('{"steps": 9}')  # left by a killed attempt
    fit(Watched(config, data), config, LocalRuntime(tmp_path, report))

    steps = len(data.train) // 20
    assert seen[0] is None
    first = seen[steps - 1]
    assert first is not None
    assert first.epoch_steps == steps
    assert 1 < first.steps < steps
    assert seen[steps] is None
    assert seen[2 * steps - 1] is None
