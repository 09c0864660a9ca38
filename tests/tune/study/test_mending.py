"""A record that contradicts itself: what one file knows is written back to the other, and the
advice of error messages works."""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Call
from tests.studies import events, finish, finished, open_study, reports
from trainables.errors import UserError
from tune.study.journal import read_trials
from tune.study.record import check_whole, read_record
from tune.study.study import Study

TRIALS = 5
JOURNAL = "study.journal"


def lines_of(root: Path, name: str = "events.jsonl") -> list[bytes]:
    return (root / "toy" / name).read_bytes().splitlines(keepends=True)


def keep(root: Path, wanted: Callable[[dict[str, Any]], bool], name: str = "events.jsonl") -> int:
    """Keep only the wanted lines of a file, and return the number of deleted ones."""
    lines = lines_of(root, name)
    kept = [line for line in lines if wanted(json.loads(line))]
    (root / "toy" / name).write_bytes(b"".join(kept))
    return len(lines) - len(kept)


def opened(root: Path, trials: int = TRIALS) -> Study:
    study = open_study(root, trials)
    study.close()
    return study


def told(root: Path) -> dict[int, tuple[str, float | None, list[int]]]:
    trials = read_record(root / "toy").trials
    return {n: (run.state, run.value, run.epochs) for n, run in sorted(trials.items())}


def drawn(study: Study) -> list[tuple[dict[str, Any], str, float | None, dict[int, float]]]:
    return [(t.params, t.state.name, t.value, t.intermediate_values) for t in study.frozen_trials()]


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    finished(tmp_path, TRIALS)
    shutil.copytree(tmp_path / "toy", tmp_path / "whole/toy")
    return tmp_path / "whole"


def test_a_whole_record_is_left_alone(tmp_path: Path, whole: Path) -> None:
    assert opened(tmp_path).notes == []
    assert lines_of(tmp_path) == lines_of(whole)
    journal = lines_of(tmp_path, "study.journal")
    wanted = lines_of(whole, "study.journal")
    assert journal[: len(wanted)] == wanted
    assert len(journal) == len(wanted) + 1  # Optuna's own record of the opening


@pytest.mark.parametrize("kind", ["end", "report", "start"])
def test_lines_that_were_deleted_are_written_back(tmp_path: Path, whole: Path, kind: str) -> None:
    def others(event: dict[str, Any]) -> bool:
        return event["event"] != kind or event["trial"] in (None, 0)

    deleted = keep(tmp_path, others)
    study = opened(tmp_path)
    (note,) = study.notes
    if kind != "start":  # later events imply the start
        assert f"{deleted} x {kind}" in note
        assert "of each epoch only val/top1" in note
    assert told(tmp_path) == told(whole)
    assert opened(tmp_path).notes == []


def test_a_log_of_an_earlier_copy_is_completed(tmp_path: Path, whole: Path) -> None:
    """As after a restore of the log alone: the journal has trials that the log lacks."""
    ends = [n for n, e in enumerate(events(tmp_path)) if e["event"] == "end"]
    (tmp_path / "toy/events.jsonl").write_bytes(b"".join(lines_of(tmp_path)[: ends[1] + 1]))
    study = opened(tmp_path)
    assert "events.jsonl lacked what study.journal has" in study.notes[0]
    assert told(tmp_path) == told(whole)
    mine = read_record(tmp_path / "toy")
    assert mine.best_number() == read_record(whole / "toy").best_number() == study.best_number()
    for number, run in mine.trials.items():
        assert run.config == read_record(whole / "toy").trials[number].config
    assert drawn(finish(tmp_path, TRIALS + 2)) == drawn(finish(whole, TRIALS + 2))


@pytest.mark.parametrize("kept", [0, 1, 8, 40])
def test_a_journal_of_an_earlier_copy_is_completed(tmp_path: Path, whole: Path, kept: int) -> None:
    path = tmp_path / "toy/study.journal"
    path.write_bytes(b"".join(lines_of(tmp_path, "study.journal")[:kept]))
    study = opened(tmp_path)
    assert "study.journal lacked what events.jsonl has of trial" in study.notes[0]
    assert drawn(study) == drawn(opened(whole))
    assert drawn(finish(tmp_path, TRIALS + 2)) == drawn(finish(whole, TRIALS + 2))


def test_a_journal_that_was_deleted_is_made_anew(tmp_path: Path, whole: Path) -> None:
    (tmp_path / "toy/study.journal").unlink()
    assert drawn(opened(tmp_path)) == drawn(opened(whole))
    assert len(read_trials(tmp_path / "toy/study.journal", "toy")) == TRIALS


@pytest.mark.parametrize("damage", [b"\0", b"{", b"\xff"])
def test_the_advice_about_a_damaged_line_is_right(
    tmp_path: Path, whole: Path, damage: bytes
) -> None:
    """Followed word for word, it brings back the study as it was."""
    ends = [n for n, e in enumerate(events(tmp_path)) if e["event"] == "end" and e["trial"] == 2]
    lines = lines_of(tmp_path)
    lines[ends[0]] = damage + lines[ends[0]][1:-2] + b"\n"
    (tmp_path / "toy/events.jsonl").write_bytes(b"".join(lines))

    with pytest.raises(UserError) as refused:
        open_study(tmp_path, TRIALS)
    advice = re.search(r"\((sed .*)\)", str(refused.value))
    assert advice is not None
    subprocess.run(shlex.split(advice[1]), check=True)
    assert "1 x end" in opened(tmp_path).notes[0]
    assert told(tmp_path) == told(whole)
    assert drawn(finish(tmp_path, TRIALS + 1)) == drawn(finish(whole, TRIALS + 1))


def test_a_trial_that_runs_is_not_taken_for_damage(tmp_path: Path, whole: Path) -> None:
    """The log may be ahead of the journal by one record, which a kill explains."""
    journal = lines_of(whole, "study.journal")
    values = [n for n, line in enumerate(journal) if b'"intermediate_value"' in line]
    path = tmp_path / "toy/study.journal"
    last_report = max(n for n, e in enumerate(events(whole)) if e["event"] == "report")
    log = lines_of(whole)[: last_report + 1]
    (tmp_path / "toy/events.jsonl").write_bytes(b"".join(log))
    path.write_bytes(b"".join(journal[: values[-1]]))
    assert opened(tmp_path).notes == []
    finish(tmp_path, TRIALS)
    assert reports(tmp_path).keys() == reports(whole).keys()


@pytest.mark.parametrize(("kept", "is_damage"), [(2, False), (1, True)])
def test_a_kill_explains_one_epoch_that_an_open_trial_lacks(
    tmp_path: Path, whole: Path, kept: int, is_damage: bool
) -> None:
    """Trial 3 has reported three epochs, but the journal has fewer."""
    third = [e["event"] == "report" and (e["trial"], e["epoch"]) == (3, 3) for e in events(whole)]
    log = lines_of(whole)[: third.index(True) + 1]
    (tmp_path / "toy/events.jsonl").write_bytes(b"".join(log))
    journal = lines_of(whole, JOURNAL)
    lacking = f'"trial_id":3,"step":{kept + 1},"intermediate_value'.encode()
    cut = next(n for n, line in enumerate(journal) if lacking in line)
    (tmp_path / "toy" / JOURNAL).write_bytes(b"".join(journal[:cut]))
    told = "study.journal lacked what events.jsonl has of trial 3"
    assert any(told in note for note in opened(tmp_path).notes) == is_damage
    finish(tmp_path, TRIALS)
    assert reports(tmp_path).keys() == reports(whole).keys()


def test_a_log_without_its_first_event_gets_it_back(tmp_path: Path, whole: Path) -> None:
    """It identifies the study, and destinations such as MLflow read it first."""
    assert keep(tmp_path, lambda event: event["event"] != "study") == 1
    study = opened(tmp_path)
    assert "events.jsonl lacked its first event: MLflow shows the study as a new one" in study.notes
    first, *rest = events(tmp_path)
    wanted, *others = events(whole)
    assert {**first, "t": 0} == {**wanted, "t": 0}
    assert rest[: len(others)] == others
    assert opened(tmp_path).notes == []


def test_export_refuses_what_show_would_contradict(tmp_path: Path, whole: Path) -> None:
    """A log that has lost the best trial would name another one."""
    best = read_record(whole / "toy").best_number()
    keep(tmp_path, lambda event: event["event"] != "end" or event["trial"] != best)
    record = read_record(tmp_path / "toy")
    assert record.best_number() != best
    with pytest.raises(
        UserError, match=rf"what study.journal has of trial {best}, so another.*again"
    ):
        check_whole(record)
    opened(tmp_path)  # follow the advice
    record = read_record(tmp_path / "toy")
    check_whole(record)
    assert record.best_number() == best


def lose_a_parameter(root: Path) -> None:
    """Delete the line of trial 1's learning rate from the journal. A repeat would use another
    one."""
    mine = {"op_code": 5, "trial_id": 1, "param_name": "optim.lr"}
    lost = keep(root, lambda record: any(record.get(k) != v for k, v in mine.items()), JOURNAL)
    assert lost == 1


@pytest.mark.parametrize("line", [None, b"[]\n", b"null\n", b"\xff\n", b'{"op\n'])
def test_the_advice_about_a_damaged_journal_is_right(
    tmp_path: Path, whole: Path, line: bytes | None
) -> None:
    if line is None:
        lose_a_parameter(tmp_path)
    else:
        lines = lines_of(tmp_path, JOURNAL)
        (tmp_path / "toy" / JOURNAL).write_bytes(b"".join([*lines[:9], line, *lines[9:]]))

    with pytest.raises(UserError, match=r"study\.journal is damaged") as refused:
        open_study(tmp_path, TRIALS)
    advice = re.search(r"\((mv .*)\)", str(refused.value))
    assert advice is not None
    subprocess.run(shlex.split(advice[1]), check=True)
    assert "restored" in opened(tmp_path).notes[0]
    assert told(tmp_path) == told(whole)
    assert drawn(finish(tmp_path, TRIALS + 1)) == drawn(finish(whole, TRIALS + 1))


def test_a_study_that_lost_its_manifest_stays_the_same_study(tmp_path: Path, whole: Path) -> None:
    path = tmp_path / "toy/study.json"
    path.unlink()
    with pytest.raises(UserError, match=r"study\.json is missing.*began with train\.epochs=4"):
        open_study(tmp_path, TRIALS, base={"train.epochs": 5})
    with pytest.raises(UserError, match="began with other data"):
        open_study(tmp_path, TRIALS, data={"name": "blobs", "fingerprint": "other"})
    others = {"train.epochs": 5, "train.batch_size": 4, "optim.lr": 0.5, "dropout": 0.5}
    with pytest.raises(UserError, match=r"began with [^;]*; [^;]*; [^;]*: restore it"):
        open_study(tmp_path, TRIALS, base=others)
    assert not path.exists()

    study = opened(tmp_path)
    assert "study.json was missing" in study.notes[0]
    assert opened(tmp_path).notes == []
    assert drawn(finish(tmp_path, TRIALS + 1)) == drawn(finish(whole, TRIALS + 1))


def test_a_damaged_manifest_names_what_helps(tmp_path: Path, whole: Path) -> None:
    path = tmp_path / "toy/study.json"
    path.write_text("[1]")
    with pytest.raises(UserError, match="move it aside and repeat the command") as refused:
        open_study(tmp_path, TRIALS)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [("base", None), ("space", 5), ("rules", [1]), ("seed", "a"), ("created", 5), ("keep", "some")],
)
def test_an_edited_manifest_names_the_value(
    tmp_path: Path, whole: Path, key: str, value: object
) -> None:
    path = tmp_path / "toy/study.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    for opens in (lambda: open_study(tmp_path, TRIALS), lambda: read_record(tmp_path / "toy")):
        with pytest.raises(UserError, match=f"{key} cannot be {re.escape(repr(value))}; restore"):
            opens()


def test_another_objective_in_the_manifest_is_refused(call: Call) -> None:
    """Its trials would wait for a metric that no trial on record has."""
    command = ("toy", "--local", "--repeats", "0", "--set", "train.epochs=1", "--trials")
    assert call(*command, "1").code == 0
    path = Path("runs/toy/study.json")
    edited = json.loads(path.read_text()) | {"objective": "val/none"}
    path.write_text(json.dumps(edited))
    refused = call(*command, "2")
    assert refused.line.endswith(
        "study.json has the objective 'val/none', but the study began with 'val/top1': write "
        "that into it, or restore it from a copy"
    )
    path.write_text(json.dumps(edited | {"objective": "val/top1"}))
    assert call(*command, "2").code == 0


@pytest.mark.parametrize(
    ("block", "key", "said"),
    [
        ("data", "fingerprint", "data lacks fingerprint"),
        ("rules", "seeds", "rules lacks seeds"),
        ("rules", "sampler", "rules lacks sampler"),
    ],
)
def test_a_manifest_that_lost_a_line_says_which(
    tmp_path: Path, whole: Path, block: str, key: str, said: str
) -> None:
    path = tmp_path / "toy/study.json"
    about = json.loads(path.read_text())
    del about[block][key]
    path.write_text(json.dumps(about))
    with pytest.raises(UserError, match=f"study manifest of this version: {said}; restore"):
        open_study(tmp_path, TRIALS)


@pytest.mark.parametrize("key", ["intermediate_value", "param_name", "system_attr"])
def test_a_hole_in_the_journal_is_told_with_what_fills_it(
    tmp_path: Path, whole: Path, key: str
) -> None:
    """The hole is in trial 0, which was trained with the default's parameters, as is on record."""
    kept = iter([False])
    mine = lambda record: record.get("trial_id") == 0 and key in record  # noqa: E731
    assert keep(tmp_path, lambda record: not mine(record) or next(kept, True), JOURNAL) == 1
    (note,) = opened(tmp_path).notes
    assert "lacks epochs, rungs or parameters of trial 0 that" in note
    advice = re.search(r"\((mv .*)\)", note)
    assert advice is not None
    subprocess.run(shlex.split(advice[1]), check=True)
    opened(tmp_path)
    assert opened(tmp_path).notes == []
    assert drawn(finish(tmp_path, TRIALS + 1)) == drawn(finish(whole, TRIALS + 1))
