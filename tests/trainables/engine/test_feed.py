"""Batches that are sent early equal batches that are not, bit for bit."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.toy import ToyConfig
from tests.trainables.engine.test_fit import Recorder, equal_states, train
from trainables.base import Batch, TrainConfig
from trainables.engine import step as engine_step
from trainables.engine.feed import DirectLane, Feed, lane_to


class EarlyLane(DirectLane):
    """A lane that keeps what it sends out of reach until it is received, like a separate CUDA
    stream: the batch must not be read before."""

    is_early = True

    def __init__(self, memory: int = 2, error: Exception | None = None):
        super().__init__(torch.device("cpu"))
        self.under_way: list[Batch] = []
        self.memory = memory
        self.error = error or torch.OutOfMemoryError("CUDA out of memory")

    def send(self, batch: Batch) -> Batch:
        if len(self.under_way) == self.memory:
            raise self.error
        self.under_way.append(batch)
        return Batch(batch.images.new_full((1,), -1), (), None)

    def receive(self, batch: Batch) -> Batch:
        assert torch.equal(batch.images, batch.images.new_full((1,), -1))
        return self.under_way.pop()


def drawn(steps: list[int]) -> Feed:
    """Return a feed that records which steps it draws. The images of a batch contain its step."""

    def draw(step: int) -> Batch:
        steps.append(step)
        return Batch(torch.full((4,), step), ())

    return Feed(draw, EarlyLane())


def test_a_batch_is_drawn_once_and_early() -> None:
    steps: list[int] = []
    feed = drawn(steps)
    assert int(feed.batch(0).images[0]) == 0
    feed.send_early(1)
    assert steps == [0, 1]
    assert int(feed.batch(1).images[0]) == 1
    assert steps == [0, 1]


def test_an_early_batch_of_another_step_is_not_taken() -> None:
    steps: list[int] = []
    feed = drawn(steps)
    feed.send_early(5)
    assert int(feed.batch(2).images[0]) == 2
    assert int(feed.batch(5).images[0]) == 5
    assert steps == [5, 2, 5]


def test_nothing_is_early_where_nothing_overlaps() -> None:
    steps: list[int] = []
    feed = Feed(drawn(steps)._draw, DirectLane(torch.device("cpu")))
    feed.send_early(1)
    assert steps == []


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        torch.AcceleratorError("CUDA error: out of memory"),  # pinned memory
    ],
)
def test_without_memory_for_it_a_batch_is_not_early(error: Exception) -> None:
    steps: list[int] = []
    feed = drawn(steps)
    feed._lane = EarlyLane(memory=0, error=error)
    feed.send_early(1)
    feed._lane = EarlyLane()
    assert int(feed.batch(1).images[0]) == 1


def test_another_error_of_an_early_batch_is_not_swallowed() -> None:
    feed = drawn([])
    feed._lane = EarlyLane(memory=0, error=RuntimeError("no such kernel"))
    with pytest.raises(RuntimeError, match="no such kernel"):
        feed.send_early(1)


@pytest.mark.parametrize("die_after", [None, 2])
def test_training_on_early_batches_equals_training_on_late_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, die_after: int | None
) -> None:
    """Also after a kill and resume, which draw the early batch again."""
    config = ToyConfig(train=TrainConfig(epochs=4, batch_size=20))
    runs = []
    for name in ("late", "early"):
        (tmp_path / name).mkdir()
        runtime = Recorder(tmp_path / name)
        if name == "early":
            monkeypatch.setattr(engine_step, "lane_to", lambda device: EarlyLane())
            runtime.die_after = die_after
            if die_after is not None:
                with pytest.raises(KeyboardInterrupt):
                    train(config, runtime)
        _, toy = train(config, runtime)
        runs.append((runtime.reports, toy))
    (late, expected), (early, got) = runs
    assert early == late
    assert equal_states(got, expected)


def test_the_last_step_of_a_run_draws_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes: list[EarlyLane] = []

    def lane_to(device: torch.device) -> EarlyLane:
        lanes.append(EarlyLane())
        return lanes[-1]

    monkeypatch.setattr(engine_step, "lane_to", lane_to)
    train(ToyConfig(train=TrainConfig(epochs=1, batch_size=20)), Recorder(tmp_path))
    assert [len(lane.under_way) for lane in lanes] == [0]
    assert np.isfinite(lanes[0].memory)


class OnCard(torch.Tensor):
    """A tensor that claims to be on a GPU and records for which stream it is kept."""

    is_cuda = True

    def record_stream(self, stream: object) -> None:
        EVENTS.append(f"kept for {stream}")


EVENTS: list[str] = []


def test_a_stream_of_its_own_is_waited_for_by_the_one_that_computes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the order of calls is tested; their effect needs a GPU."""

    class Stream(str):
        def wait_stream(self, other: object) -> None:
            EVENTS.append(f"{self} waits for {other}")

    @contextlib.contextmanager
    def on(stream: object) -> Iterator[None]:
        EVENTS.append(f"on {stream}")
        yield
        EVENTS.append("back")

    def moved(batch: Batch, device: torch.device) -> Batch:
        EVENTS.append(f"to {device}")
        return Batch(batch.images.as_subclass(OnCard), batch.draws)

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("side"))
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("main"))
    monkeypatch.setattr(Batch, "to", moved)
    EVENTS.clear()
    lane = lane_to(torch.device("cuda"))
    sent = lane.send(Batch(torch.arange(3), (torch.arange(3),)))
    assert EVENTS == ["on side", "to cuda", "back"]
    lane.receive(sent)
    assert EVENTS[3:] == ["main waits for side", "kept for main"]
