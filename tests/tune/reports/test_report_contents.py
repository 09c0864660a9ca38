"""Every table and figure of the reports has the content of the record. None is empty."""

import html
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.studies import finished, write_setting
from tune.reports.comparison_table import compare_settings
from tune.reports.html_comparison import comparison_page
from tune.reports.html_group import write_group_report
from tune.reports.html_report import write_report
from tune.reports.importances import importances
from tune.reports.leaderboard import show_study
from tune.reports.table_figure import draw
from tune.reports.table_files import publish
from tune.reports.table_text import difference_cells, notes, setting_cells, show
from tune.reports.trial_points import first_rung, parameter_axes, trial_points
from tune.study.record import Record, read_record

SECTIONS = [
    "Health checks",
    "Leaderboard",
    "Best against default",
    "val/top1 against training time",
    "Learning curves",
    "Importance of parameters",
    "Parallel coordinates",
    "One parameter at a time",
    "Budget",
    "Failures",
    "How to repeat it",
]


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    root = tmp_path_factory.mktemp("contents")
    finished(root, 14, repeats=2)
    return read_record(root / "toy")


@pytest.fixture(scope="module")
def sections(record: Record) -> dict[str, str]:
    """Title -> HTML of each section."""
    page = write_report(record.folder).read_text()
    body = page.partition("<script>")[0]
    parts = re.split(r'<h2 id="s\d+">(.*?)</h2>', body)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows_of(section: str) -> list[list[str]]:
    """Cells of all tables, without headers."""
    rows = []
    for row in re.findall(r"<tr[^>]*>(.*?)</tr>", section):
        cells = re.findall(r"<td[^>]*>(.*?)</td>", row)
        if cells:
            rows.append([html.unescape(cell) for cell in cells])
    return rows


def figures_of(section: str) -> list[dict[str, Any]]:
    specs = re.findall(r'<script type="application/json">(.*?)</script>', section, re.DOTALL)
    return [json.loads(spec) for spec in specs]


def printed(record: Record) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    show_study(record.folder, console)
    return console.export_text()


def test_page_has_every_section_and_links_to_it(record: Record, sections: dict[str, str]) -> None:
    assert list(sections) == SECTIONS
    page = (record.folder / "report.html").read_text()
    links = re.findall(r'<a href="#s(\d+)">(.*?)</a>', page)
    assert links == [(str(index), title) for index, title in enumerate(SECTIONS)]


def test_leaderboards_list_every_trial_with_its_value(
    record: Record, sections: dict[str, str]
) -> None:
    rows = rows_of(sections["Leaderboard"])
    marked = [row[0] for row in rows if row[0].startswith("*")]
    assert marked == [f"* {record.best_number()}"]
    for row in rows:
        row[0] = row[0].removeprefix("* ")
    assert sorted(int(row[0]) for row in rows) == sorted(record.trials)
    completed = {row[0]: row[3] for row in rows if row[1] == "complete"}
    expected = {str(number): f"{value:.4f}" for number, value in record.completed.items()}
    assert completed == expected

    lines = [line.strip().removeprefix("* ") for line in printed(record).splitlines()]
    for number, value in record.completed.items():
        epochs = len(record.trials[number].history)
        start = [str(number), "COMPLETE", str(epochs), f"{value:.4f}"]
        assert sum(line.split()[:4] == start for line in lines) == 1


def test_failures_are_printed_with_their_trials(tmp_path: Path) -> None:
    study = finished(tmp_path, 2, base={"fault": "raise"})
    failed = [trial.number for trial in study.frozen_trials() if trial.state.name == "FAIL"]
    assert failed
    said = printed(read_record(tmp_path / "toy"))
    named = ", ".join(str(number) for number in failed)
    assert f"{len(failed)} failed: ZeroDivisionError (trial {named})" in said


def test_best_stands_beside_the_default(record: Record, sections: dict[str, str]) -> None:
    number = record.best_number()
    assert number is not None
    differences = record.differences(number)
    assert differences
    names = [row[0] for row in rows_of(sections["Best against default"])]
    assert names == sorted(differences)
    [figure] = figures_of(sections["Best against default"])
    scores = {
        trace["y"][0]: trace["x"]
        for trace in figure["data"]
        if trace.get("text", [""])[0].startswith("seed")
    }
    for trial, name in ((number, f"trial {number}"), (0, "the default")):
        finals = [m["test/top1"] for (n, _), m in sorted(record.finals().items()) if n == trial]
        assert len(finals) == 2
        assert scores[name] == [float(f"{score:.5g}") for score in finals]


def test_figures_of_parameters_show_all_trials(record: Record, sections: dict[str, str]) -> None:
    axes = parameter_axes(record)
    points = trial_points(record)
    rung = first_rung(record)
    assert len(axes) >= 2
    assert len(points) == len(record.trials)

    [bars] = figures_of(sections["Importance of parameters"])
    found = importances(record.frozen_trials(), rung)
    assert found
    assert len(bars["data"]) == len(found)
    for trace, result in zip(bars["data"], found, strict=True):
        shares = dict(zip(trace["y"], trace["x"], strict=True))
        for name, share in result.shares.items():
            assert shares[name] == pytest.approx(share.value, rel=1e-4)

    [parallel] = figures_of(sections["Parallel coordinates"])
    dimensions = parallel["data"][0]["dimensions"]
    labels = [dimension["label"] for dimension in dimensions]
    assert labels[: len(axes)] == [axis.name for axis in axes]
    assert labels[-1] == "<b>at the end</b>"
    compared = [point for point in points if point.at_rung is not None]
    assert compared
    assert all(len(dimension["values"]) == len(compared) for dimension in dimensions)

    slices = figures_of(sections["One parameter at a time"])
    titles = [figure["layout"]["xaxis"]["title"]["text"] for figure in slices]
    assert sorted(titles) == [axis.name for axis in axes]
    for figure in slices:
        name = figure["layout"]["xaxis"]["title"]["text"]
        drawn = sum(len(trace["x"]) for trace in figure["data"])
        assert drawn == sum(name in point.params for point in points)


def test_reproduction_holds_space_and_configuration(
    record: Record, sections: dict[str, str]
) -> None:
    names = [row[0] for row in rows_of(sections["How to repeat it"])]
    manifest = record.manifest
    expected = ["commit", "data", "seeds", "sampler", "pruner", "pinned", "versions"]
    assert names == [*expected, *manifest.space, *manifest.base]


@pytest.fixture
def group(tmp_path: Path) -> Path:
    """Two settings of `classify`, repeated under three seeds."""
    write_setting(tmp_path / "classify-A", "A", {0: [0.50, 0.52, 0.48]})
    write_setting(tmp_path / "classify-C", "C", {0: [0.60, 0.63, 0.57], 1: [0.5, 0.5, 0.6]})
    return tmp_path / "classify"


def test_comparison_is_printed_and_written_row_by_row(group: Path) -> None:
    table = compare_settings(group)
    settings, differences = setting_cells(table), difference_cells(table)
    assert [row[0][0] for row in settings.rows] == ["A", "C"]
    assert [row[0] for row in differences.rows] == ["C-A"]
    assert all(len(row) == len(settings.header) for row in settings.rows)

    page = comparison_page(table, b"png")
    assert rows_of(page) == [*settings.rows, *differences.rows]
    for note in notes(table):
        assert f"<small>{note}</small>" in html.unescape(page)

    console = Console(width=300, record=True, file=io.StringIO())
    show(table, console)
    said = console.export_text()
    for row in [*settings.rows, *differences.rows]:
        assert all(cell in said for cell in row)
    for row in table.rows:
        assert f"{row.name}: trial {row.number}, {row.configuration}" in said


def test_publishing_writes_every_file(group: Path) -> None:
    publish(group)
    assert (group / "table.png").read_bytes().startswith(b"\x89PNG")
    for name in ("table.md", "table.csv", "table.html"):
        text = (group / name).read_text()
        assert "C-A" in text


def test_picture_draws_what_the_table_holds(group: Path, tmp_path: Path) -> None:
    """Each row has an accuracy, its interval and its default, and there are learning curves next to
    them."""
    whole = draw(compare_settings(group), tmp_path / "whole.png")
    write_setting(tmp_path / "bare-A", "A", {0: []})
    bare = draw(compare_settings(tmp_path / "bare"), tmp_path / "bare.png")
    assert len(whole) > 1.5 * len(bare)


def test_group_page_has_the_table_and_each_setting(group: Path) -> None:
    page = write_group_report(group).read_text()
    table = compare_settings(group)
    rows = rows_of(page)
    for row in [*setting_cells(table).rows, *difference_cells(table).rows]:
        assert row in rows
    [difference] = table.differences
    assert f"C against A: {table.questions['C-A']}? {difference}" in html.unescape(page)
    for row in table.rows:
        assert f"<h2>{html.escape(row.setting)}</h2>" in page
    curves = [spec for spec in figures_of(page) if spec["data"][0].get("mode") == "lines"]
    assert len(curves) == 2
    assert page.count("Budget, failures, how to repeat it") == 2
