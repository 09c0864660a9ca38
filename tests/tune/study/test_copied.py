"""A study whose folder was copied or moved by hand."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.studies import finished, manifest
from tests.toy import TOY
from tune.execution.local import search_locally
from tune.study.copied import adopt
from tune.study.events import EventLog
from tune.study.identity import study_id
from tune.study.manifest import read_manifest
from tune.study.opening import COMMITS
from tune.study.study import Study
from tune.tracking.projection import Projection


def first(folder: Path) -> dict[str, Any]:
    return EventLog.read(folder / "events.jsonl", 0, limit=1)[0][0]


def run(folder: Path, trials: int, **changes: Any) -> Study:
    about = manifest(name=folder.name, **changes)
    study = Study.open(folder, TOY, about, trials=trials, repeats=0)
    search_locally(study, TOY)
    study.close()
    return study


def test_a_copy_is_a_study_of_its_own(tmp_path: Path) -> None:
    finished(tmp_path, 2)
    original = (tmp_path / "toy/events.jsonl").read_bytes()
    shutil.copytree(tmp_path / "toy", tmp_path / "twin")
    (tmp_path / "twin/tracking.json").write_text("{}")

    twin = run(tmp_path / "twin", 4)
    assert twin.notes == ["a copy of study toy: from now on a study of its own, also in MLflow"]
    about = read_manifest(tmp_path / "twin/study.json")
    assert (about.name, about.identity) == ("twin", "toy")
    assert study_id(first(tmp_path / "twin")) != study_id(first(tmp_path / "toy"))
    assert not (tmp_path / "twin/tracking.json").exists()
    assert (tmp_path / "toy/events.jsonl").read_bytes() == original

    projection = Projection()
    for event in EventLog.read(tmp_path / "twin/events.jsonl")[0]:
        projection.feed(event)
    assert projection.runs["study"].name == "twin"
    assert projection.take()["trial/3"].tags["trial.state"] in ("COMPLETE", "PRUNED")

    # it draws what the original would have drawn
    assert [t.params for t in run(tmp_path / "toy", 4).frozen_trials()] == [
        t.params for t in twin.frozen_trials()
    ]
    assert run(tmp_path / "twin", 4).notes == []


def test_two_copies_differ(tmp_path: Path) -> None:
    finished(tmp_path, 1)
    names = ["toy"]
    for name in ("twin", "triplet"):
        shutil.copytree(tmp_path / "toy", tmp_path / name)
        assert adopt(tmp_path / name)
        names.append(name)
    assert len({study_id(first(tmp_path / name)) for name in names}) == 3


def test_a_copy_belongs_to_no_comparison(tmp_path: Path) -> None:
    finished(tmp_path, 1)
    path = tmp_path / "toy/events.jsonl"
    head, *rest = path.read_bytes().splitlines(keepends=True)
    group = json.loads(head) | {"group": {"name": "all", "id": "abc"}}
    path.write_bytes(json.dumps(group).encode() + b"\n" + b"".join(rest))
    shutil.copytree(tmp_path / "toy", tmp_path / "twin")
    adopt(tmp_path / "twin")
    assert first(tmp_path / "twin")["group"] is None
    assert first(tmp_path / "toy")["group"] is not None


def test_a_folder_that_was_moved_keeps_its_runs(tmp_path: Path) -> None:
    finished(tmp_path, 2)
    identity = study_id(first(tmp_path / "toy"))
    (tmp_path / "toy").rename(tmp_path / "moved")
    study = run(tmp_path / "moved", 3)
    assert study.notes == ["study toy was moved here: moved is its name now"]
    assert study_id(first(tmp_path / "moved")) == identity
    assert run(tmp_path / "moved", 3).notes == []


def test_a_kill_in_the_middle_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(tmp_path, 2)
    shutil.copytree(tmp_path / "toy", tmp_path / "twin")

    def kill(*words: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    for place in ("tune.study.copied.EventLog.append", "tune.study.manifest.Manifest.write"):
        with monkeypatch.context() as patch:
            patch.setattr(place, kill)
            with pytest.raises(KeyboardInterrupt):
                adopt(tmp_path / "twin")
    assert run(tmp_path / "twin", 2).finished() == 2
    assert read_manifest(tmp_path / "twin/study.json").name == "twin"


def test_a_study_says_which_code_continued_it(tmp_path: Path) -> None:
    run(tmp_path / "toy", 1, commit="aaa")
    assert run(tmp_path / "toy", 1, commit="aaa").notes == []
    study = run(tmp_path / "toy", 2, commit="bbb+")
    assert study.notes == ["begun by commit aaa, continued by commit bbb+"]
    assert study._state.tags[COMMITS] == "aaa, bbb+"
    assert run(tmp_path / "toy", 2, commit="bbb+").notes == []
    run(tmp_path / "toy", 2, commit=None)
    run(tmp_path / "toy", 2, commit="aaa")
    events, _ = EventLog.read(tmp_path / "toy/events.jsonl")
    tags = [e["tags"][COMMITS] for e in events if e["event"] == "summary" and COMMITS in e["tags"]]
    assert tags == ["aaa, bbb+", "aaa, bbb+, aaa"]


def test_a_link_to_a_study_is_no_copy(tmp_path: Path) -> None:
    finished(tmp_path, 1)
    before = (tmp_path / "toy/events.jsonl").read_bytes()
    (tmp_path / "latest").symlink_to("toy")
    (tmp_path / "absolute").symlink_to(tmp_path / "toy")
    assert adopt(tmp_path / "latest") == adopt(tmp_path / "absolute") == ""
    assert (tmp_path / "toy/events.jsonl").read_bytes() == before
    assert read_manifest(tmp_path / "toy/study.json").name == "toy"


def test_code_of_a_package_has_no_commit(tmp_path: Path) -> None:
    run(tmp_path / "toy", 1, commit=None)
    study = run(tmp_path / "toy", 1, commit="aaa")
    assert study.notes == ["begun by code without a commit, continued by commit aaa"]
    assert study._state.tags[COMMITS] == "no commit, aaa"
