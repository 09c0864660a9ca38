"""The time left, against made-up studies in which every run takes a known time."""

import heapq
import random
from collections.abc import Iterator
from typing import Any

import pytest

from tune.search.rungs import rungs_of
from tune.study.forecast import Amount, Forecast
from tune.study.log_state import LogState, apply_event
from tune.study.rules import PAIR, WINNER, RepeatRule
from tune.study.run_costs import measured
from tune.study.survival import survival
from tune.study.timetable import Timetable

EPOCHS = 6
BEGAN = 1_000_000.0  # seconds since the epoch
OPENING, EPOCH, TESTING = 3.0, 2.0, 1.0
Event = dict[str, Any]


def amount(trials: int, seeds: int = 0, rule: str = PAIR, rungs: int | str = "none") -> Amount:
    return Amount(trials, EPOCHS, seeds, RepeatRule(rule), rungs)


def run_events(
    begin: float, trial: int, repeat: int | None, epochs: int, value: float
) -> list[tuple[float, Event]]:
    """The events of one run, with the second at which each happens."""
    own = {"trial": trial} if repeat is None else {"trial": trial, "repeat": repeat}
    start = own | {"event": "start", "config": {}, "attempt": 1, "resumed_epoch": None}
    events = [(begin, start)]
    at = begin + OPENING
    for epoch in range(1, epochs + 1):
        at += EPOCH
        events.append((at, own | {"event": "report", "epoch": epoch, "metrics": {}}))
    state = "COMPLETE" if epochs == EPOCHS else "PRUNED"
    at += 0.0 if repeat is None else TESTING
    end = {"event": "end", "state": state, "value": value, "reason": None, "metrics": {}}
    events.append((at, own | end))
    return events


def made_up(
    lengths: list[int], processes: int, seeds: int = 0, rule: str = PAIR
) -> list[tuple[float, Event]]:
    """All events of a study: trials of these lengths in epochs, then the repeats that the rule asks
    for, each on the first free process. Repeats of the default need not wait for the last trial."""
    free = [0.0] * processes
    events: list[tuple[float, Event]] = []

    def put(trial: int, repeat: int | None, epochs: int, not_before: float = 0.0) -> float:
        begin = max(heapq.heappop(free), not_before)
        made = run_events(begin, trial, repeat, epochs, value=0.5 + trial / 100)
        events.extend(made)
        heapq.heappush(free, made[-1][0])
        return made[-1][0]

    search_end = max(put(number, None, epochs) for number, epochs in enumerate(lengths))
    if rule == PAIR:
        for seed in range(seeds):
            put(0, seed, EPOCHS)
    chosen = max(number for number, epochs in enumerate(lengths) if epochs == EPOCHS)
    for seed in range(seeds):
        put(chosen, seed, EPOCHS, search_end)
    return sorted(events, key=lambda one: one[0])


def told(
    events: list[tuple[float, Event]], work: Amount, processes: int | None = None
) -> Iterator[tuple[float, float | None, Forecast]]:
    """(Seconds, time left, forecast) after each event."""
    state = LogState(keeps_history=False)
    apply_event(state, {"event": "summary", "metrics": {"baseline/val/top1": 0.1}, "tags": {}})
    forecast = Forecast(state, work, processes)
    for seconds, event in events:
        apply_event(state, event | {"t": round(1000 * (BEGAN + seconds))})
        forecast.on_event(event)
        yield seconds, forecast.seconds_left(BEGAN + seconds), forecast


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("rule", [PAIR, WINNER])
def test_without_pruning_the_end_is_known_once_each_kind_of_run_has_ended(
    processes: int, rule: str
) -> None:
    events = made_up([EPOCHS] * 7, processes, seeds=4, rule=rule)
    end = events[-1][0]
    known = False
    for seconds, left, forecast in told(events, amount(7, 4, rule), processes):
        known = known or any(run.outcome is not None for run in forecast.state.repeats.values())
        if known:
            assert left is not None
            assert seconds + left == pytest.approx(end, abs=0.01)


def test_the_first_epoch_gives_an_estimate_that_has_the_repeats_in_it() -> None:
    events = made_up([EPOCHS] * 8, 2, seeds=6)
    end = events[-1][0]
    first = next(left for _, left, _ in told(events, amount(8, 6), 2) if left is not None)
    # the cost of opening a run is not known yet, so it counts for every epoch
    assert end < first < 3 * end
    second = next(left for seconds, left, _ in told(events, amount(8, 6), 2) if seconds > 7)
    assert second == pytest.approx(end - 7, rel=0.1)


@pytest.mark.parametrize("processes", [1, 2])
def test_what_is_done_would_take_the_processes_so_long(processes: int) -> None:
    """A trial of the made-up studies takes 3 s to open and 2 s per epoch."""
    *_, (_, _, forecast) = told(made_up([EPOCHS, EPOCHS, 1, 2], processes), amount(4), processes)
    trials = 4 * OPENING + (2 * EPOCHS + 1 + 2) * EPOCH
    assert forecast.seconds_done() == pytest.approx(trials / processes, rel=1e-6)


def test_the_second_epoch_of_a_trial_measures_what_an_epoch_takes() -> None:
    *_, (_, _, forecast) = told(run_events(0, 0, None, 2, 0.5), amount(4))
    costs = measured(forecast.state)
    assert costs is not None
    assert (costs.opening, costs.epoch) == (OPENING, EPOCH)


def test_a_clock_that_was_set_back_makes_no_time_left() -> None:
    *_, (seconds, left, forecast) = told(run_events(0, 0, None, 4, 0.5)[:-1], amount(4))
    assert left is not None
    assert forecast.seconds_left(BEGAN + seconds - 60) == left


def test_before_a_repeat_has_ended_tests_take_as_long_as_the_ends_of_trials() -> None:
    *events, (end, event) = run_events(0, 0, None, EPOCHS, 0.5)
    *_, (_, _, forecast) = told([*events, (end + 4.0, event)], amount(4))
    costs = measured(forecast.state)
    assert costs is not None
    assert costs.testing == 4.0


def test_trials_that_are_slower_have_a_cost_of_their_own() -> None:
    slow = [(3 * at, event) for at, event in run_events(0, 1, None, 3, 0.5)]
    events = sorted([*run_events(0, 0, None, 3, 0.5), *slow], key=lambda one: one[0])
    *_, (_, _, forecast) = told(events, amount(4))
    costs = measured(forecast.state)
    assert costs is not None
    assert costs.epochs == pytest.approx({0: EPOCH, 1: 3 * EPOCH})


def test_a_default_that_runs_needs_all_its_other_epochs() -> None:
    """Another trial was stopped after its first epoch."""
    other = run_events(0, 1, None, 1, 0.1)
    default = run_events(4, 0, None, EPOCHS, 0.5)
    events = sorted([*other, *default], key=lambda one: one[0])
    lefts = {seconds: left for seconds, left, _ in told(events, amount(2), 2)}
    # the cost of opening a run is not known yet, so it counts for every epoch
    assert lefts[5.0] == EPOCHS * (OPENING + EPOCH) - 1.0
    assert lefts[11.0] == (EPOCHS - 2) * EPOCH


def test_trials_that_are_shorter_than_expected_shorten_the_last_epoch_of_another() -> None:
    other = run_events(0, 2, None, 1, 0.1)
    events = sorted([*other, *run_events(4, 1, None, EPOCHS, 0.5)], key=lambda one: one[0])
    lefts = {seconds: left for seconds, left, _ in told(events, amount(2), 2)}
    # one epoch where six were expected, and two trials as expected
    longer = (1 + 2 * EPOCHS) / (3 * EPOCHS)
    assert lefts[4 + OPENING + (EPOCHS - 1) * EPOCH] == pytest.approx(longer * EPOCH)


def test_epochs_that_take_no_time_need_none() -> None:
    events = [(0.0, event) for _, event in run_events(0, 0, None, EPOCHS, 0.5)]
    assert {left for _, left, _ in told(events, amount(4), 1)} <= {None, 0.0}


def test_a_study_of_short_epochs_is_told_as_well_as_one_of_long_ones() -> None:
    """The second trial runs while something else slows down the machine."""
    first = run_events(0, 0, None, EPOCHS, 0.5)
    begin = first[-1][0]
    second = [(begin + 2 * at, event) for at, event in run_events(0, 1, None, EPOCHS - 1, 0.4)]
    events = [*first, *second]
    lefts = [left for _, left, _ in told(events, amount(4), 1)]
    fast = [(at / 100, event) for at, event in events]
    scaled = [left and 100 * left for _, left, _ in told(fast, amount(4), 1)]
    assert scaled == [pytest.approx(left, rel=1e-3) if left else left for left in lefts]


def test_runs_that_wait_take_the_first_free_process() -> None:
    table = Timetable(2)
    table.all([3.0, 4.0, 5.0])
    assert table.end == 3.0 + 5.0
    table.not_before(10.0)
    table.all([1.0, 2.0, 3.0])
    assert table.end == 10.0 + 1.0 + 3.0


def test_an_epoch_that_runs_counts_as_it_goes_by() -> None:
    events = made_up([EPOCHS] * 4, 1)
    *_, (seconds, left, forecast) = told(events[:4], amount(4), 1)
    assert left is not None
    assert forecast.seconds_left(BEGAN + seconds + 1.5) == pytest.approx(left - 1.5)


def test_trials_that_are_stopped_early_shorten_what_is_left() -> None:
    lengths = [EPOCHS, EPOCHS, *[1, 2] * 9]
    events = made_up(lengths, 2, seeds=2)
    end = events[-1][0]
    work = amount(len(lengths), 2, rungs=2)
    for seconds, left, _ in told(events, work, 2):
        if seconds > end / 4:
            assert left is not None
            assert seconds + left == pytest.approx(end, rel=0.15)


def test_repeats_are_counted_before_they_begin_and_while_they_run() -> None:
    events = made_up([EPOCHS] * 4, 1, seeds=3)
    counts = [forecast.repeats for _, _, forecast in told(events, amount(4, 3), 1)]
    assert counts[0] == (0, 6)
    assert counts[-1] == (6, 6)
    assert {total for _, total in counts} == {6}


def test_a_default_that_fails_is_not_repeated() -> None:
    events = run_events(0, 0, None, 2, 0.1)
    events[-1][1]["state"] = "FAIL"
    events += run_events(10, 1, None, EPOCHS, 0.5)
    *_, (_, left, forecast) = told(events, amount(2, 3), 1)
    assert forecast.repeats == (0, 3)
    assert left == pytest.approx(3 * (OPENING + EPOCHS * EPOCH), rel=0.01)


def test_a_resumed_study_knows_its_costs_and_not_the_pause() -> None:
    lengths = [EPOCHS] * 6
    events = made_up(lengths, 2)
    cut = [(seconds, event) for seconds, event in events if seconds < 21]
    *_, (_, _, before) = told(cut, amount(6), 2)
    open_trials = [number for number, run in before.state.trials.items() if run.outcome is None]
    assert len(open_trials) == 2

    later = Forecast(before.state, amount(6))
    assert later.seconds_left(2 * BEGAN) is not None
    for number in open_trials:
        resumed = {"event": "start", "trial": number, "config": {}, "attempt": 2}
        apply_event(before.state, resumed | {"t": round(2000 * BEGAN), "resumed_epoch": 1})
        later.on_event(resumed)
    left = later.seconds_left(2 * BEGAN)
    assert left == pytest.approx(events[-1][0] - 20, abs=1.5 * EPOCH)


def test_a_challenger_that_is_not_known_yet_needs_all_its_repeats() -> None:
    """Two of the default's four repeats have ended before another trial has."""
    default = run_events(0, 0, None, EPOCHS, 0.5)
    first = run_events(15, 0, 7, EPOCHS, 0.5)
    second = run_events(31, 0, 8, EPOCHS, 0.5)
    (begun, *_) = run_events(47, 1, None, EPOCHS, 0.4)
    *_, (_, left, _) = told([*default, *first, *second, begun], amount(2, seeds=4), 1)
    a_trial = OPENING + EPOCHS * EPOCH
    assert left == pytest.approx(a_trial + (2 + 4) * (a_trial + TESTING))


def test_a_function_without_a_length_is_measured_by_its_trials() -> None:
    work = Amount(6, 0, 0, RepeatRule(PAIR), "none", function=True)
    events = made_up([EPOCHS] * 6, 1)
    answers = [(seconds, left) for seconds, left, _ in told(events, work, 1)]
    length = OPENING + EPOCHS * EPOCH
    assert all(left is None for seconds, left in answers if seconds < length)
    later = [(seconds, left) for seconds, left in answers if seconds > length]
    assert later
    for seconds, left in later:
        assert left == pytest.approx(6 * length - seconds)


def test_a_function_with_a_test_result_is_repeated_to_the_end() -> None:
    work = Amount(3, EPOCHS, 3, RepeatRule(WINNER), "none", function=True)
    tested = [
        (at, event | {"metrics": {"test/top1": 0.5}} if event["event"] == "end" else event)
        for at, event in made_up([EPOCHS] * 3, 1, 3, WINNER)
    ]
    end = tested[-1][0]
    a_repeat = OPENING + EPOCHS * EPOCH + TESTING
    left_after_the_first = [
        left for at, left, _ in told(tested, work, 1) if at >= end - 2 * a_repeat
    ]
    assert left_after_the_first[0] == pytest.approx(2 * a_repeat, abs=0.01)


def test_runs_without_gpus_reserve_none() -> None:
    state = LogState(keeps_history=True)
    for seconds, event in run_events(0, 0, None, 3, 0.5):
        apply_event(state, event | {"t": round(1000 * (BEGAN + seconds))})
    (run,) = state.runs.values()
    assert run.cpu_seconds == OPENING + 3 * EPOCH
    assert run.gpu_seconds == 0


def test_a_run_that_ends_before_its_first_epoch_has_reserved_its_processor() -> None:
    state = LogState(keeps_history=True)
    begun, *_, (_, end) = run_events(0, 0, None, 1, 0.5)
    for seconds, event in (begun, (OPENING, end)):
        apply_event(state, event | {"t": round(1000 * (BEGAN + seconds))})
    (run,) = state.runs.values()
    assert run.cpu_seconds == OPENING


@pytest.mark.parametrize("version", [1, 2])
def test_expected_lengths_are_those_of_trials_whose_order_is_chance(version: int) -> None:
    trials, epochs, draws = 16, 12, 4000
    rule_rungs = rungs_of(epochs, version)
    from tune.search.rungs import RULES

    rng = random.Random(0)
    totals = [0] * trials
    for _ in range(draws):
        seen: dict[int, list[float]] = {rung.part: [] for rung in rule_rungs}
        for number in range(trials):
            value = rng.random()
            ran = epochs
            for rung in rule_rungs:
                others = seen[rung.part]
                places = max(1, (len(others) + 1) // rung.factor)
                passes = sum(other > value for other in others) < places
                others.append(value)
                may_stop = number > 0 and rung.stops(number, RULES[version])
                if may_stop and not passes:
                    ran = rung.epoch(epochs)
                    break
            totals[number] += ran

    expected = survival(trials, epochs, version)
    assert expected.expected(0) == epochs
    # here values keep their order from rung to rung, so later rungs stop fewer trials
    simulated = sum(totals) / draws
    formula = sum(expected.expected(number) for number in range(trials))
    assert formula == pytest.approx(simulated, rel=0.35)


def test_survivors_are_expected_to_run_longer() -> None:
    chances = survival(16, 12, 2)
    lengths = [chances.expected(10, after) for after in range(13)]
    assert lengths == sorted(lengths)
    assert lengths[-1] == 12


def test_longer_trials_than_expected_raise_the_expectation() -> None:
    chances = survival(16, 12, 2)
    assert chances.longer({0: 12}) == 1.0
    assert chances.longer({0: 12, 5: 12, 6: 12}) > 1.5
    assert chances.longer({5: 1, 6: 1, 7: 1}) < 1.0
