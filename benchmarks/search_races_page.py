"""Figures of docs/search.md on versions of the rungs and on trials to a good value, from
docs/results/search_rungs.json and search_efficiency.json.

Without a record a figure says so.
"""

from collections.abc import Callable

import numpy as np

from benchmarks.evidence_page import records
from benchmarks.figure_text import decimal, listed, markdown, without_zeros
from benchmarks.search_records import Ratio, ratios
from benchmarks.search_regret import BUDGETS, OURS
from benchmarks.search_words import named_where, recorded, source, table_name

RACED = {
    "random search": "random search, nothing stopped",
    "OptunaSearch + ASHA": "Ray's OptunaSearch + ASHA",
    "Optuna, halving": "Optuna, successive halving",
    "Optuna, Hyperband": "Optuna, Hyperband",
    "Optuna, median": "Optuna, median pruner",
}
"""Searcher of `search_efficiency.py` -> its name on the page."""
CHANGES = {
    "none": "as recorded",
    "slow start": "slow start",
    "best default": "best default",
}
GROUPS = {"tuned": "the three grids", "reported": "two other grids"}


# -- versions of the rungs


def _of_rungs(tables: str, change: str, version: int, part: str) -> np.ndarray:
    """Return the values of a version, (tables, seeds, ...)."""
    searches = records("search_rungs")["searches"]
    keys = {"tables": tables, "change": change, "version": version}
    return np.array([one[part] for one in searches if keys.items() <= one.items()])


def _rungs(tables: str, change: str, earlier: int) -> list[Ratio]:
    """Return the regret of version 4 over that of an earlier version."""
    sides = [_of_rungs(tables, change, version, "regrets") for version in (4, earlier)]
    return ratios(*sides, paired=True)


def rungs_table() -> str:
    """Return regret after the largest budget, and costs, of versions 2, 3 and 4."""
    header = [
        "grids",
        f"regret after {BUDGETS[-1]}, version 4 over 2",
        "over 3",
        "trainings, versions 2, 3, 4",
        "only the default, versions 2, 3, 4",
    ]
    rows = []
    for change, about in CHANGES.items():
        for tables, group in GROUPS.items():
            cells = ["", ""]
            if change != "best default":
                cells = [str(_rungs(tables, change, earlier)[-1]) for earlier in (2, 3)]
            for part, scale, form in (("trainings", 1, "{:.1f}"), ("alone", 100, "{:.0f} %")):
                means = [_of_rungs(tables, change, version, part).mean() for version in (2, 3, 4)]
                cells.append(", ".join(form.format(scale * mean) for mean in means))
            rows.append([f"{group}, {about}", *cells])
    return markdown(header, rows)


def rungs_budgets() -> str:
    """Return the regret of version 4 over that of versions 2 and 3, after each budget."""
    rows = []
    for change in CHANGES:
        if change == "best default":
            continue
        for tables, group in GROUPS.items():
            cells = [", ".join(map(str, _rungs(tables, change, one))) for one in (2, 3)]
            rows.append([f"{group}, {CHANGES[change]}", *cells])
    return markdown(["grids", "version 4 over 2: 4, 8, 16", "over 3: 4, 8, 16"], rows)


def rungs_told() -> str:
    """Say where version 4 certainly has less or more regret than an earlier one."""
    said = []
    for earlier in (2, 3):
        found = {
            f"{group}, {CHANGES[change]}": _rungs(tables, change, earlier)
            for change in CHANGES
            if change != "best default"
            for tables, group in GROUPS.items()
        }
        less, more = (named_where(found, side) for side in ("is_below", "is_above"))
        said.append(
            f"Version 4 has certainly less regret than version {earlier} on: {less}. "
            f"Certainly more: {more}."
        )
    return " ".join(said)


def rungs_page() -> str:
    """Return the paragraph of docs/search.md."""
    about = source(recorded("search_rungs"))
    return f"{rungs_table()}\n\n{rungs_told()}\n\n{about}."


def rungs_notes() -> str:
    """Return the tables of the notes."""
    about = f"{source(recorded('search_rungs'))}."
    return f"{about}\n\n{rungs_budgets()}\n\n{rungs_errors_table()}"


def rungs_errors() -> str:
    """Say how often the check switches the first rung off, by its true correlation."""
    record = recorded("search_rungs")
    off = {one["correlation"]: one["off"][0] for one in record["errors"] if one["version"] == 4}
    some = [(0.9, "a first rung with a true correlation of"), (0.5, "one of"), (0.0, "one of")]
    said = [
        f"{words} {without_zeros(f'{true:g}')} was off at some time in {100 * off[true]:.0f} %"
        for true, words in some
    ]
    return f"in {record['studies']} simulated studies of 16 trials, {listed(said)}"


def rungs_errors_table() -> str:
    """Return how often a rung was off, by version, rung and true correlation."""
    record = records("search_rungs")
    found = {(one["version"], one["correlation"]): one["off"] for one in record["errors"]}
    trues = list(dict.fromkeys(true for _, true in found))
    rows = [
        [f"version {version}, {rung}", *(decimal(found[version, true][index]) for true in trues)]
        for version in (3, 4)
        for index, rung in enumerate(("1/12", "1/6"))
    ]
    return markdown(["true correlation", *(without_zeros(f"{true:g}") for true in trues)], rows)


# -- trials and epochs to a good value


def _raced(part: str, searcher: str) -> list[np.ndarray]:
    """Return trials and epochs of a searcher, (seeds, 2) for each table."""
    return [
        np.stack([one["trials"], one["epochs"]], 1)
        for one in records("search_efficiency")["searches"]
        if (one["part"], one["searcher"]) == (part, searcher)
    ]


def _race_ratios(part: str, searcher: str) -> list[Ratio]:
    """Return our trials and epochs over those of a searcher; empty if it was not run."""
    theirs = _raced(part, searcher)
    return ratios(_raced(part, OURS), theirs) if theirs else []


def efficiency_table() -> str:
    rows = []
    for name, about in RACED.items():
        curves = _race_ratios("curves", name)
        final = _race_ratios("final values", name)
        rows.append([about, *map(str, curves), *(map(str, final[:1]) if final else [""])])
    return markdown(["peer", "curves: trials", "curves: epochs", "final values: trials"], rows)


def efficiency_told() -> str:
    """Say in what a search certainly needs more or less than ours."""
    said = []
    for title, holds in (
        ("vistune certainly needs fewer than", lambda ratio: ratio.is_below),
        ("It certainly needs more than", lambda ratio: ratio.is_above),
        ("Not decided", lambda ratio: not ratio.is_below and not ratio.is_above),
    ):
        where = {name: _costs_where(name, holds) for name in RACED}
        some = [f"{name} ({costs})" for name, costs in where.items() if costs]
        said.append(f"{title}: {'; '.join(some) or 'none'}.")
    return " ".join(said)


def _costs_where(searcher: str, holds: Callable[[Ratio], bool]) -> str:
    """Name the costs whose ratio has a property: `trials and epochs on curves`."""
    found = []
    for part, costs in (("curves", ("trials", "epochs")), ("final values", ("trials",))):
        pairs = zip(costs, _race_ratios(part, searcher), strict=False)
        if some := [cost for cost, ratio in pairs if holds(ratio)]:
            found.append(f"{listed(some)} on {part}")
    return ", ".join(found)


def efficiency_page() -> str:
    """Return the paragraph of docs/search.md."""
    record = recorded("search_efficiency")
    about = f"{source(record)}; at most {record['most_trials']} trials a search."
    return f"{efficiency_table()}\n\n{efficiency_told()}\n\n{about}"


def efficiency_notes() -> str:
    """Return the table of the notes."""
    about = source(recorded("search_efficiency"))
    return f"{about}.\n\n{efficiency_means()}"


def efficiency_means() -> str:
    """Return mean trials, and epochs where they differ, of every searcher on every table."""
    record = records("search_efficiency")
    most = record["most_trials"]
    searchers = [OURS, *RACED]
    rows = []
    for name in dict.fromkeys(one["table"] for one in record["searches"]):
        here = {one["searcher"]: one for one in record["searches"] if one["table"] == name}
        cells = []
        for searcher in searchers:
            one = here.get(searcher)
            if one is None:
                cells.append("")
                continue
            reached = np.mean([trials <= most for trials in one["trials"]])
            mean = f"{np.mean(one['trials']):.1f}"
            if one["part"] == "curves":
                mean += f", {np.mean(one['epochs']):.0f}"
            cells.append(f"{mean} ({100 * reached:.0f} %)")
        rows.append([table_name(name), *cells])
    return markdown(["mean trials, epochs (arrived)", *searchers], rows)
