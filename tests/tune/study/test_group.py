"""A folder belongs to a study or to a group. Neither ever writes into the other's record."""

from pathlib import Path

import pytest

from search_spaces.settings import Comparison, Fixed
from tests.studies import finish, finished, open_study, write_setting
from trainables.errors import UserError
from tune.cli.compare import publish_table
from tune.study.events import EventLog
from tune.study.group import Group, OwnComparison, is_group, members, source_studies


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_study_does_not_begin_in_a_group(tmp_path: Path) -> None:
    Group.open(tmp_path / "toy", "toy", "val/top1", [])
    before = (tmp_path / "toy/events.jsonl").read_bytes()
    with pytest.raises(
        UserError, match=r"'toy' is a comparison of settings in .*; choose another --study name"
    ):
        open_study(tmp_path, 1)
    assert not (tmp_path / "toy/study.json").exists()
    assert (tmp_path / "toy/events.jsonl").read_bytes() == before


@pytest.mark.parametrize("without", ["nothing", "study.json"])
def test_a_group_does_not_begin_in_a_study(tmp_path: Path, without: str) -> None:
    finished(tmp_path, 1)
    (tmp_path / "toy" / without).unlink(missing_ok=True)
    with pytest.raises(UserError, match="'toy' is a study of its own"):
        Group.open(tmp_path / "toy", "toy", "val/top1", [])


def test_a_table_beside_a_study_of_its_name_leaves_that_alone(tmp_path: Path) -> None:
    """Settings A and C are the studies `toy-A` and `toy-C`. Study `toy` is unrelated to them."""
    finished(tmp_path, 1)
    before = (tmp_path / "toy/events.jsonl").read_bytes()
    write_setting(tmp_path / "toy-A", "A", {0: [0.50, 0.52, 0.48]})
    write_setting(tmp_path / "toy-C", "C", {0: [0.60, 0.63, 0.57]})
    publish_table(tmp_path / "toy")
    assert (tmp_path / "toy/table.md").exists()
    assert (tmp_path / "toy/events.jsonl").read_bytes() == before


def test_a_group_whose_beginning_was_killed(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy/events.jsonl").touch()
    assert not is_group(tmp_path / "toy")
    with pytest.raises(UserError, match="no setting of 'toy'"):
        publish_table(tmp_path / "toy")
    Group.open(tmp_path / "toy", "toy", "val/top1", [])
    assert is_group(tmp_path / "toy")
    assert [e["event"] for e in EventLog.read(tmp_path / "toy/events.jsonl")[0]] == ["study"]


def test_neither_keeps_files_open(tmp_path: Path) -> None:
    finish(tmp_path / "first", 1)
    before = open_files()
    finish(tmp_path / "second", 1)
    group = Group.open(tmp_path / "group", "toy", "val/top1", [])
    for _ in range(3):
        group.emit("finish", state="FINISHED")
    assert open_files() == before


def test_each_number_of_searches_from_five_on_is_a_look(tmp_path: Path) -> None:
    group = Group.open(tmp_path / "group", "toy", "val/top1", [])
    for searches, look in ((4, 1), (6, 1), (7, 2), (6, 1), (8, 3)):
        group.ask_for(searches)
        assert group.look == look
        group.emit("finish", state="FINISHED")
        assert group.look == look


def test_what_backbones_come_from_is_no_side(tmp_path: Path) -> None:
    comparison = Comparison(title="rates", settings={"low": Fixed("low", {})}, questions={})
    for name in ("mine-low-r1", "mine-pretrain-r1", "mine-pretrain-r2", "other-ssl-r1"):
        write_setting(tmp_path / name, "low", {0: [0.5]})
    found = source_studies(tmp_path / "mine", comparison, 1)
    assert found == {"pretrain": tmp_path / "mine-pretrain-r1"}


def test_studies_of_another_experiment_are_no_members(tmp_path: Path) -> None:
    settings = {"low": Fixed("low", {"lr": 0.1}), "high": Fixed("high", {"lr": 1.0})}
    own = OwnComparison("rates", Comparison(title="rates", settings=settings, questions={}))
    for name, experiment in (("mine", "classify"), ("other", "toy")):
        Group.open(tmp_path / name, experiment, "val/top1", [], own)
        assert members(tmp_path / name) is None
        write_setting(tmp_path / f"{name}-low", "low", {0: [0.5]})
    found = members(tmp_path / "mine")
    assert found is not None
    assert found.folders == {"low": tmp_path / "mine-low"}
    assert members(tmp_path / "other") is None
