"""The control trains from scratch for as long as pre-training and fine-tuning together."""

import json
from pathlib import Path

import pytest

from search_spaces.settings import sides
from tests.commands import Call
from tests.studies import write_setting
from tune.cli.control import Length, control_length
from tune.cli.options import Options
from tune.cli.prepare import Prepared, prepare
from tune.experiments import EXPERIMENTS
from tune.reports.comparison_table import compare_settings
from tune.reports.pooled_table import compare_searches
from tune.reports.pooled_text import pooled_notes
from tune.reports.table_text import markdown
from tune.study.group import Group, members

TINY = {"train.epochs": 12, "train.epoch_images": 0}


def test_without_pre_training_the_presets_count(tmp_path: Path) -> None:
    """`ssl` sees two views of 1,024 images in 12 epochs, `pretrain` one of 3,200 in 24."""
    sources = {name: tmp_path / name for name in ("ssl", "pretrain")}
    found = control_length(TINY, 1000, sources, "tiny")
    assert found == Length(12 + 77, "pretrain, preset tiny", 24 * 3200)
    assert control_length(TINY, 1000, {"pretrain": tmp_path}, "tiny").images == 24 * 3200


def test_on_a_folder_epochs_add_up(tmp_path: Path) -> None:
    """Pre-training and fine-tuning share the images there."""
    found = control_length({"train.epochs": 50}, 800, {"pretrain": tmp_path}, "full")
    assert found.epochs == 50 + 100
    found = control_length({"train.epochs": 50}, 800, {"ssl": tmp_path}, "full")
    assert found.epochs == 50 + 2 * 100


def prepared(storage: Path, setting: str = "A-long") -> Prepared:
    options = Options(
        experiment="classify",
        setting=setting,
        data="digits",
        set=["data.image_size=8", "train.epochs=3", "train.epoch_images=1000"],
        storage=str(storage),
    )
    return prepare(options, EXPERIMENTS["classify"], storage)


def test_a_control_is_as_long_as_the_longest_pre_training_and_its_fine_tuning(
    tmp_path: Path,
) -> None:
    found = prepared(tmp_path)
    assert found.config.train.epochs == found.manifest.base["train.epochs"] == 3 + 77
    assert found.manifest.pins["train.epochs"] == 80
    assert found.manifest.control == {"source": "pretrain, preset tiny", "images": 76_800}
    assert found.notes == (
        "note: trained from scratch for 80 epochs, as many images as the pre-training of "
        "pretrain, preset tiny (76,800 views) and fine-tuning together",
    )

    length = {"train.epochs": 40, "train.epoch_images": 5000}
    write_setting(tmp_path / "pretrain", "pretrain", {0: [0.5]}, length)
    longer = prepared(tmp_path).manifest
    assert longer.base["train.epochs"] == 3 + 200
    assert longer.control == {"source": "pretrain", "images": 200_000}


def test_a_control_keeps_its_length(tmp_path: Path) -> None:
    """A pre-training that runs later, of whatever length, does not change it."""
    first = prepared(tmp_path)
    first.directory.mkdir()
    first.manifest.reconcile_with(first.directory / "study.json")
    length = {"train.epochs": 40, "train.epoch_images": 5000}
    write_setting(tmp_path / "pretrain", "pretrain", {0: [0.5]}, length)

    again = prepared(tmp_path)
    assert again.config.train.epochs == 80
    assert again.manifest.reconcile_with(first.directory / "study.json").base == first.manifest.base


def test_other_settings_have_their_own_length(tmp_path: Path) -> None:
    found = prepared(tmp_path, "A")
    assert found.config.train.epochs == 3
    assert found.manifest.control is None
    assert found.notes == ()


def test_a_control_takes_part_where_it_is_asked_for(call: Call) -> None:
    comparison = EXPERIMENTS["classify"].comparisons[""]
    assert list(comparison.without({"A-long"}).settings) == list("ABCDE")
    assert list(comparison.without({"A-long"}).questions) == ["C-A", "C-B", "E-D", "B-A"]
    assert sides("C-A-long") == ("C", "A-long")

    small = ("--data", "digits", "--searches", "5", "--set", "data.image_size=8", "--plan")
    assert "5 searches of each of 5 settings" in call("classify", *small).out
    assert "5 searches of each of 6 settings" in call("classify", *small, "--control").out
    refused = call("fewshot", "--compare", "distance", *small, "--control")
    assert refused.line == "--control: fewshot has no control; leave it out"


def test_a_table_has_the_question_of_a_control_once_it_has_begun(tmp_path: Path) -> None:
    write_setting(tmp_path / "classify-C", "C", {0: [0.5, 0.52]})
    write_setting(tmp_path / "classify-A", "A", {0: [0.4, 0.42]})
    found = members(tmp_path / "classify")
    assert found is not None
    assert "C-A-long" not in found.comparison.questions
    write_setting(tmp_path / "classify-A-long", "A-long", {0: [0.5, 0.53]})
    table = compare_settings(tmp_path / "classify")
    assert [d.name for d in table.differences] == ["C-A", "C-A-long"]
    assert "classify --control" in table.command
    assert "| A-long: scratch, all trains, as long as with pre-training |" in markdown(table)


def begin_group(storage: Path, version: int | None) -> Path:
    """Begin a group under a version of the questions; logs of before name none."""
    group = Group.open(storage / "classify", "classify", "val/top1", [])
    log = group.folder / "events.jsonl"
    event = json.loads(log.read_text())
    assert event.pop("questions") == 2
    log.write_text(json.dumps(event if version is None else event | {"questions": version}) + "\n")
    return group.folder


@pytest.mark.parametrize("version", [None, 1, 2])
def test_a_comparison_keeps_the_questions_that_it_began_with(
    tmp_path: Path, version: int | None
) -> None:
    """B - A-long was added in version 2."""
    folder = begin_group(tmp_path, version)
    for setting in ("A", "B", "A-long"):
        write_setting(tmp_path / f"classify-{setting}", setting, {0: [0.5, 0.52]})
    added = ["B-A-long"] * (version == 2)
    found = members(folder)
    assert found is not None
    questions = list(found.comparison.questions)
    assert questions == ["C-A", "C-B", "E-D", "B-A", "C-A-long", *added]
    assert [d.name for d in compare_settings(folder).differences] == ["B-A", *added]


def test_the_plan_counts_the_questions_that_a_comparison_began_with(
    tmp_path: Path, call: Call
) -> None:
    small = ("--data", "digits", "--searches", "5", "--set", "data.image_size=8", "--plan")
    words = ("classify", *small, "--control", "--storage", str(tmp_path))
    assert "6 questions" in call(*words).out
    begin_group(tmp_path, None)
    assert "5 questions" in call(*words).out


def test_a_table_over_searches_says_once_how_long_its_control_trained(tmp_path: Path) -> None:
    begin_group(tmp_path, 2)
    for search, epochs in enumerate((82, 85, 83), start=1):
        for setting, length in (("B", 12), ("A-long", epochs)):
            folder = tmp_path / f"classify-{setting}-r{search}"
            base = {"train.epochs": length}
            write_setting(folder, setting, {0: [0.5]}, base, seed=search - 1)
        path = folder / "study.json"
        control = {"source": f"classify-pretrain-r{search}", "images": 76_800}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"control": control}))

    notes = pooled_notes(compare_searches(tmp_path / "classify"))
    assert [note for note in notes if "trained from scratch" in note] == [
        "A-long: trained from scratch for 82 to 85 epochs, as many images as the pre-training of "
        "the same search (76,800 views) and fine-tuning together."
    ]
