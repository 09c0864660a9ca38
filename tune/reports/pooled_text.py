"""A comparison over searches as text: cells, notes, Markdown, CSV, and tables on the terminal."""

import csv
import io

from rich.console import Console

from tune.reports.components import advice
from tune.reports.marks import length_of_control, marks_of_images
from tune.reports.pooled_row import PooledRow
from tune.reports.pooled_table import PooledTable
from tune.reports.sampling_error import OVERLAP_UNKNOWN
from tune.reports.table_text import (
    Cells,
    difference_cells,
    interval_range,
    markdown_page,
    print_cells,
)

_COMPONENTS = {
    "search": "another search",
    "training": "other final trainings",
    "images": "other test images",
}
_CSV_HEADER = ("row", "search", "estimate", "low", "high", "p", "p_holm", "epochs", "minutes")


def pooled_cells(table: PooledTable) -> Cells:
    """Return one row per setting, with a column per search."""
    header = ["setting", *table.searches, "mean", "95 % interval"]
    header += ["sd", "epochs", "minutes"]
    return Cells(header, [_cells_of(row, table) for row in table.rows])


def _cells_of(row: PooledRow, table: PooledTable) -> list[str]:
    accuracies = []
    for search in table.searches:
        accuracy = row.accuracies.get(search)
        accuracies.append("-" if accuracy is None else f"{accuracy:.3f}")

    mean = interval = "-"
    if row.accuracy is not None:
        mean = f"{row.accuracy.mean:.3f}"
        interval = interval_range(row.accuracy)
    spread = "-" if row.spread is None else f"{row.spread:.3f}"
    cost = [str(row.epochs), f"{row.minutes:.1f}"]
    return [row.setting, *accuracies, mean, interval, spread, *cost]


def component_cells(table: PooledTable) -> Cells:
    """Return one row per setting: the standard deviation of a search's accuracy that each source of
    variation would cause alone. No rows if outcomes or repeats are missing."""
    header = ["setting", *_COMPONENTS.values()]
    rows = []
    for row in table.rows:
        parts = row.parts
        if parts:
            cells = [f"{parts[part]:.3f}" if part in parts else "-" for part in _COMPONENTS]
            rows.append([row.setting, *cells])
    backbone = table.backbone
    if backbone is None:
        return Cells(header, rows)

    header.insert(2, "of it another backbone [95 %]")
    for cells, row in zip(rows, (row for row in table.rows if row.parts), strict=True):
        cells.insert(2, backbone.label if row.name in backbone.settings else "-")
    return Cells(header, rows)


def pooled_notes(table: PooledTable) -> list[str]:
    """Explain how to read the table."""
    level = table.differences[0].level if table.differences else None
    said = [
        "Test accuracy. A search (its trials, choice, split of the data, and backbones of its own) "
        "counts as one observation; intervals are Student's t over searches, differences are "
        "paired by search, so they cover another search. Where searches share test images, the "
        "error that these have in common is added.",
    ]
    if any(row.shared is None for row in table.rows if len(row.searches) > 1):
        said.append(OVERLAP_UNKNOWN)
    said += _components(table)
    said += _kept_defaults(table)
    if level is not None:
        said.append(
            f"Holm's p-values hold for all {len(table.questions)} questions at once, and decide "
            f"below {level:.2g}; tables over more searches are later looks, at stricter levels."
        )
    if table.sources:
        costs = [
            f"{cost.source} {cost.epochs:,} epochs, {cost.minutes:.1f} minutes, chosen by "
            f"{cost.objective}"
            for cost in table.sources
        ]
        said.append(f"Backbones cost, over all searches: {'; '.join(costs)}.")
    if table.missing:
        said.append(f"Without a test accuracy so far: {', '.join(table.missing)}.")
    said += _marks(table)
    if table.comparison.reference_note:
        said.append(_references(table))
    return said


def _components(table: PooledTable) -> list[str]:
    """Explain the components of the spread over searches, and name the largest."""
    found = [row.components for row in table.rows]
    known = [one for one in found if one is not None]
    if not known:
        return ["sd: standard deviation over searches."]
    explained = (
        "sd: standard deviation over searches. Its parts, estimated with as few degrees of freedom "
        "as there are searches: another search (trials, choice, split, backbone), other seeds of "
        "the final trainings, another draw of test images. Their squares add to that of sd, "
        "plus the variance that searches share by their test images."
    )
    return [explained, *filter(None, [advice(known), _backbone(table)])]


def _backbone(table: PooledTable) -> str:
    """Say how much of the spread the backbones make, or that it cannot be told; "" if the
    comparison has no backbones in common."""
    part = table.backbone
    if part is None:
        return ""
    named = f"{', '.join(part.settings[:-1])} and {part.settings[-1]}"
    said = (
        f"Another backbone: a standard deviation of {part.label} on average over {named}, from "
        "what settings on one backbone have in common"
    )
    if not part.told:
        return (
            f"{said}; too few searches to tell it from none. Longer searches (--trials) cannot "
            "reduce it, further ones (--searches) have backbones of their own."
        )
    return (
        f"{said}; further searches (--searches), each with a backbone of its own, reduce it, "
        "longer ones (--trials) do not."
    )


def _marks(table: PooledTable) -> list[str]:
    """Return facts about the images of settings, each with the searches that it applies to, and how
    long a control trained."""
    found: dict[tuple[str, str], list[str]] = {}
    lengths = []
    for row in table.rows:
        for search, one in row.searches.items():
            for mark in marks_of_images(one.record.manifest):
                found.setdefault((row.name, mark), []).append(search)
        length = length_of_control([one.record.manifest for one in row.searches.values()])
        if length:
            lengths.append(f"{row.name}: {length}.")
    named = [f"{name}, {', '.join(searches)}: {mark}." for (name, mark), searches in found.items()]
    return named + lengths


def _references(table: PooledTable) -> str:
    figures = []
    for name, percents in table.comparison.references.items():
        shown = " / ".join(f"{percent:g}" for percent in percents)
        figures.append(f"{name} {shown}")
    title = table.comparison.reference_title
    return f"{title}: {'; '.join(figures)}. {table.comparison.reference_note}"


def pooled_choices(table: PooledTable) -> dict[str, str]:
    """Return setting and search -> the chosen trial, unless it is the default."""
    return {
        f"{row.name}, {search}": f"trial {one.number}, {one.configuration}"
        for row in table.rows
        for search, one in row.searches.items()
        if one.number
    }


def _kept_defaults(table: PooledTable) -> list[str]:
    """Say how many searches found nothing better than their default. The more there are, the less
    the table says about tuning."""
    numbers = [one.number for row in table.rows for one in row.searches.values()]
    ended = [number for number in numbers if number is not None]
    kept = ended.count(0)
    if not kept:
        return []
    said = f"{kept} of {len(ended)} searches chose their default, trial 0"
    if 2 * kept > len(ended):
        said += (
            ": the table compares trainings under the defaults more than what tuning makes of "
            "them, for which --trials gives each search more"
        )
    return [f"{said}."]


def pooled_markdown(table: PooledTable) -> str:
    """Format the tables, the choices and the notes as Markdown."""
    tables = [pooled_cells(table), difference_cells(table), component_cells(table)]
    choices = [f"{search}: {choice}" for search, choice in pooled_choices(table).items()]
    return markdown_page(table.title, tables, choices, pooled_notes(table))


def pooled_csv(table: PooledTable) -> str:
    """Write one line per setting and search, per setting and variance component, and per
    difference, with unrounded numbers."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_CSV_HEADER)
    for row in table.rows:
        for search, accuracy in row.accuracies.items():
            one = row.searches[search]
            cost = [one.record.epochs, one.minutes]
            writer.writerow([row.name, search, accuracy, "", "", "", "", *cost])
        if row.accuracy is not None:
            mean = row.accuracy
            estimate = [mean.mean, mean.low, mean.high, "", ""]
            writer.writerow([row.name, "all", *estimate, row.epochs, row.minutes])
        for part, deviation in row.parts.items():
            writer.writerow([row.name, f"sd of {part}", deviation, "", "", "", "", "", ""])

    if table.backbone is not None:
        settings = ", ".join(table.backbone.settings)
        estimate = [*table.backbone.deviations, "", "", "", ""]
        writer.writerow([settings, "sd of backbone", *estimate])

    for difference in table.differences:
        gain = difference.gain
        estimate = [gain.mean, gain.low, gain.high, gain.p, difference.p_holm]
        writer.writerow([difference.name, "all", *estimate, "", ""])
    return text.getvalue()


def show_pooled(table: PooledTable, out: Console) -> None:
    """Print the tables and the notes."""
    print_cells(out, table.title, pooled_cells(table))
    print_cells(out, "differences, paired by search", difference_cells(table))
    parts = component_cells(table)
    if parts.rows:
        print_cells(out, "where the spread over searches comes from (sd of each alone)", parts)
    for note in pooled_notes(table):
        out.print(f"note: {note}")
