"""MLflow and the other destinations get a study's events soon after its start, however long an
epoch takes."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tune.cli import replays
from tune.cli.replays import Replays


class Place:
    """Stand in for a replay."""

    destination = SimpleNamespace(title="MLflow", where=lambda _: "http://nowhere")
    study_dir = Path("study")

    def __init__(self, problem: str | None = None):
        self.problem = problem
        self.starts = 0

    def start(self) -> None:
        self.starts += 1

    def last_call(self) -> None:
        pass

    def close(self, drain_s: float) -> bool:
        return self.problem is None


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "AFTER_START_S", 0.05)
    monkeypatch.setattr(replays, "LOOK_S", 0.01)


def test_replays_begin_soon_after_a_start_that_nothing_is_heard_of() -> None:
    place, later = Place(), Place()
    following = Replays(print)
    following.add(place)  # type: ignore[arg-type]
    following.on_event({"event": "study"})
    assert place.starts == 0
    following.on_event({"event": "start"})
    wait_until(lambda: place.starts == 1)
    following.add(later)  # type: ignore[arg-type]
    following.on_event({"event": "report"})
    assert following.close(1) == []
    assert place.starts == later.starts == 1


def test_the_first_epoch_comes_first_where_it_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "AFTER_START_S", 60)
    place = Place()
    following = Replays(print)
    following.add(place)  # type: ignore[arg-type]
    following.on_event({"event": "start"})
    assert place.starts == 0
    following.on_event({"event": "report"})
    assert place.starts == 1
    following.close(1)


def test_a_batch_comes_before_the_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "BESIDE_BATCH_S", 60)
    place = Place()
    following = Replays(print, batched=True)
    following.add(place)  # type: ignore[arg-type]
    following.on_event({"event": "start"})
    following.on_event({"event": "report"})
    time.sleep(0.2)
    assert place.starts == 0
    assert following.close(1) == []
    assert place.starts == 1


def test_replays_of_a_long_batch_begin_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "BESIDE_BATCH_S", 0.05)
    place = Place()
    following = Replays(print, batched=True)
    following.add(place)  # type: ignore[arg-type]
    following.on_event({"event": "start"})
    wait_until(lambda: place.starts == 1)
    following.close(1)


def test_a_place_that_takes_nothing_is_told_of_once_and_early() -> None:
    said: list[str] = []
    following = Replays(said.append)
    following.add(Place("ConnectionError: refused"))  # type: ignore[arg-type]
    following.on_event({"event": "start"})
    wait_until(lambda: said)
    time.sleep(0.1)
    assert following.close(1) == ["MLflow"]
    wait_until(lambda: "begin of replays" not in {one.name for one in threading.enumerate()})
    assert len(said) == 1
    assert "MLflow at http://nowhere takes nothing so far (ConnectionError: refused)" in said[0]
