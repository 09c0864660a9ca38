"""benchmarks/search_misled.py: pairs, starts that mislead by design, and the report."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import search_misled
from benchmarks.search_misled import pairs_of, points_of, report, table_of
from benchmarks.search_tables import RELATED
from tune.search.space import contains


def test_every_pair_is_chosen_or_reported_once() -> None:
    chosen, reported = pairs_of("chosen"), pairs_of("reported")
    assert not set(chosen) & set(reported)
    assert set(RELATED) <= {*chosen, *reported}
    assert ("random", "credit_g") in reported
    assert ("vehicle", "credit_g") in chosen


def test_starts_that_mislead_are_configurations_of_the_table() -> None:
    table = table_of("head-glyphs")
    median = np.median(table.values)
    for source in ("random", "inverted"):
        points = points_of(source, "head-glyphs", 0)
        assert len(points) == 3
        assert all(contains(table.space, "", point) for point in points)
    assert all(max(table.curve(point)) < median for point in points)


def test_report_compares_means_with_those_of_a_cold_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["start,source,table,seed,trials,epochs"]
    for seed in range(3):
        lines.append(f"cold,,head-glyphs,{seed},20,100")
        lines.append(f"1,head-digits,head-glyphs,{seed},30,50")
        lines.append(f"2,head-digits,head-glyphs,{seed},10,50")
    monkeypatch.setattr(search_misled, "RECORD", tmp_path / "record.csv")
    (tmp_path / "record.csv").write_text("\n".join(lines) + "\n")
    report([("head-digits", "head-glyphs")])
    said = capsys.readouterr().out
    assert "cold 20.0   1: 1.50 [1.50, 1.50], epochs .50 [.50, .50], 3 seeds" in said
    assert "related, 1: 1.50, worst 1.50, above 1.10 1 of 1, for certain 1" in said
    assert "related, 2: 0.50, worst 0.50, above 1.10 0 of 1, for certain 0" in said
