"""A machine's clock is set back by hours, between two starts or while a study runs."""

import itertools
import time
from pathlib import Path

import pytest

from tests.studies import events, finish, finished, open_study
from tests.toy import Toy
from trainables.base import Batch
from tune.cli.clock import Clock
from tune.study.agenda import occupied_seconds
from tune.study.events import EventLog
from tune.study.log_state import read_state
from tune.study.study import Study
from tune.tracking.projection import Projection

HOURS = 3 * 3600.0
TRUE = time.time


def set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: TRUE() - HOURS)


def times(root: Path) -> list[int]:
    return [event["t"] for event in events(root)]


def test_times_of_a_log_never_run_backwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    first = log.append("one")["t"]
    assert 1000 * (TRUE() - 60) < first <= 1000 * TRUE()
    set_back(monkeypatch)
    second = log.append("two", text="x" * 100_000)["t"]
    log.close()
    assert first <= second < first + 60_000

    moment = itertools.count(time.monotonic(), 7.0)
    monkeypatch.setattr(time, "monotonic", lambda: next(moment))
    again = EventLog(tmp_path / "events.jsonl")
    assert [again.append(name)["t"] - second for name in ("three", "four")] == [0, 7000]
    monkeypatch.setattr(time, "time", lambda: TRUE() + HOURS)
    assert again.append("five")["t"] > first + 1000 * (HOURS - 60)
    again.close()


def test_a_study_resumes_and_lasts_no_negative_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = finished(tmp_path / "whole", 4)
    finish(tmp_path, 2)
    set_back(monkeypatch)
    study = finish(tmp_path, 4)
    assert [t.params for t in study.frozen_trials()] == [t.params for t in whole.frozen_trials()]
    assert times(tmp_path) == sorted(times(tmp_path))

    state = read_state(tmp_path / "toy/events.jsonl")
    assert 0 < occupied_seconds(state) < 60
    for run in state.runs.values():
        assert run.started <= run.heard <= run.ended

    projection = Projection()
    for event in events(tmp_path):
        projection.feed(event)
    ends = {key: changes.status for key, changes in projection.take().items()}
    for key, run in projection.runs.items():
        status = ends[key]
        assert status is not None
        assert run.started <= status[1], f"MLflow's run {key} ends before it begins"


def test_failures_of_before_are_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Toy, batch: Batch) -> None:
        raise ImportError("No module named 'imagined'")

    with monkeypatch.context() as patch:
        patch.setattr(Toy, "forward", broken)
        finish(tmp_path, 2)
    set_back(monkeypatch)
    now = int(time.time() * 1000)
    study = open_study(tmp_path, 2)
    study.close()
    again = Study.open(
        tmp_path / "toy", study.experiment, study.manifest, trials=2, repeats=0, retry=now
    )
    again.close()
    assert again.notes == ["tried again: trial 0, trial 1"]


def test_the_time_left_is_worked_out_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_study(tmp_path, 2)
    clock = Clock(budget_s=3600.0)
    clock.begin(study, 1)
    set_back(monkeypatch)
    clock.on_event({"event": "summary"})
    assert 0 <= clock.progress.elapsed_s < 60
    assert clock.progress.budget_s is not None
    assert 3500 < clock.progress.budget_s <= 3600
    study.close()
