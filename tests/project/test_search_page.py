"""benchmarks/search_page.py and its parts: ratios against references, and words that follow from
intervals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks import evidence_page, search_page, search_words
from benchmarks import search_races_page as races
from benchmarks.search_records import Ratio, differences, ratios, ratios_over_tables
from benchmarks.search_regret import TUNED
from benchmarks.search_tables import REPORTED

rng = np.random.default_rng(0)
TEN, TWENTY = rng.exponential(10, (2000, 1)), rng.exponential(20, (2000, 1))


def test_interval_is_that_of_a_ratio_of_two_means() -> None:
    """The mean of N exponential variables has the relative error 1 / sqrt(N)."""
    ((ratio, low, high),) = ratios([TWENTY], [TEN])
    error = np.sqrt(2 / 2000)
    assert ratio == pytest.approx(TWENTY.mean() / TEN.mean())
    assert low == pytest.approx(ratio * np.exp(-1.96 * error), rel=0.01)
    assert high == pytest.approx(ratio * np.exp(1.96 * error), rel=0.01)


def test_shared_seeds_take_their_luck_out_of_the_interval() -> None:
    ((ratio, low, high),) = ratios([2 * TEN, 8 * TEN], [TEN, TEN], paired=True)
    assert (ratio, low, high) == pytest.approx((4, 4, 4))


def test_interval_over_tables_covers_what_tables_differ_by() -> None:
    """Tables without noise: their logarithms are resampled."""
    of_tables = np.exp(rng.normal(0, 0.3, 40))
    ones = np.ones((5, 1))
    ((ratio, low, high),) = ratios_over_tables([one * ones for one in of_tables], [ones] * 40)
    error = np.std(np.log(of_tables)) / np.sqrt(40)
    assert ratio == pytest.approx(stats.gmean(of_tables))
    assert low == pytest.approx(ratio * np.exp(-1.96 * error), rel=0.02)
    assert high == pytest.approx(ratio * np.exp(1.96 * error), rel=0.02)


def test_difference_has_the_interval_of_two_means() -> None:
    low, high = differences(TWENTY, TEN)[:, 0]
    expected = TWENTY.mean() - TEN.mean()
    half = 1.96 * np.sqrt(TWENTY.var() / 2000 + TEN.var() / 2000)
    assert low == pytest.approx(expected - half, abs=half / 10)
    assert high == pytest.approx(expected + half, abs=half / 10)


@pytest.mark.parametrize(
    ("ratio", "below", "above"),
    [
        (Ratio(0.8, 0.7, 0.99), True, False),
        (Ratio(0.8, 0.7, 0.996), False, False),  # printed as 1.00
        (Ratio(1.2, 1.004, 1.5), False, False),
        (Ratio(1.2, 1.01, 1.5), False, True),
    ],
)
def test_a_side_is_certain_if_the_printed_interval_excludes_one(
    ratio: Ratio, below: bool, above: bool
) -> None:
    assert (ratio.is_below, ratio.is_above) == (below, above)


def test_budgets_at_which_something_is_certain_are_named() -> None:
    less, same = Ratio(0.5, 0.4, 0.6), Ratio(1.0, 0.9, 1.1)
    found = {"one": [less, same, less], "another": [same] * 3, "third": [less] * 3}
    assert search_words.named_where(found, "is_below") == "one at 4 and 16; third at 4, 8 and 16"
    assert search_words.named_where(found, "is_above") == "none"


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of records, empty at first."""
    for module in (evidence_page, search_words):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    return tmp_path


SEEDS = search_words.FEWEST
HEAD = {"command": "python x.py", "commit": "abc", "machine": "two cores", "date": "2026-01-01"}


def test_what_has_no_record_is_named(records: Path) -> None:
    for name in (
        "rungs.page",
        "rungs.notes",
        "rungs.errors",
        "efficiency.page",
        "efficiency.notes",
    ):
        script = f"python benchmarks/search_{name.partition('.')[0]}.py --record"
        assert f"not recorded (`{script}`)" in search_page.FIGURES[f"search_{name}"]()


def test_few_seeds_are_no_measurement(records: Path) -> None:
    record = {**HEAD, "seeds": SEEDS - 1, "most_trials": 30, "searches": []}
    (records / "search_efficiency.json").write_text(json.dumps(record))
    assert "search_efficiency.py --record" in search_page.FIGURES["search_efficiency.page"]()


def test_words_on_trials_to_a_good_value_follow_the_record(records: Path) -> None:
    def entry(searcher: str, trials: int, epochs: int) -> dict[str, Any]:
        both = {"trials": [trials] * SEEDS, "epochs": [epochs] * SEEDS}
        return {"part": "curves", "table": "head-glyphs", "searcher": searcher, **both}

    peers = [entry(name, 20, 25) for name in races.RACED]
    record = {
        **HEAD,
        "seeds": SEEDS,
        "most_trials": 30,
        "searches": [entry("study", 10, 50), *peers],
    }
    (records / "search_efficiency.json").write_text(json.dumps(record))
    said = races.efficiency_page()
    assert "| random search, nothing stopped | .50 [.50, .50] | 2.00 [2.00, 2.00] |  |" in said
    fewer, more = said.split("It certainly needs more than: ")
    assert "random search (trials on curves)" in fewer
    assert more.startswith("random search (epochs on curves)")
    assert "Not decided: none." in more
    assert "20.0, 25 (100 %)" in races.efficiency_notes()


def test_words_on_versions_of_the_rungs_follow_the_record(records: Path) -> None:
    regret = {2: 0.4, 3: 0.2, 4: 0.2}
    searches = [
        {
            "tables": tables,
            "change": change,
            "table": "head-glyphs",
            "version": version,
            "regrets": [[of, of, of]] * SEEDS if change != "best default" else [],
            "trainings": [version + 1.0] * SEEDS,
            "alone": [int(version == 2), 0] * (SEEDS // 2),
        }
        for tables in races.GROUPS
        for change in races.CHANGES
        for version, of in regret.items()
    ]
    errors = [
        {"version": version, "correlation": true, "off": [0.25, 0.5]}
        for version in (3, 4)
        for true in (0.9, 0.5, 0.0)
    ]
    record = {**HEAD, "seeds": SEEDS, "studies": 8, "errors": errors, "searches": searches}
    (records / "search_rungs.json").write_text(json.dumps(record))
    said = races.rungs_page()
    assert "| .50 [.50, .50] | 1.00 [1.00, 1.00] | 3.0, 4.0, 5.0 | 50 %, 0 %, 0 % |" in said
    assert "less regret than version 2 on: the three grids, as recorded at 4, 8 and 16" in said
    assert "less regret than version 3 on: none. Certainly more: none." in said
    assert "in 8 simulated studies of 16 trials" in races.rungs_errors()
    assert "was off at some time in 25 %" in races.rungs_errors()
    assert "| version 4, 1/6 | .50 | .50 | .50 |" in races.rungs_notes()


def test_a_peer_is_shown_on_the_tables_that_it_was_run_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HEBO on the tables for reporting alone; a peer with few seeds is left out."""
    done = {
        (who, table, seed): [regret] * 3
        for who, regret, tables, seeds in (
            ("study", 0.1, (*TUNED, *REPORTED), SEEDS),
            ("random", 0.2, (*TUNED, *REPORTED), SEEDS),
            ("HEBO", 0.4, REPORTED, SEEDS),
            ("DEHB", 0.4, (*TUNED, *REPORTED), SEEDS - 1),
        )
        for table in tables
        for seed in range(seeds)
    }
    monkeypatch.setattr(search_page, "read", lambda _: done)
    rows = search_page.peers_table().split("\n")[2:]
    half, quarter = (", ".join([f"{x} [{x}, {x}]"] * 3) for x in (".50", ".25"))
    assert rows == [
        f"| HEBO 0.3.6, nothing stopped | not run | {quarter} |",
        f"| random search, nothing stopped | {half} | {half} |",
    ]
    on_reported, on_tuned = search_page.peers_told().split("\n\n")
    assert "HEBO at 4, 8 and 16" in on_reported
    assert "HEBO" not in on_tuned
