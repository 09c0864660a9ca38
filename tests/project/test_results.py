"""Figures in the documents equal the records in docs/results/."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks import experiment_page as figures
from tests import REPO
from tests.studies import POOR, finished
from tests.tune.cli.test_searches import MEANS, write_searches
from tune.formatting import DEFAULT


@pytest.fixture(scope="module")
def results() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results", REPO / "benchmarks" / "results.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["results"] = module
    spec.loader.exec_module(module)
    return module


def test_every_figure_of_the_documents_is_that_of_its_record(results: ModuleType) -> None:
    marked = set()
    for page in results.PAGES:
        text = page.read_text()
        marked |= {name for _, name, _, _ in results.MARKED.findall(text)}
        assert results.rendered(text) == text, f"{page}: run benchmarks/results.py render"
    assert marked >= {"ssl.cell", "ssl.sentence"}


@pytest.mark.parametrize("page", sorted((REPO / "docs").rglob("*.md")), ids=lambda page: page.name)
def test_no_text_follows_a_comment_that_begins_a_line(page: Path) -> None:
    """Markdown would take the rest of such a line as it is, and end the paragraph or the list."""
    assert re.findall(r"^\s*<!--.*?-->.+", page.read_text(), flags=re.MULTILINE) == []


TYPED = re.compile(r"(?<![\w.])\.\d{2,}")
COMMAND = re.compile(r"^ {4}.*\b(?:python|make)\b|`[^`]*\b(?:python|make)\b[^`]*`", re.MULTILINE)


def typed_figures(text: str) -> list[str]:
    """Return the figures such as `.905` that are neither rendered nor code."""
    text = re.sub(r"<!-- result: .*?<!-- end -->", "", text, flags=re.DOTALL)
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^ {4}(?! |- ).*", "", text, flags=re.MULTILINE)  # not a list in a list
    text = re.sub(r"`(?:[^`\n]|\n(?!\n))+`", "", text)
    return TYPED.findall(text)


@pytest.mark.parametrize(
    "page",
    [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))],
    ids=lambda page: page.name,
)
def test_no_measured_figure_of_a_page_for_users_is_typed(page: Path) -> None:
    """A figure comes from a record (`results.py render`) or is in the lab notes. A threshold or a
    default is written as code."""
    assert typed_figures(page.read_text()) == []


def test_rendered_figures_and_code_are_not_typed() -> None:
    code = "`.05` and\n```\n.91\n```\n    .92\n`a\n.96`\n"
    text = f"{code}<!-- result: a.b -->.93<!-- end --> 1.94 v.95\n"
    assert typed_figures(text) == []
    assert typed_figures(text + ".97 [-.021, .5]\n    - .98\n") == [".97", ".021", ".98"]


@pytest.mark.parametrize(
    "page", sorted((REPO / "docs/notes").glob("*.md")), ids=lambda page: page.name
)
def test_every_section_of_the_notes_names_the_command_of_its_figures(page: Path) -> None:
    head, *sections = re.split(r"^(?=## )", page.read_text(), flags=re.MULTILINE)
    missing = [
        section.partition("\n")[0]
        for section in (head, *sections)
        if typed_figures(section) and not COMMAND.search(head + section)
    ]
    assert missing == []


def test_a_comparison_is_recorded_and_rendered(results: ModuleType, tmp_path: Path) -> None:
    write_searches(tmp_path)
    found: dict[str, Any] = results.record("classify", tmp_path, "make table")
    assert json.loads(json.dumps(found)) == found
    rows = figures.comparison_settings(found).strip().split("\n")
    cells = [cell.strip() for cell in rows[2].strip("|").split("|")]
    low, high = stats.t.interval(0.95, 4, np.mean(MEANS["A"]), stats.sem(MEANS["A"]))
    expected = f"{np.mean(MEANS['A']):.3f} [{low:.3f}, {high:.3f}]".replace("0.", ".")
    assert cells[:2] == ["A: scratch, all trains", ".500"]
    assert cells[6] == expected
    assert cells[7] == f"{np.std(MEANS['A'], ddof=1):.3f}"[1:]

    assert figures.comparison_kept(found) == "0 of 25"
    found["settings"]["B"]["configurations"][2] = DEFAULT
    assert figures.comparison_kept(found) == "1 of 25"
    assert figures.NOT_RECORDED in figures.comparison_source(found)
    differences = figures.comparison_differences(found)
    assert "| C is better |" in differences
    assert "| E - D: the same, backbone frozen |" in differences
    assert "| not decided |" in differences


def test_tables_are_shown_side_by_side(results: ModuleType, tmp_path: Path) -> None:
    write_searches(tmp_path)
    whole: dict[str, Any] = results.record("classify", tmp_path, "make table")
    shorter = json.loads(json.dumps(whole)) | {"command": "shorter"}
    del shorter["settings"]["E"], shorter["questions"]["E-D"]

    header, _, *rows = figures.answers_of_tables([whole, shorter]).strip().split("\n")
    assert header == "| difference | `make table` | `shorter` |"
    cells = {row.split(":")[0].strip("| "): row.split(" | ")[1:] for row in rows}
    for name, (first, second) in cells.items():
        assert second.strip(" |") == ("not asked" if name == "E - D" else first)
    gains = np.subtract(MEANS["C"], MEANS["A"])
    low, high = stats.t.interval(0.95, 4, gains.mean(), stats.sem(gains))
    expected = f"{gains.mean():.3f} [{low:.3f}, {high:.3f}]: C is better".replace("0.", ".")
    assert cells["C - A"][0] == expected

    means = figures.means_of_tables([whole, shorter]).strip().split("\n")
    low, high = stats.t.interval(0.95, 4, np.mean(MEANS["A"]), stats.sem(MEANS["A"]))
    mean = f"{np.mean(MEANS['A']):.3f} [{low:.3f}, {high:.3f}]".replace("0.", ".")
    assert means[2] == f"| A: scratch, all trains | {mean} | {mean} |"
    assert means[-1].endswith(" | - |")


def test_what_searches_share_widens_the_intervals(results: ModuleType, tmp_path: Path) -> None:
    write_searches(tmp_path)
    found: dict[str, Any] = results.record("classify", tmp_path, "make table")
    for setting in found["settings"].values():
        setting["shared"] = 0.01**2
    found["sampling_variance"] = dict.fromkeys(found["questions"], 0.02**2)

    cell = figures.comparison_settings(found).strip().split("\n")[2].split("|")[7].strip()
    half = np.hypot(stats.t.ppf(0.975, 4) * stats.sem(MEANS["A"]), 0.01 * stats.norm.ppf(0.975))
    mean = np.mean(MEANS["A"])
    assert cell == f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]".replace("0.", ".")
    assert figures.NOT_RECORDED not in figures.comparison_source(found)

    row = next(
        line for line in figures.comparison_differences(found).split("\n") if "| C - A" in line
    )
    gains = np.subtract(MEANS["C"], MEANS["A"])
    half = np.hypot(stats.t.ppf(0.975, 4) * stats.sem(gains), 0.02 * stats.norm.ppf(0.975))
    assert f"[{gains.mean() - half:.3f}, {gains.mean() + half:.3f}]".replace("0.", ".") in row


def test_a_study_is_recorded_and_rendered(results: ModuleType, tmp_path: Path) -> None:
    study = finished(tmp_path, 4, repeats=3, base=POOR)
    found: dict[str, Any] = results.record("toy", tmp_path, "make run")
    number = study.best_number()
    scores = [m["test/top1"] for (n, _), m in study.finals().items() if n == number]
    assert found["scores"]["trial"] == scores
    assert len(found["scores"]["default"]) == 3
    gain = figures.study_estimates(found)["gain"]
    assert gain.mean == pytest.approx(np.mean(scores) - np.mean(found["scores"]["default"]))
    assert figures.study_cell(found).startswith(figures.short(np.mean(found["scores"]["default"])))
    assert figures.study_cell(found | {"answer": 0}).startswith("the default: ")
    assert "which validation prefers" in figures.study_sentence(found | {"answer": 0})


def test_studies_together_are_one_observation_each(results: ModuleType) -> None:
    """Against SciPy and NumPy. Both gains decide alone; their spread leaves nothing to decide."""

    def result(gain: float) -> dict[str, Any]:
        default = np.array([0.50, 0.52, 0.51, 0.49])
        trial = default + gain + np.array([0.001, -0.001, 0.002, -0.002])
        return {
            "scores": {"trial": trial.tolist(), "default": default.tolist()},
            "sampling_variance": {"trial": None, "default": None, "gain": None},
        }

    text = figures.studies_together([result(0.01), result(0.05)])

    low, high = stats.t.interval(0.95, 1, 0.03, stats.sem([0.01, 0.05]))
    assert f".030 [{low:.3f}, {high:.3f}]".replace("0.", ".") in text
    assert "2 of them decide alone, 2 with Holm over all" in text

    # four pairs: t(3) times the standard error of their differences
    half = stats.t.ppf(0.975, 3) * stats.sem([0.001, -0.001, 0.002, -0.002])
    text = figures.half_widths([result(0.01), result(0.05)])
    assert text == f"{half:.3f} to {half:.3f}".replace("0.", ".")


def test_tables_under_different_seeds_decide_nothing_in_opposite_ways(
    results: ModuleType,
) -> None:
    """docs/classify.md states this, and which questions are decided."""
    names = ("", "-seed1", "-control", "-long")
    today = {name: _verdicts(results, f"classify{name}") for name in names}
    rungs2 = {name: _verdicts(results, f"classify-rungs2{name}") for name in ("", "-seed1")}
    before = {name: _verdicts(results, f"classify-adam{name}") for name in ("", "-seed1")}
    same_default = [*today.values(), *rungs2.values()]
    for tables in (same_default, [*before.values()]):
        for question in before[""]:
            decided = {table[question] for table in tables} - {"not decided"}
            assert len(decided) <= 1, question

    better = {"C - B": "B is better", "E - D": "D is better", "B - A": "B is better"}
    for table in same_default:
        assert better.items() <= table.items()
    assert [table["C - A"] for table in rungs2.values()] == ["C is better", "not decided"]
    of_labels = [table["C - A"] for table in today.values()]
    assert of_labels == ["C is better", *["not decided"] * 3]
    assert _verdicts(results, "classify-both")["C - A"] == "not decided"
    for name in ("-control", "-long"):
        assert today[name]["C - A-long"] == "A-long is better"
    assert today["-long"]["B - A-long"] == "B is better"

    for table in before.values():
        assert {"C - B": "B is better", "E - D": "D is better"}.items() <= table.items()
        assert table["C - A"] == "not decided"
    assert [table["B - A"] for table in before.values()] == ["B is better", "not decided"]


def _verdicts(results: ModuleType, name: str) -> dict[str, str]:
    """Return the verdict of each question in a recorded table."""
    record = json.loads((REPO / f"docs/results/{name}.json").read_text())
    text = figures.comparison_differences(record)
    return dict(re.findall(r"^\| (\S+ - \S+): .* \| (.*) \|$", text, re.M))
