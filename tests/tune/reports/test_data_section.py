"""Every page of a study shows what was understood about its data. Earlier studies have no such
section."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from tests.studies import events, finish, write_setting
from trainables.class_metrics import class_results, write_class_results
from trainables.data_summary import ClassCounts, DataSummary, FolderUse, SplitUse
from trainables.files import CLASS_RESULTS
from tune.reports.doubts import doubts
from tune.reports.html_group import write_group_report
from tune.reports.html_report import write_report
from tune.reports.leaderboard import show_study
from tune.study.record import read_record
from tune.tracking.projection import Projection

SUMMARY = DataSummary(
    layout="folder per class",
    folders=(FolderUse("train", "train", 24), FolderUse("<b>", "left out", 3, "no part")),
    splits=(SplitUse("train", 24, 2), SplitUse("test", 10, 2)),
    classes=ClassCounts(2, ("ant", "bee"), ("bee", 7), ("ant", 17)),
    warnings=("3 of 10 test images (30%) are training images too: a test result flatters",),
)

OTHER = replace(SUMMARY, layout="csv")


def study(root: Path, **data: Any) -> Path:
    about = {"name": "blobs", "fingerprint": "f", "path": "blobs", "images": 90, **data}
    finish(root, 2, data=about, base={"train.epochs": 1})
    return root / "toy"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study(tmp_path_factory.mktemp("told"), summary=SUMMARY.as_json())


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study(tmp_path_factory.mktemp("earlier"))


def shown(folder: Path) -> str:
    out = io.StringIO()
    show_study(folder, Console(file=out, width=120))
    return out.getvalue()


def tags(folder: Path) -> dict[str, str]:
    """Tags of the study's run in MLflow."""
    projection = Projection()
    for event in events(folder.parent):
        projection.feed(event | {"t": 0})
    return projection.take()["study"].tags


def test_every_page_has_it(told: Path) -> None:
    page = write_report(told).read_text()
    assert ">Data</h2>" in page
    assert "2: ant, bee; 7 (bee) to 17 (ant) training images" in page
    assert "&lt;b&gt; · 3 · left out (no part)" in page  # a folder's name is not markup
    for line in SUMMARY.lines():
        assert line in shown(told)
    assert tags(told)["data.summary"] == "\n".join(SUMMARY.lines())
    assert json.loads((told / "study.json").read_text())["data"]["summary"]["layout"]


def test_a_warning_is_among_the_doubts(told: Path) -> None:
    assert doubts(read_record(told), told.parent)[0] == SUMMARY.warnings[0]
    page = write_report(told).read_text()
    assert page.count(SUMMARY.warnings[0]) == 2  # once in health checks, once in data


def test_a_study_of_before_has_no_such_section(earlier: Path) -> None:
    assert ">Data</h2>" not in write_report(earlier).read_text()
    assert not re.search(r"^layout ", shown(earlier), re.MULTILINE)
    assert "data.summary" not in tags(earlier)


@pytest.mark.parametrize(
    ("other", "titles"), [(SUMMARY, ["Data"]), (OTHER, ["Data", "Data of C: ssl, all trains"])]
)
def test_a_comparison_has_it_once(tmp_path: Path, other: DataSummary, titles: list[str]) -> None:
    for setting, summary in (("A", SUMMARY), ("B", SUMMARY), ("C", other)):
        folder = tmp_path / f"classify-{setting}"
        write_setting(folder, setting, {0: [0.5, 0.6]}, summary=summary.as_json())
    page = write_group_report(tmp_path / "classify").read_text()
    assert re.findall(r"<h2>(Data.*?)</h2>", page) == titles
    assert page.count("2: ant, bee; 7 (bee) to 17 (ant) training images") == len(titles)
    assert page.count(SUMMARY.warnings[0]) == 3 + len(titles)  # health checks of each, and data


def test_the_picture_is_in_the_section(told: Path) -> None:
    assert "Images of each split." not in write_report(told).read_text()
    (told / "plots").mkdir()
    Image.new("RGB", (60, 40)).save(told / "plots/data.png")
    assert "Images of each split." in write_report(told).read_text()


def test_results_by_class_of_the_chosen_trial(told: Path) -> None:
    number = read_record(told).best_number()
    assert "Results by class" not in write_report(told).read_text()
    results = class_results(np.array([[8, 0], [2, 0]]), ["ant", "bee & co"])
    write_class_results(told / f"trials/{number:04d}" / CLASS_RESULTS, results)
    page = write_report(told).read_text()
    assert f"Results by class of trial {number}" in page
    assert "bee &amp; co" in page
    assert "Never predicted: bee &amp; co." in page
    assert "0.889" in page  # F1 of ant: 16 / 18
