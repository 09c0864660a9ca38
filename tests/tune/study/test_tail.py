"""The end of a search, on a simulated clock: no process waits while a repeat is certain."""

import heapq
from pathlib import Path

import pytest

from tests.studies import events, open_study
from tune.study.study import Study
from tune.study.work import Outcome, Work

EPOCHS = 4


def run_by_a_clock(study: Study, processes: int) -> tuple[float, float, float]:
    """Run all work of a study, at one second per epoch. Return the end, the seconds in which a
    process had nothing to do before the last run began, and the seconds of all runs."""
    running: list[tuple[float, int, Work]] = []
    waiting_since: list[float] = [0.0] * processes
    now, idle, busy, count = 0.0, 0.0, 0.0, 0
    while True:
        while waiting_since:
            work = study.next_work()
            if work is None or work == "wait":
                break
            idle += now - waiting_since.pop(0)
            length = seconds_of(study, work)
            busy += length
            count += 1
            heapq.heappush(running, (now + length, count, work))
        if not running:
            return now, idle, busy
        now, _, work = heapq.heappop(running)
        end(study, work)
        waiting_since.append(now)


def seconds_of(study: Study, work: Work) -> float:
    """The default and the repeats run to their end. Other trials are stopped after one or two
    epochs."""
    study.started(work)
    if work.kind == "baseline":
        return 0.5
    number = work.id.trial or 0
    if work.kind == "repeat" or number in (0, 5):
        return float(EPOCHS)
    return 1.0 + number % 2


def end(study: Study, work: Work) -> None:
    if work.kind == "baseline":
        study.ended(work, Outcome("COMPLETE", metrics={"baseline/val/top1": 0.1}))
        return
    number = work.id.trial or 0
    value = 0.5 + number / 100
    is_whole = work.kind == "repeat" or number in (0, 5)
    metrics = {"best/val/top1": value, "test/top1": value}
    study.ended(work, Outcome("COMPLETE" if is_whole else "PRUNED", value, None, metrics))


@pytest.mark.parametrize("processes", [2, 3])
def test_repeats_of_the_default_fill_the_end_of_the_search(tmp_path: Path, processes: int) -> None:
    study = open_study(tmp_path, 11, repeats=6)
    finished, idle, busy = run_by_a_clock(study, processes)
    study.close()
    assert len(study.finals()) == 12
    assert idle == 0
    # the last round of repeats may leave processes without work
    assert finished <= busy / processes + EPOCHS * (processes - 1) / processes


def test_repeats_of_the_other_trial_begin_when_the_last_trial_has_ended(tmp_path: Path) -> None:
    study = open_study(tmp_path, 6, repeats=1)
    run_by_a_clock(study, 3)  # trial 5 begins last, and takes longer than a repeat of the default
    study.close()
    assert {number for number, _ in study.finals()} == {0, 5}
    log = events(tmp_path)
    ends = [place for place, event in enumerate(log) if event["event"] == "end"]
    last_trial = max(place for place in ends if "repeat" not in log[place])
    starts = {
        event["trial"]: place
        for place, event in enumerate(log)
        if event["event"] == "start" and "repeat" in event
    }
    assert starts[0] < last_trial < starts[5]
