"""Words for figures of docs/search.md that depend on the figures."""

from collections.abc import Iterable, Mapping, Sequence

from benchmarks.evidence_page import RESULTS, Entry, records
from benchmarks.figure_text import listed
from benchmarks.record_file import NotRecordedError
from benchmarks.search_records import Ratio
from benchmarks.search_regret import BUDGETS

FEWEST = 10
"""Seeds below which a bootstrap is too narrow to call anything certain."""
TABLES = {
    "head-glyphs": "frozen head, letters",
    "head-digits": "frozen head, digits",
    "head-earth": "frozen head, earth",
    "scratch-digits": "from scratch, digits",
    "scratch-earth": "from scratch, earth",
}
"""Recorded grid -> its name on the page. Other tables keep their own."""


def budgets_where(holds: Iterable[bool]) -> str:
    """Name the budgets at which something holds: `at 4 and 8`; nothing if at none."""
    found = [budget for budget, here in zip(BUDGETS, holds, strict=True) if here]
    return f"at {listed(found)}" if found else ""


def named_where(ratios_of: Mapping[str, Sequence[Ratio]], side: str) -> str:
    """Name everything with a ratio certainly on a side, with the budgets; "none" if nothing is."""
    found = {
        name: budgets_where(getattr(ratio, side) for ratio in row)
        for name, row in ratios_of.items()
    }
    return "; ".join(f"{name} {where}" for name, where in found.items() if where) or "none"


def source(record: Entry) -> str:
    """Name command, commit, machine, date and seeds of a record."""
    return (
        f"`{record['command']}`, {record['seeds']} seeds; commit {record['commit']}, "
        f"{record['machine']}, {record['date']}"
    )


def recorded(name: str) -> Entry:
    """Return a record with enough seeds for an interval.

    Raises:
        NotRecordedError: there is none.
    """
    if (RESULTS / f"{name}.json").exists():
        found = records(name)
        if found["seeds"] >= FEWEST:
            return found
    raise NotRecordedError(f"python benchmarks/{name}.py --record")


def table_name(name: str) -> str:
    return TABLES.get(name, name)
