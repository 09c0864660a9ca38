"""Time and memory of predictions by an exported model, against simulated clocks, arrays of known
size and the weights of a trained network."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.one_trial import one_trial
from trainables import inference_cost
from trainables.backbone.networks import BackboneConfig
from trainables.base import TrainConfig
from trainables.classifier import ClassifierConfig
from trainables.data import DataConfig
from trainables.inference_cost import LATENCY, MEMORY, latency_ms, peak_bytes
from trainables.optim import OptimConfig
from tune.study.record import read_record

CPU = torch.device("cpu")
MILLION = 1_000_000


class Clock:
    """A clock that advances only during the calls that it times."""

    def __init__(self, durations: Iterator[float]):
        self.now = 0.0
        self.calls = 0
        self._durations = durations

    def perf_counter(self) -> float:
        return self.now

    def answer(self) -> None:
        self.calls += 1
        self.now += next(self._durations)


def timed(monkeypatch: pytest.MonkeyPatch, durations: Iterator[float]) -> tuple[float, int]:
    clock = Clock(durations)
    monkeypatch.setattr(inference_cost, "time", clock)
    return latency_ms(clock.answer), clock.calls


def test_latency_is_the_median_of_warm_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first calls do not count, nor does a call that another process delayed."""
    cold = [5.0, 4.0, 3.0]
    warm = [0.010, 0.012, 0.9, *[0.011] * 97]
    found, calls = timed(monkeypatch, iter([*cold, *warm]))
    assert found == pytest.approx(11.0)
    assert calls == 103


def test_a_slow_model_is_timed_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    found, calls = timed(monkeypatch, iter([9.0] * 20))
    assert found == pytest.approx(9000.0)
    assert calls == 3 + 5


def test_memory_is_the_most_that_is_held_at_one_time() -> None:
    def answer() -> None:
        first = torch.zeros(MILLION)  # 4 MB
        second = first + 1  # 8 MB are held
        del first, second
        third = torch.zeros(MILLION // 2)  # 2 MB
        del third

    peak_bytes(answer, CPU)
    assert peak_bytes(answer, CPU) == pytest.approx(8 * MILLION, rel=1e-3)


def test_a_study_that_searches_by_them_has_both_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISTUNE_CACHE", str(tmp_path / "cache"))
    config = ClassifierConfig(
        data=DataConfig(name="digits", image_size=8),
        backbone=BackboneConfig(width=8),
        train=TrainConfig(epochs=1, epoch_images=64, batch_size=32),
        optim=OptimConfig(name="adam", lr=3e-3),
    )
    objectives = ["val/top1", f"-{LATENCY}", f"-{MEMORY}"]
    folder = one_trial(tmp_path, "small", "pretrain", config, objectives=objectives)

    run = read_record(folder).trials[0]
    assert run.state == "COMPLETE", run.outcome
    assert 0 < run.metrics[LATENCY] < 1000
    weights = 4 * run.metrics["model/parameters"] / 1e6
    image = 3 * 8 * 8 * 4 / 1e6
    assert weights + image < run.metrics[MEMORY] < weights + 1
    assert run.metrics[f"best/{MEMORY}"] == run.metrics[MEMORY]
