"""`python tune/report.py` on studies in every state: half written, damaged, foreign, side by side,
or missing."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.commands import Said
from tests.studies import finished
from trainables.errors import UserError
from tune import report
from tune.cli.console import Console
from tune.command_line import command
from tune.reports.table_text import Cells, print_cells, wide_console
from tune.study.manifest import read_manifest, write_atomically
from tune.tracking.tracker import Tracker
from tune.ui import study_links

Look = Callable[..., Said]


@pytest.fixture
def look(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Look:
    """Run the command line in this process, on the studies in `tmp_path`."""

    def look(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["tune/report.py", *words, "--storage", str(tmp_path)])
        with pytest.raises(SystemExit) as left:
            report.main()
        said = capsys.readouterr()
        return Said(int(left.value.code or 0), said.out, said.err)

    return look


def damaged(storage: Path) -> list[str]:
    """Make three folders that are not studies, and return their names."""
    for name in ("foreign", "half", "twisted"):
        (storage / name).mkdir()
    (storage / "foreign/study.json").write_text('["of", "another", "program"]')
    (storage / "half/study.json").write_text('{"name": "ha')
    (storage / "twisted/study.json").mkdir()
    return ["foreign", "half", "twisted"]


def test_a_damaged_study_hides_no_other(look: Look, tmp_path: Path) -> None:
    finished(tmp_path, 1)
    names = damaged(tmp_path)
    said = look("show")
    assert (said.code, said.out.partition(":")[0]) == (2, "toy")
    assert (
        sorted(
            line.partition("/study.json")[0].rpartition("/")[2] for line in said.err.splitlines()
        )
        == names
    )
    for name in names:
        said = look("show", name)
        assert said.code == 2
        assert f"{name}/study.json" in said.line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("shwo", "No such command 'shwo'. Did you mean 'show'? `{} --help` lists the commands"),
        ("show --sotrage x", "No such option: --sotrage"),
        ("html", "Missing argument 'study'; `{} html --help` lists the options"),
        ("dashboard toy --port x", "--port 'x' must be a valid integer"),
    ],
)
def test_wrong_use_is_one_line(look: Look, words: str, expected: str) -> None:
    said = look(*words.split())
    assert (said.code, said.out) == (2, "")
    assert expected.format(command("report")) in said.line


def test_without_words_its_commands_are_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tune/report.py"])
    with pytest.raises(SystemExit) as left:
        report.main()
    assert left.value.code == 2
    assert "dashboard" in capsys.readouterr().out


def test_a_study_that_cannot_be_sent_keeps_no_other_from_mlflow(
    look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "second", "third"):
        finished(tmp_path / name, 1)
        (tmp_path / name / "toy").rename(tmp_path / f"study-{name}")

    def sync(self: Tracker, is_wanted: object = None) -> str:
        if self.study_dir.name == "study-second":
            raise UserError("study 'study-second' is being sent to MLflow by its own run")
        return f"{self.study_dir.name}: sent"

    monkeypatch.setattr(Tracker, "sync", sync)
    said = look("sync")
    assert sorted(said.out.splitlines()) == ["study-first: sent", "study-third: sent"]
    assert (said.code, said.line) == (
        2,
        "study 'study-second' is being sent to MLflow by its own run",
    )


def test_a_damaged_log_hides_no_other_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("damaged", "sound"):
        (tmp_path / name).mkdir()
    (tmp_path / "damaged/events.jsonl").write_text("no JSON\n")
    (tmp_path / "sound/events.jsonl").touch()
    known = {"experiment_id": "1", "study_id": "2"}
    monkeypatch.setattr(
        "tune.ui.saved_state", lambda folder, uri: known if folder.name == "sound" else {}
    )
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert [name for name, _ in study_links(tmp_path, uri, "http://127.0.0.1:5000")] == ["sound"]
    assert "damaged/events.jsonl is damaged after byte 0" in capsys.readouterr().err


@pytest.mark.parametrize("offset", [7, 10**9, -1, "7", None])
def test_a_log_that_is_not_the_one_that_was_sent_is_not_damaged(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    offset: object,
) -> None:
    finished(tmp_path, 1)
    sent: list[Path] = []
    monkeypatch.setattr(Tracker, "sync", lambda self: sent.append(self.study_dir))
    known = {"experiment_id": "1", "study_id": "2", "offset": offset}
    monkeypatch.setattr("tune.ui.saved_state", lambda folder, uri: known)
    assert len(study_links(tmp_path, "http://127.0.0.1:9", "http://127.0.0.1:9")) == 1
    assert sent == [tmp_path / "toy"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("word", ["show", "sync"])
def test_no_study_at_all(look: Look, tmp_path: Path, word: str) -> None:
    said = look(word)
    assert (said.code, said.out) == (2, "")
    assert (
        said.line == f"no study in {tmp_path}: run `{command('run', 'ssl', storage=tmp_path)}`, "
        "or name the folder with --storage"
    )


@pytest.mark.parametrize("missing", ["events.jsonl", "study.journal"])
def test_a_study_that_lost_one_of_its_files(look: Look, tmp_path: Path, missing: str) -> None:
    finished(tmp_path, 2)
    (tmp_path / "toy" / missing).unlink()
    assert look("show", "toy").code == 0
    assert look("html", "toy").code == 0
    doubt = "study.journal lacks trial"
    assert (doubt in (tmp_path / "toy/report.html").read_text()) == (missing == "study.journal")


def test_a_place_that_cannot_be_written(look: Look, tmp_path: Path) -> None:
    finished(tmp_path, 1)
    (tmp_path / "toy/report.html").mkdir()
    said = look("html", "toy")
    assert (said.code, said.out) == (2, "")
    assert "report.html" in said.line


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("nothing", "export 'nothing': it must be STUDY or STUDY/TRIAL of "),
        ("torchvision", "export 'torchvision': it must be STUDY or STUDY/TRIAL of "),
        ("runs:/1/backbone", "export 'runs:/1/backbone': it must be STUDY or STUDY/TRIAL of "),
        (
            "toy",
            "(a file of your own ends in .py); valid: classify, fewshot, pretrain, segment, ssl",
        ),
        ("toy/9", "trial 9 of study 'toy' is not complete; complete trials: 0"),
    ],
)
def test_what_cannot_be_exported(look: Look, tmp_path: Path, wanted: str, message: str) -> None:
    finished(tmp_path, 1)
    said = look("export", wanted)
    assert (said.code, said.out) == (2, "")
    assert message in said.line
    assert "--backbone" not in said.line


def test_a_list_and_a_study_are_short(look: Look, tmp_path: Path) -> None:
    """A time as people write it, and one line for all rungs of which nothing can be said."""
    finished(tmp_path, 1)
    assert re.search(r"begun \d{4}-\d\d-\d\d \d\d:\d\d UTC$", look("show").out.strip())
    (line,) = [line for line in look("show", "toy").out.splitlines() if "rank corr" in line]
    assert re.search(r"values: epochs [\d, ]+: too few trials continued to tell$", line)


def test_names_are_shown_as_they_are(
    look: Look, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """rich could take a folder's name for markup, or for an emoji."""
    finished(tmp_path, 1)
    name = "photos[v2][/] :smile:"
    path = tmp_path / "toy/study.json"
    there = read_manifest(path)
    write_atomically(path, json.dumps(vars(replace(there, data={**there.data, "name": name}))))
    assert f"toy: toy on {name}, preset tiny" in look("show").out
    assert f"study toy: toy on {name}, preset tiny" in look("show", "toy").out
    print_cells(wide_console(), "", Cells(["backbone"], [[name]]))
    Console("val/top1", 4, 1).line(name)
    assert capsys.readouterr().out.count(name) == 2
