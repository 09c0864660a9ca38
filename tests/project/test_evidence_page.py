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
    """The share of false decisions is at most .05, and its upper bound at most .06. At most .005 of
    pairs of tables decide in opposite ways."""
    bounds = row["false_bounds"]
    assert isinstance(bounds, list)
    assert bounds[1] <= 0.06
    assert round(float(row["false_share"]), 3) <= 0.05  # type: ignore[arg-type]
    assert float(row["opposite_share"]) <= 0.005  # type: ignore[arg-type]


@pytest.mark.parametrize(("design", "least"), [("5 x (4 + 1)", 0.2), ("5 x (12 + 3)", 0.33)])
def test_a_difference_of_five_points_is_found_often_enough(design: str, least: float) -> None:
    """In `make table`, and in its long form."""
    rows = [
        row
        for row in every("verdict_calibration", "rows")
        if row["design"] == design
        and row["rule"] == "* paired by replicate"
        and row["shift"] == 0.05
    ]
    assert len(rows) >= 8
    assert min(row["power"] for row in rows) >= least


def test_intervals_of_tables_hold_what_they_promise() -> None:
    found = records("table_intervals")
    for row in found["overlap"]:
        assert row["held"] >= 0.94 > row["held_by_spread_alone"]
    for row in found["backbone"]:
        assert row["held"] >= 0.94
        assert row["share"] or row["told"] <= 0.04
    for row in found["bands"]:
        assert row["held"] >= 0.94
        assert row["width"] < row["width_ks"]
    assert found["command"] == "python benchmarks/table_intervals.py"


@pytest.mark.parametrize("task", ["digits", "letters"])
@pytest.mark.parametrize("name", ["verdict_calibration", "search_luck"])
def test_records_say_how_they_were_made(name: str, task: str) -> None:
    found = records(f"{name}_{task}")
    assert found["command"].startswith(f"python benchmarks/{name}.py")
    assert found["commit"]
    assert found["machine"]
    assert found["date"]
