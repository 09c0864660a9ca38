"""`classify` whole, on the command line: the layouts of the reports, and what is refused."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.test_cli import Call, call  # noqa: F401
from tests.test_data_layouts import make, paint, write_csv
from tune.events import EventLog

SMALL = ("--local", "--set", "data.image_size=8", "--set", "backbone.width=8", "--set", "backbone.pool=1", "--set", "train.epochs=3")
TINY_FOLDER = ("--data", "data", "--preset", "tiny", *SMALL, "--set", "train.epoch_images=32")
ALL = ("classify", "--data", "digits", *SMALL, "--set", "train.epoch_images=96", "--trials", "3", "--repeats", "2")


def ends(study: Path) -> list[dict[str, Any]]:
    return [e for e in EventLog.read(study / "events.jsonl")[0] if e["event"] == "end"]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISTUNE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("kind", ["csv", "prefix train val"])
def test_layouts_of_the_reports_are_searched_unchanged(call: Call, tmp_path: Path, kind: str) -> None:  # noqa: F811
    """Office-Home's csv files and the 50 classes' file names, with other images: searched, repeated, judged on the layout's val."""
    make(kind, tmp_path / "data")
    said = call("classify", "--setting", "A", *TINY_FOLDER, "--trials", "2", "--repeats", "2")
    assert said.code == 0, said.err
    assert " 9 test images" in said.out  # all of val
    found = ends(tmp_path / "runs/classify-A")
    assert Counter(e.get("repeat") is None for e in found)[True] == 2
    repeats = [e for e in found if "repeat" in e]
    assert len(repeats) >= 2
    assert all("test/top1" in e["metrics"] for e in repeats)


def class_in_val_only(folder: Path) -> str:
    make("csv", folder)
    paint(folder / "val/dodo.png")
    lines = (folder / "val.csv").read_text()
    (folder / "val.csv").write_text(lines + "99,dodo.png,dodo\n")
    return "class 'dodo' of"


def prefix_in_val_only(folder: Path) -> str:
    make("prefix train val", folder)
    paint(folder / "val_50/dodo_1.png")
    return "class 'dodo' of"


def unknown_file(folder: Path) -> str:
    make("csv", folder)
    (folder / "train.csv").write_text((folder / "train.csv").read_text() + "99,nowhere.png,ant\n")
    return "train.csv names 1 files that are not in"


def label_missing_in_train(folder: Path) -> str:
    make("csv", folder)
    write_csv(folder / "train.csv", [(0, "ta0.png", "ant"), (1, "tb0.png", "")])
    return "train.csv"


@pytest.mark.parametrize(
    "spoil", [class_in_val_only, prefix_in_val_only, unknown_file, label_missing_in_train], ids=lambda spoil: spoil.__name__
)
def test_labels_that_do_not_fit_are_one_line(call: Call, tmp_path: Path, spoil: Any) -> None:  # noqa: F811
    expected = spoil(tmp_path / "data")
    said = call("classify", "--setting", "A", *TINY_FOLDER)
    assert said.code == 2
    assert expected in said.line
    assert not (tmp_path / "runs").exists()


def test_a_backbone_for_all_settings_is_refused(call: Call, tmp_path: Path) -> None:  # noqa: F811
    said = call(*ALL, "--backbone", "ssl")
    assert (said.code, said.out) == (2, "")
    assert "--setting" in said.line
    assert not (tmp_path / "runs").exists()
