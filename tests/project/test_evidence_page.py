"""The tables of docs/notes/evidence.md equal the records, and the records hold what
docs/evidence.md promises."""

import pytest

from benchmarks.evidence_page import PAGE, TABLES, every, filled, records

NULL = [row for row in every("verdict_calibration", "rows") if row["used"] and not row["shift"]]


def test_tables_are_those_of_the_records() -> None:
    page = PAGE.read_text()
    assert filled(page) == page
    for name in TABLES:
        assert f"<!-- {name} -->" in page


def test_a_changed_figure_is_noticed() -> None:
    page = PAGE.read_text()
    changed = page.replace("| 4 | ", "| 5 | ", 1)
    assert changed != page
    assert filled(changed) == page


@pytest.mark.parametrize(
    "row", NULL, ids=lambda row: f"{row['task']}: {row['case']}: {row['rule']}"
)
def test_rules_in_use_keep_their_promise(row: dict[str, object]) -> None:
    """The upper bound of the share of false decisions is at most .06."""
    bounds = row["false_bounds"]
    assert isinstance(bounds, list)
    assert bounds[1] <= 0.06


@pytest.mark.parametrize("task", ["digits", "letters"])
@pytest.mark.parametrize("name", ["verdict_calibration", "search_luck"])
def test_records_say_how_they_were_made(name: str, task: str) -> None:
    found = records(f"{name}_{task}")
    assert found["command"].startswith(f"python benchmarks/{name}.py")
    assert found["commit"]
    assert found["machine"]
    assert found["date"]
