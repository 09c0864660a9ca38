"""The comparison table as text: cells, notes, Markdown, CSV, and tables on the terminal."""

import csv
import io
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.table import Table

from tune.formatting import plain_console
from tune.reports.comparison_table import ComparisonTable, Difference, TableRow
from tune.reports.config_differences import config_differences, same_data
from tune.reports.marks import marks
from tune.reports.sampling_error import MISSING
from tune.reports.statistics import Interval, significance

_FILE_WIDTH = 150  # columns, if the output is not a terminal

_CSV_HEADER = (
    "row",
    "estimate",
    "low",
    "high",
    "p",
    "p_holm",
    "seeds",
    "trials",
    "epochs",
    "minutes",
    "chosen_trial",
    "backbone",
)


@dataclass(frozen=True)
class Cells:
    """A table of strings."""

    header: list[str]
    rows: list[list[str]]


class WithDifferences(Protocol):
    """A table of settings, over one search or several."""

    @property
    def questions(self) -> Mapping[str, str]:
        """Name of a difference -> the question that it answers."""

    @property
    def differences(self) -> list[Difference]:
        """The answers to these questions."""


def setting_cells(table: ComparisonTable) -> Cells:
    """Return one row per setting."""
    header = [
        "setting",
        "test accuracy",
        "95 % interval",
        "default",
        "trials",
        "epochs",
        "minutes",
        "backbone",
    ]
    references = table.comparison.references
    if references:
        header.append(table.comparison.reference_title)

    rows = []
    for row in table.rows:
        cells = [
            row.setting,
            _mean(row.accuracy),
            "-" if row.accuracy is None else interval_range(row.accuracy),
            _mean(row.default),
            str(len(row.record.trials)),
            str(row.record.epochs),
            f"{row.minutes:.1f}",
            row.backbone,
        ]
        if references:
            percents = references.get(row.name, ())
            cells.append(" / ".join(f"{percent:g}" for percent in percents) or "-")
        rows.append(cells)
    return Cells(header, rows)


def difference_cells(table: WithDifferences) -> Cells:
    """Return one row per difference."""
    header = ["difference", "question", "estimate", "95 % interval", "p", "p (Holm)", "verdict"]
    rows = []
    for difference in table.differences:
        gain = difference.gain
        cells = [
            difference.name,
            table.questions[difference.name],
            f"{gain.mean:+.3f}",
            interval_range(gain),
            f"{gain.p:.3g}",
            f"{difference.p_holm:.3g}",
            difference.verdict,
        ]
        rows.append(cells)
    return Cells(header, rows)


def interval_range(interval: Interval) -> str:
    """Format the bounds of an interval with three decimals."""
    return f"{interval.low:.3f} to {interval.high:.3f}"


def _mean(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.mean:.3f}"


def _about_images(table: ComparisonTable) -> str:
    if table.covers_images:
        return "and another draw of test images"
    return f"alone: {MISSING}"


def notes(table: ComparisonTable) -> list[str]:
    """Explain how to read the table."""
    judged = table.judged
    seeds = " or ".join(str(count) for count in sorted({row.seeds for row in judged}))
    said = [
        f"Test accuracy: mean over {seeds or 'no'} fresh seeds of the chosen configuration; "
        "nothing else has used the test split.",
        "One search of each setting: a verdict is about these two configurations, in this search. "
        "Another search would find others, so it says nothing about the settings "
        "(`table --with` compares settings, over searches).",
        "Intervals cover the randomness of training (paired t where seeds are common, else "
        f"Welch's) {_about_images(table)}. Holm's p-values hold for all "
        f"{len(table.comparison.questions)} questions at once, and decide below "
        f"{significance(1):.2g}.",
    ]
    if table.comparison.reference_note:
        said.append(table.comparison.reference_note)

    for row in table.rows:
        said += [f"{row.name}: {mark}." for mark in marks(row.record.manifest)]
    for row in judged[1:]:
        said += _difference_notes(table, judged[0], row)

    if table.missing:
        missing = ", ".join(table.missing)
        said.append(f"Without repeats so far: {missing}. `{table.command}` resumes them.")
    return said


def _difference_notes(table: ComparisonTable, first: TableRow, other: TableRow) -> list[str]:
    """Warn about two settings whose searches differ in more than the setting."""
    found = config_differences(first.record, other.record, table.comparison)
    if not found:
        return []
    note = f"{first.name} and {other.name} were not searched in the same way: {', '.join(found)}"
    if not same_data(first.record, other.record):
        note += ", so their difference would mean nothing and is left out"
    return [f"{note}."]


def chosen_configurations(table: ComparisonTable) -> list[str]:
    """Return one line per setting that has chosen a trial."""
    return [
        f"{row.name}: trial {row.number}, {row.configuration}"
        for row in table.rows
        if row.number is not None
    ]


def markdown(table: ComparisonTable) -> str:
    """Format both tables, the choices and the notes as Markdown."""
    tables = [setting_cells(table), difference_cells(table)]
    return markdown_page(table.title, tables, chosen_configurations(table), notes(table))


def markdown_page(
    title: str, tables: list[Cells], choices: list[str], page_notes: list[str]
) -> str:
    """Format non-empty tables, then the choices and the notes as lists, as Markdown."""
    lines = [f"# {title}", ""]
    for cells in tables:
        if not cells.rows:
            continue
        lines.append(_markdown_row(cells.header))
        lines.append("|" + "---|" * len(cells.header))
        lines += [_markdown_row(row) for row in cells.rows]
        lines.append("")

    lines += [f"- {choice}" for choice in choices]
    lines.append("")
    lines += [f"- {note}" for note in page_notes]
    lines.append("")
    return "\n".join(lines)


def _markdown_row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def as_csv(table: ComparisonTable) -> str:
    """Write one line per setting and per difference, with unrounded numbers."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_CSV_HEADER)

    for row in table.rows:
        accuracy = row.accuracy
        estimate: list[object] = ["", "", ""]
        if accuracy is not None:
            estimate = [accuracy.mean, accuracy.low, accuracy.high]
        cost = [len(row.record.trials), row.record.epochs, row.minutes]
        writer.writerow([row.name, *estimate, "", "", row.seeds, *cost, row.number, row.backbone])

    for difference in table.differences:
        gain = difference.gain
        estimate = [gain.mean, gain.low, gain.high, gain.p, difference.p_holm]
        empty = [""] * (len(_CSV_HEADER) - 1 - len(estimate))
        writer.writerow([difference.name, *estimate, *empty])
    return text.getvalue()


def show(table: ComparisonTable, out: Console) -> None:
    """Print both tables, the choices and the notes."""
    print_cells(out, "", setting_cells(table))
    print_cells(out, "differences, paired by seed", difference_cells(table))
    for choice in chosen_configurations(table):
        out.print(choice)
    for note in notes(table):
        out.print(f"note: {note}")


def print_cells(out: Console, title: str, cells: Cells) -> None:
    """Print a table of strings and an empty line."""
    table = Table(
        box=None,
        pad_edge=False,
        header_style="bold",
        title=title or None,
        title_justify="left",
    )
    for name in cells.header:
        table.add_column(name, overflow="fold")
    for row in cells.rows:
        table.add_row(*row)
    out.print(table)
    out.print()


def wide_console() -> Console:
    """Return a console for tables: as wide as the terminal, or `_FILE_WIDTH` columns without
    one."""
    width = None if sys.stdout.isatty() else _FILE_WIDTH
    return plain_console(width)
