"""`benchmarks/speed_page.py`: tables of docs/benchmarks.md from records of speed."""

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from benchmarks import record_file, speed_records
from benchmarks.record_speed import SCRIPTS
from benchmarks.speed_claims import ROWS
from benchmarks.speed_page import FIGURES, SECTIONS

STEPS = [0.010, 0.011, 0.012, 0.010]
"""CPU seconds of a bare step."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(speed_records, "SPEED", tmp_path)
    monkeypatch.setattr(record_file, "SPEED", tmp_path)
    return tmp_path


def write(name: str, **found: Any) -> None:
    record_file.record_speed(name, found)


def rows(figure: str) -> list[list[str]]:
    lines = FIGURES[figure]().strip().split("\n")[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.mark.parametrize(("factor", "verdict"), [(1.02, "yes"), (1.04, "**no**")])
def test_a_claim_holds_by_the_ratios_of_its_record(factor: float, verdict: str) -> None:
    turns = {
        "vistune, engine.fit": [[factor * taken, 1] for taken in STEPS],
        "byol-pytorch, bare loop": [[2 * taken, 1] for taken in STEPS],
        "the same, target moved in place": [[taken, 1] for taken in STEPS],
    }
    write("loop", batch=64, steps=25, turns=turns)
    [row] = [row for row in rows("speed.claims") if "the training loop" in row[0]]
    assert row[2] == f"{1000 * factor * statistics.median(STEPS):.3g} ms CPU a step"
    assert row[4] == f"{factor:.3f} ({factor:.3f} to {factor:.3f})"
    assert row[5] == verdict
    assert ("the training loop" in FIGURES["speed.failed"]()) is (verdict != "yes")


def test_every_record_of_the_page_has_a_script() -> None:
    assert SCRIPTS.keys() == {*ROWS, *SECTIONS}


def test_what_is_not_recorded_is_said() -> None:
    assert all(row[-1] == "not recorded" for row in rows("speed.claims"))
    for name in ("speed.start", "speed.wirings", "speed.comparison"):
        assert FIGURES[name]().startswith("not recorded (`record_speed.py ")


def test_a_record_names_its_command_and_machine(folder: Path) -> None:
    write("tracking", seconds={"ours": [0.5e-3], "meanwhile": [1e-3], "peer": [0.08]})
    found = json.loads((folder / "tracking.json").read_text())
    assert {"command", "commit", "machine", "date", "load"} <= found.keys()
    assert found["machine"] in FIGURES["speed.source"]()
    ratios = [row[4] for row in rows("speed.claims") if "MLflowLoggerCallback" in row[3]]
    assert ratios == ["1/160", "1/80"]


def test_the_error_of_the_time_left_is_a_share_of_the_run() -> None:
    true = [90.0 - 10 * tenth for tenth in range(9)]
    good = [left + 5 for left in true]
    late = [left + 30 for left in true]
    names = ("make-run-410f594", "make-run-2c20e7c")
    names += ("ssl-two-at-a-time", "function-interrupted", "function-two-at-a-time")
    names += ("fewshot-three-studies", "classify-14-studies")
    runs = [{"name": name, "whole": 100, "left": good, "true": true} for name in names]
    runs.append({"name": "ssl-one-at-a-time", "whole": 100, "left": late, "true": true})
    write("time_left", runs=runs)
    found = rows("speed.time_left")
    assert found[0][1:] == ["100 s", "5 %", "5 %", "5 %", "5 %"]
    assert found[-1][2:] == ["**30 %**", "**30 %**", "**30 %**", "30 %"]
    assert FIGURES["speed.time_left_holds"]().startswith("7 of 8 runs")


@pytest.mark.parametrize(("occupied", "verdict"), [(180.0, "holds"), (170.0, "**fails**")])
def test_make_run_is_judged_by_what_occupies_two_processes(occupied: float, verdict: str) -> None:
    names = ("make-run-410f594", "make-run-2c20e7c")
    runs = [{"name": names[0], "whole": 100, "occupied": 199.0}]
    runs.append({"name": names[1], "whole": 100, "occupied": occupied})
    write("time_left", runs=runs)
    text = FIGURES["speed.make_run"]()
    assert f"1.01 and {200 / occupied:.2f} of the time" in text
    assert text.endswith(f"the goal is 1.15: {verdict}")


def test_blocks_in_which_processes_start_are_left_out() -> None:
    """With two workers and blocks of one trial: the first two and the last two."""
    spent = [9.0, 9.0, 0.03, 0.03, 0.03, 0.03, 0.03, 0.036, 9.0, 9.0]
    marks = [[sum(spent[:k]), sum(spent[:k]) / 2] for k in range(len(spent) + 1)]
    write("cluster_64", workers=2, nodes=1, trials=10, epochs=2, block=1, torch=False, marks=marks)
    row = rows("speed.cluster")[0]
    assert row[1:4] == ["31.0", "15.5", "15.5"]
    assert row[4] == "1.10: holds"


def test_batched_trials_are_judged_by_both_times() -> None:
    """The whole study takes half of the time, a good trial twice as long."""
    study = {
        "length": "digits",
        "to_target": {"batched": 8.0, "one by one": 4.0},
        "all_trials": {"batched": 10.0, "one by one": 20.0},
    }
    write("batch_trials", width=24, trials=48, cores=2, studies=[study, study])
    text = FIGURES["speed.batched_studies"]()
    assert "it saves time over a whole study, and does not find one good trial sooner" in text
    assert ".50 and .50 (E on digits)" in text
    [row] = [row for row in rows("speed.claims") if "equal regret" in row[0]]
    assert row[4:] == ["2.00, 2.00; all trials .50, .50", "**no**"]


def test_a_good_trial_that_is_found_sooner_in_some_searches_is_mostly_found_sooner() -> None:
    all_trials = {"batched": 10.0, "one by one": 20.0}
    studies = [
        {
            "length": "digits",
            "to_target": {"batched": seconds, "one by one": 4.0},
            "all_trials": all_trials,
        }
        for seconds in (2.0, 3.0, 5.0)
    ]
    write("batch_trials", width=24, trials=48, cores=2, studies=studies)
    assert "and mostly finds one good trial sooner" in FIGURES["speed.batched_studies"]()
    write("batch_trials", width=24, trials=48, cores=2, studies=studies[:2])
    assert "and finds one good trial sooner" in FIGURES["speed.batched_studies"]()


@pytest.mark.parametrize(("seconds", "verdict"), [(5.0, "yes"), (7.0, "**no**")])
def test_a_batch_is_judged_beside_an_earlier_tree(seconds: float, verdict: str) -> None:
    spent = {"batched": seconds, "earlier": 30.0, "one by one": 10.0}
    studies = [
        {"length": "digits", "side": side, "all_trials": 10.0, "near_own_best": taken}
        for side, taken in spent.items()
        for _ in range(2)
    ]
    about = {"width": 24, "trials": 48, "cores": 2, "earlier": "5d3a9ec"}
    write("batch_earlier", **about, studies=studies)
    then, now = [row for row in rows("speed.claims") if ".01 from the own best" in row[2]]
    same = "all trials 1.000, 1.000"
    assert then[4] == ", ".join([f"1/{30 / seconds:.1f}"] * 2) + f"; {same}"
    assert then[5] == verdict
    assert now[4] == ", ".join([f"{seconds / 10:.3f}".lstrip("0")] * 2) + f"; {same}"
    assert now[5] == "-"
