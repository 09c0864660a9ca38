"""benchmarks/search_priors.py: a prior from other data sets, and its comparison."""

from pathlib import Path

import pytest

from benchmarks import search_priors
from benchmarks.search_priors import COLD, PRIOR, prior_of, report
from benchmarks.search_regret import CONTESTANTS, regrets
from benchmarks.search_tables import tables
from tune.search.space import contains


def test_a_prior_is_chosen_without_the_table_itself() -> None:
    letters, digits, earth = tables(["head-glyphs", "head-digits", "head-earth"])
    points = prior_of(earth)
    assert len(points) == 3
    assert all(contains(earth.space, "", point) for point in points)
    # Both tables have trained all points, and each point is among their best tenth.
    for table in (letters, digits):
        best_tenth = sorted(table.values)[-len(table.values) // 10]
        assert all(max(table.curve(point)) >= best_tenth for point in points)


def test_a_study_with_a_prior_is_nearer_to_the_best_after_four_trainings() -> None:
    (table,) = tables(["head-glyphs"])
    cold, prior = (regrets(CONTESTANTS[name](table, 0), table) for name in (COLD, PRIOR))
    assert prior[0] < cold[0]


def test_report_compares_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["contestant,table,seed,after 4,after 8,after 16,cpu_s"]
    for seed in range(3):
        lines.append(f"cold,head-earth,{seed},0.4,0.2,0.1,1")
        lines.append(f"prior,head-earth,{seed},0.2,0.3,0.1,1")
    monkeypatch.setattr(search_priors, "RECORD", tmp_path / "record.csv")
    (tmp_path / "record.csv").write_text("\n".join(lines) + "\n")
    report()
    said = capsys.readouterr().out
    assert "4: 0.400 -> 0.200 (-0.200 [-0.200, -0.200])" in said
    assert "ratio: 4: .50 [.50, .50]   8: 1.50 [1.50, 1.50]   16: 1.00" in said
