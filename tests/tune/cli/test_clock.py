"""Remaining time of a command as text: for one study, for several, and with a budget."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.studies import open_study
from trainables.errors import UserError
from trainables.pace import PACE, Pace
from tune.cli.clock import Progress, rough_duration
from tune.cli.glimpse import Glimpse
from tune.study.agenda import Agenda, Expected, Own, Seen, seen_in
from tune.study.forecast import Amount
from tune.study.rules import PAIR, RepeatRule


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "5 s"),
        (41, "45 s"),
        (58, "1 min"),
        (95, "2 min"),
        (3000, "50 min"),
        (3600, "1 h"),
        (4700, "1 h 20 min"),
        (90_000, "25 h"),
    ],
)
def test_estimates_are_rounded(seconds: float, said: str) -> None:
    assert rough_duration(seconds) == said


def test_progress_says_what_is_left() -> None:
    progress = Progress(elapsed_s=100, left_s=300, done_s=100)
    assert progress.words == "about 5 min left"
    assert progress.share == 0.25
    assert Progress(5, None, 5).words == ""
    assert Progress(5, None, 5).share is None
    assert Progress(5, 0.0, 5).words == ""


def test_a_budget_that_ends_before_is_named() -> None:
    short = Progress(elapsed_s=60, left_s=3600, done_s=60, budget_s=180)
    assert short.words == "the time budget ends in 3 min, of about 1 h"
    assert short.share == 0.25
    long = Progress(elapsed_s=60, left_s=60, done_s=60, budget_s=180)
    assert long.words == "about 1 min left"


def agenda(seen: dict[str, Seen]) -> Agenda:
    """Three searches of one source and two settings."""
    experiments = {"ssl": "ssl", "A": "classify", "B": "classify"}
    studies = [
        Expected(f"c-{kind}-r{number}", kind, experiment)
        for number in (1, 2, 3)
        for kind, experiment in experiments.items()
    ]
    return Agenda(studies, lambda name: seen.get(name, Seen("waits")))


def test_studies_that_wait_take_as_long_as_those_of_their_kind() -> None:
    whole = agenda({"c-ssl-r1": Seen("done", 100.0), "c-A-r1": Seen("done", 20.0)})
    whole.begin("c-B-r1", is_new=True, now=0.0)
    assert whole.place == (3, 9)
    assert whole.left(Own(left=10, total=30), now=1.0) == 10 + 2 * (100 + 20 + 30)


def test_an_unknown_kind_takes_as_long_as_those_of_its_experiment() -> None:
    whole = agenda({})
    whole.begin("c-ssl-r1", is_new=True, now=0.0)
    assert whole.left(Own(left=60, total=60), now=1.0) == 9 * 60
    whole.end(now=60.0)
    whole.begin("c-A-r1", is_new=True, now=60.0)
    assert whole.left(Own(left=20, total=20), now=61.0) == 20 + 2 * (60 + 20) + 3 * 20


def test_a_study_that_has_just_begun_takes_as_long_as_others_of_its_kind() -> None:
    whole = agenda({"c-ssl-r1": Seen("done", 100.0), "c-A-r1": Seen("done", 20.0)})
    whole.begin("c-ssl-r2", is_new=True, now=0.0)
    assert whole.left(None, now=10.0) == 90 + 100 + 2 * 20 + 3 * 20
    assert agenda({}).left(None, now=0.0) is None


def test_a_log_that_cannot_be_read_costs_the_estimate_alone() -> None:
    def unreadable(name: str) -> Seen:
        raise UserError(f"{name} is damaged")

    whole = Agenda([Expected("one", "A"), Expected("two", "A")], unreadable)
    whole.begin("one", is_new=True, now=0.0)
    assert whole.left(Own(left=10, total=20), now=1.0) == 30


def test_studies_that_may_have_changed_are_looked_at_again() -> None:
    looked: list[str] = []
    seen = {"one": Seen("done", 10.0), "two": Seen("runs", 10.0)}

    def look(name: str) -> Seen:
        looked.append(name)
        return seen.get(name, Seen("waits"))

    names = ("one", "two", "three", "four")
    whole = Agenda([Expected(name, "A") for name in names], look)
    whole.begin("three", is_new=True, now=0.0)
    for now, expected in ((1.0, ["one", "two", "four"]), (9.0, []), (12.0, ["two", "four"])):
        looked.clear()
        whole.left(None, now=now)
        assert looked == expected

    looked.clear()
    whole.end(now=20.0)
    whole.begin("four", is_new=True, now=20.0)
    whole.left(None, now=21.0)
    assert looked == ["two"]  # studies that ran here have been measured


def test_a_folder_shows_where_its_study_stands(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    assert seen_in(folder) == Seen("waits")
    study = open_study(tmp_path, 1)
    assert seen_in(folder) == Seen("runs")
    study.close()
    assert seen_in(folder) == Seen("waits")
    study = open_study(tmp_path, 1)
    study.emit("finish", state="FINISHED")
    study.close()
    assert seen_in(folder) == Seen("done")


def test_other_processes_take_their_part() -> None:
    seen = {
        "c-ssl-r1": Seen("done", 60.0),
        "c-A-r1": Seen("done", 60.0),
        "c-ssl-r2": Seen("runs", 30.0),
    }
    whole = agenda(seen)
    whole.begin("c-B-r1", is_new=True, now=0.0)
    # 60 s here, 30 s for the other process's study, five more studies, on two processes
    assert whole.left(Own(left=60, total=60), now=1.0) == (60 + 30 + 5 * 60) / 2


def tell_pace(folder: Path, trial: int, pace: Pace) -> None:
    own = folder / "trials" / f"{trial:04d}"
    own.mkdir(parents=True, exist_ok=True)
    (own / PACE).write_text(json.dumps(asdict(pace)))


@pytest.mark.parametrize(("processes", "trials", "repeats"), [(1, 3, 4), (2, 2, 2), (3, 1, 2)])
def test_the_first_steps_tell_the_whole_study(
    tmp_path: Path, processes: int, trials: int, repeats: int
) -> None:
    """Three trials of six epochs run to their end, then two repeats of each of two configurations.
    `trials` and `repeats` are how many of each follow one another."""
    glimpse = Glimpse(tmp_path, Amount(3, 6, 2, RepeatRule(PAIR), "none"))
    glimpse.at_a_time = processes
    assert glimpse.left(now=100.0) is None

    tell_pace(tmp_path, processes - 1, Pace(10, step_s=0.5, epoch_steps=40, validation_s=4.0))
    trial = 6 * (40 * 0.5 + 4.0)
    whole = trials * trial + repeats * (trial + 4.0)
    assert glimpse.left(now=101.0) == pytest.approx(whole - 10 * 0.5)
    assert glimpse.left(now=101.5) == pytest.approx(whole - 10 * 0.5 - 0.5)


def test_a_function_of_unknown_length_has_no_first_epoch(tmp_path: Path) -> None:
    glimpse = Glimpse(tmp_path, Amount(3, 0, 0, RepeatRule(PAIR), "none"))
    tell_pace(tmp_path, 0, Pace(steps=10, step_s=0.5, epoch_steps=40, validation_s=4.0))
    assert glimpse.left(now=100.0) is None
