"""The record that is read from a study's log, for studies that run, that were resumed, and that
lost processes."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.studies import finish, open_study
from tests.toy import TOY
from tune.execution.local import search_locally
from tune.function import LENGTH
from tune.report import app
from tune.reports.html_sections import budget, opening
from tune.study.log_state import read_state
from tune.study.record import read_record
from tune.study.work import Outcome, Work


def log(root: Path, *told: dict[str, Any]) -> None:
    (root / "toy/events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in told))


def test_a_process_that_was_lost_before_it_began_has_kept_nothing(tmp_path: Path) -> None:
    """The end of a trial that never started must not count as time since 1970."""
    open_study(tmp_path, 1).close()
    log(
        tmp_path,
        {
            "event": "end",
            "t": 1_700_000_000_000,
            "trial": 0,
            "state": "FAIL",
            "value": None,
            "reason": "process lost",
        },
    )
    record = read_record(tmp_path / "toy")
    assert (record.trials[0].occupied_ms, record.trials[0].cpu_seconds) == (0, 0.0)
    assert '<td>CPU time of reserved cores</td><td class="long">0.0 s</td>' in budget(record)


def test_what_was_said_at_an_end_is_not_said_of_a_study_that_goes_on(tmp_path: Path) -> None:
    study = finish(tmp_path, 3)
    study.summarize({}, verdict="Tuning helps: as far as three trials go.")
    study.emit("finish", state="FINISHED")
    show = ["show", "toy", "--storage", str(tmp_path)]
    assert "Tuning helps" in (said := CliRunner().invoke(app, show).stdout)
    assert "has not ended" not in said
    study = open_study(tmp_path, 5)
    work = study.next_work()
    assert isinstance(work, Work)
    study.started(work)
    study.close()
    assert "Tuning helps" not in (said := CliRunner().invoke(app, show).stdout)
    assert "the study has not ended" in said
    assert "The study has not ended" in opening(read_record(tmp_path / "toy"), None)


def test_a_trial_that_still_runs_has_saved_no_epochs(tmp_path: Path) -> None:
    study = open_study(tmp_path, 3, base={"train.epochs": 8})
    baseline = study.next_work()
    assert isinstance(baseline, Work)
    study.ended(baseline, Outcome("COMPLETE", metrics={"baseline/val/top1": 0.5}))
    for epochs in (2, 1):
        work = study.next_work()
        assert isinstance(work, Work)
        study.started(work)
        for epoch in range(1, 1 + epochs):
            study.reported(work, epoch, {"val/top1": 0.1})
    study.close()
    assert read_record(tmp_path / "toy").saved == 0
    study.ended(work, Outcome("FAIL", reason="oom"))
    record = read_record(tmp_path / "toy")
    assert (record.epochs_saved, record.saved) == ((7, 8), pytest.approx(7 / 8))
    assert '<td>epochs of trials</td><td class="long">3 of 16</td>' in budget(record)


def test_the_running_study_knows_what_its_log_says(tmp_path: Path) -> None:
    """A study applies events as it writes them, and reaches the same state as a reader."""
    study = open_study(tmp_path, 4, repeats=1, base={"train.epochs": 6})
    search_locally(study, TOY)
    study.summarize({"test/x": 1.0}, verdict="better")
    study.emit("finish", state="FINISHED")
    study.close()
    applied = study._state
    read = read_state(tmp_path / "toy/events.jsonl", keeps_history=False)
    assert read.runs.keys() == applied.runs.keys()
    assert read == applied
    with_history = read_state(tmp_path / "toy/events.jsonl")
    for work_id, run in with_history.runs.items():
        assert len(run.history) == len(run.epochs) == len(applied.runs[work_id].epochs)


def test_before_a_function_has_said_its_length_there_is_none(tmp_path: Path) -> None:
    open_study(tmp_path, 1, function=True).close()
    assert read_record(tmp_path / "toy").length == 0


def test_a_function_is_as_long_as_it_said_last(tmp_path: Path) -> None:
    study = open_study(tmp_path, 1, function=True)
    work = study.next_work()
    assert isinstance(work, Work)
    study.started(work)
    lengths = []
    for epoch, length in enumerate((4, 6), 1):
        study.reported(work, epoch, {"val/top1": 0.5, LENGTH: float(length)})
        lengths.append(read_record(tmp_path / "toy").length)
    study.close()
    assert lengths == [4, 6]
