"""Fill the tables of docs/notes/evidence.md from the records in docs/results/.

    python benchmarks/evidence_page.py

A table stands between `<!-- name -->` and `<!-- end -->`. A test compares the page with the
records.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.figure_text import decimal, markdown

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/notes/evidence.md"
RESULTS = ROOT / "docs/results"
TASKS = ("digits", "letters")
SHOWN = ("* paired by replicate", "not paired (Welch)", "pooled if Bartlett p > .1", "version 1")
"""Prefixes of the rules whose power for settings is shown. The records contain all rules."""

Entry = dict[str, Any]


def records(name: str) -> Entry:
    """Return the content of a file of results."""
    found: Entry = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def every(name: str, part: str) -> list[Entry]:
    """Return a part of a benchmark's records, over all tasks."""
    return [row for task in TASKS for row in records(f"{name}_{task}")[part]]


def share(value: float) -> str:
    """Format a share as on the page: .052."""
    return decimal(value, 3)


def signed(interval: list[float], scale: float = 1.0) -> str:
    """Format a value with its interval."""
    value, low, high = (f"{scale * x:+.4f}".replace("0.", ".", 1) for x in interval)
    return f"{value} [{low}, {high}]"


def _rows(claim: str) -> list[Entry]:
    return [row for row in every("verdict_calibration", "rows") if row["claim"] == claim]


def _false(rows: list[Entry]) -> str:
    """Format the worse of two tasks, with its upper bound."""
    worst = max(rows, key=lambda row: row["false_share"])
    return f"{share(worst['false_share'])} [{share(worst['false_bounds'][1])}]"


def _null(claim: str, design: Callable[[str], bool]) -> str:
    """Return a table of cases x rules."""
    rows = [row for row in _rows(claim) if not row["shift"] and design(row["design"])]
    rules = list(dict.fromkeys(row["rule"] for row in rows))
    cases = dict.fromkeys(row["case"] for row in rows)
    lines = []
    for case in cases:
        cells = []
        for rule in rules:
            some = [row for row in rows if (row["case"], row["rule"]) == (case, rule)]
            cells.append(_false(some) if some else "")
        lines.append([case, *cells])
    return markdown(["share of false decisions", *rules], lines)


def _power(claim: str, shown: tuple[str, ...] = ("",)) -> str:
    """Return a table of rules and designs x differences, for both tasks."""
    rows = [row for row in _rows(claim) if row["shift"] and row["rule"].startswith(shown)]
    shifts = sorted({row["shift"] for row in rows})
    lines = []
    for key in dict.fromkeys((row["case"], row["design"], row["rule"]) for row in rows):
        cells = []
        for shift in shifts:
            powers = {
                row["task"]: row["power"]
                for row in rows
                if (row["case"], row["design"], row["rule"], row["shift"]) == (*key, shift)
            }
            cells.append(", ".join(share(powers[task]) for task in TASKS))
        lines.append([key[0].removesuffix(", C better"), *key[1:], *cells])
    differences = [f"difference {share(shift).rstrip('0')}" for shift in shifts]
    return markdown(["case", "design", f"power, {', '.join(TASKS)}", *differences], lines)


def _opposite() -> str:
    shown = (*SHOWN, "* paired", "paired, .05 at every look")
    every_row = [row for row in _rows("settings") if not row["shift"]]
    rows = [row for row in every_row if row["rule"].startswith(shown)]
    lines = []
    for design, rule in dict.fromkeys((row["design"], row["rule"]) for row in rows):
        some = [row for row in rows if (row["design"], row["rule"]) == (design, rule)]
        worst = max(some, key=lambda row: row["opposite_share"])
        lines.append([design, rule, f"{worst['opposite_share']:.4f}".removeprefix("0")])
    return markdown(["design", "rule", "pairs of tables in opposite ways, worst case"], lines)


def _seeds() -> str:
    lines = [
        [
            row["task"],
            split,
            share(row[split]["seed_sd"]),
            f"{row[split]['common_share']:.0%}",
        ]
        for row in every("search_luck", "seeds")
        for split in ("validation", "test")
    ]
    header = ["task", "split", "sd between seeds", "of its variance common to all configurations"]
    return markdown(header, lines)


def _one_or_each() -> str:
    lines = []
    for row in every("search_luck", "searches"):
        if row["seeds"] == "each - one":
            name = f"{row['task']}, {row['sampler']}"
            lines.append([name, str(row["trials"]), signed(row["true_test"]), signed(row["fall"])])
    header = [
        "a seed each, minus one for all",
        "trials",
        "true test accuracy of the choice",
        "fall",
    ]
    return markdown(header, lines)


def _falls() -> str:
    rows = every("search_luck", "searches")
    lines = []
    for key in dict.fromkeys((row["task"], row["sampler"], row["trials"]) for row in rows):
        some = {
            row["seeds"]: row for row in rows if (row["task"], row["sampler"], row["trials"]) == key
        }
        falls = [signed(some[seeds]["fall"]) for seeds in ("one", "each")]
        lines.append([f"{key[0]}, {key[1]}", str(key[2]), *falls])
    header = ["search", "trials", "fall, one seed for all", "fall, a seed each"]
    return markdown(header, lines)


def _epochs() -> str:
    """Return the epochs of a search by the study, with one seed for all trials."""
    lines = []
    for row in every("search_luck", "searches"):
        if row["sampler"] == "study" and row["seeds"] == "one":
            whole = 12 * row["trials"]
            lines.append([row["task"], str(row["trials"]), f"{row['epochs']:.0f}", str(whole)])
    return markdown(["task", "trials", "epochs of a search", "without stopping any"], lines)


def _budgets() -> str:
    rows = every("search_luck", "budgets")
    lines = []
    for trials in sorted({row["trials"] for row in rows}):
        cells = []
        for task in TASKS:
            row = next(r for r in rows if (r["task"], r["trials"]) == (task, trials))
            cells += [share(row["true_test"]), share(row["sd_between_searches"])]
        lines.append([str(trials), *cells])
    header = ["trials of a search"]
    for task in TASKS:
        header += [f"{task}: mean of the choice", "sd between searches"]
    return markdown(header, lines)


def _shared() -> str:
    rows = records("shared_draws")["rows"]
    lines = [[str(row["trials"]), f"{row['correlation']:.2f}".removeprefix("0")] for row in rows]
    return markdown(["trials", "correlation of the best"], lines)


def _overlap() -> str:
    lines = [
        [share(row["share"]), share(row["held"]), share(row["held_by_spread_alone"])]
        for row in records("table_intervals")["overlap"]
    ]
    header = ["share of the pool in a test set", "intervals that hold", "by the spread alone"]
    return markdown(header, lines)


def _backbone() -> str:
    rows = records("table_intervals")["backbone"]
    lines = []
    for searches in dict.fromkeys(row["searches"] for row in rows):
        some = [row for row in rows if row["searches"] == searches]
        held = min(row["held"] for row in some)
        lines.append([str(searches), share(held), *(share(row["told"]) for row in some)])
    shares = dict.fromkeys(row["share"] for row in rows)
    header = ["searches", "intervals that hold, least"]
    return markdown([*header, *(f"told at {part:.0%}" for part in shares)], lines)


def _bands() -> str:
    lines = [
        [
            str(row["draws"]),
            share(row["held"]),
            share(row["width"]),
            share(row["width_ks"]),
            f"{row['bounded']:.0f}",
            f"{row['bounded_ks']:.0f}",
            f"{row['cpu_seconds']:.1f}",
        ]
        for row in records("table_intervals")["bands"]
    ]
    header = ["trials", "bands that hold", "mean width", "of Kolmogorov and Smirnov"]
    header += ["bounded above up to the best of", "of Kolmogorov and Smirnov", "CPU s"]
    return markdown(header, lines)


TABLES: dict[str, Callable[[], str]] = {
    "settings, false": lambda: _null("settings", lambda design: design.startswith("5 x (4")),
    "settings, false, long": lambda: _null("settings", lambda d: d.startswith(("5 x (12", "8 x"))),
    "settings, looks": lambda: _null("settings", lambda design: design.startswith("11")),
    "settings, version 1": lambda: _null("settings", lambda design: design.startswith("1 x")),
    "settings, power": lambda: _power("settings", SHOWN),
    "settings, opposite": _opposite,
    "configurations, false": lambda: _null("configurations", lambda design: True),
    "search, false": lambda: _null("best against default", lambda design: True),
    "search, power": lambda: _power("best against default"),
    "seeds": _seeds,
    "one or each": _one_or_each,
    "falls": _falls,
    "budgets": _budgets,
    "epochs": _epochs,
    "shared draws": _shared,
    "overlap": _overlap,
    "backbone part": _backbone,
    "bands": _bands,
}


def filled(page: str) -> str:
    """Return the page with its tables filled from the records."""

    def table(found: re.Match[str]) -> str:
        return f"<!-- {found[1]} -->\n\n{TABLES[found[1]]()}\n\n<!-- end -->"

    return re.sub(r"<!-- ([\w, ]+) -->\n.*?<!-- end -->", table, page, flags=re.DOTALL)


def main() -> None:
    page = PAGE.read_text()
    new = filled(page)
    PAGE.write_text(new)
    print(f"{PAGE}: {'as it was' if new == page else 'changed'}", file=sys.stderr)


if __name__ == "__main__":
    main()
