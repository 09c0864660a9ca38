"""`benchmarks/time_left.py`: the time left, as it would have been shown during recorded runs."""

import pytest

from benchmarks.time_left import BOUND, DATA, FROM, occupied, read, replay

STEADY = (
    "make-run-410f594",
    "ssl-two-at-a-time",
    "function-interrupted",
    "function-two-at-a-time",
)
"""Runs on a machine that was as fast at the end as at the start."""


@pytest.mark.parametrize("name", STEADY)
def test_the_end_is_told_within_a_quarter_from_a_fifth_of_the_run_on(name: str) -> None:
    told = list(replay(read(DATA / f"{name}.jsonl.xz")))
    assert len(told) == 9
    for tenth, one in enumerate(told, 1):
        if tenth >= FROM:
            assert abs(one.error) <= BOUND, f"tenth {tenth}: {one}"


def test_a_first_estimate_comes_before_the_first_trial_ends() -> None:
    (log,) = read(DATA / "ssl-two-at-a-time.jsonl.xz")
    ends = [place for place, event in enumerate(log.events) if event["event"] == "end"]
    log.events = [*log.events[: ends[0]], {**log.events[-1], "t": log.events[ends[0]]["t"]}]
    told = list(replay([log]))
    assert told[4].left is not None


@pytest.mark.parametrize("name", ["make-run-410f594", "make-run-2c20e7c"])
def test_no_core_waits_during_make_run(name: str) -> None:
    """Two processes, from the first trial's start to the verdict."""
    logs = read(DATA / f"{name}.jsonl.xz")
    whole = next(replay(logs)).whole
    assert 1 <= whole / (occupied(logs) / 2) <= 1.15
