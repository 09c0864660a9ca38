"""`python tune/report.py html GROUP`: a comparison of settings in one HTML file.

The page shows the comparison's table, then the results of each setting.
"""

from pathlib import Path

from markupsafe import Markup

from search_spaces.settings import sides
from trainables.data_summary import DataSummary
from trainables.files import write_result
from tune.reports.comparison_table import ComparisonTable, TableRow, compare_settings
from tune.reports.html_comparison import comparison_content, pooled_content
from tune.reports.html_page import page, render
from tune.reports.html_parameters import parameter_sections
from tune.reports.html_pictures import pictures
from tune.reports.html_sections import (
    against_default,
    budget,
    data,
    failures,
    health,
    learning_curves,
    opening,
    reproduction,
)
from tune.reports.pooled_table import PooledTable, compare_searches, has_searches
from tune.reports.table_figure import draw, draw_pooled
from tune.reports.tuning_figure import tuning_section
from tune.reports.verdict import judge_study
from tune.study.record import Record


def write_group_report(folder: Path) -> Path:
    """Write `report.html` into a group's folder: the table, then each study.

    Raises:
        UserError: no setting has started.
    """
    if has_searches(folder):
        over_searches = compare_searches(folder)
        folder.mkdir(exist_ok=True)
        figure = draw_pooled(over_searches, folder / "table.png")
        content = pooled_content(over_searches, figure)
        return _write(folder, over_searches, content, _searches(over_searches))

    comparison = compare_settings(folder)
    folder.mkdir(exist_ok=True)
    figure = draw(comparison, folder / "table.png")
    content = comparison_content(comparison, figure)
    rows = {row.setting: {row.setting: row} for row in comparison.rows}
    return _write(folder, comparison, content, rows)


Studies = dict[str, dict[str, TableRow]]
"""Setting -> title of each of its studies -> table row of the study."""


def _searches(table: PooledTable) -> Studies:
    return {
        row.setting: {f"{row.setting}, {search}": one for search, one in row.searches.items()}
        for row in table.rows
    }


def _write(
    folder: Path, comparison: ComparisonTable | PooledTable, content: Markup, studies: Studies
) -> Path:
    records = {setting: [row.record for row in rows.values()] for setting, rows in studies.items()}
    settings = []
    for rows in studies.values():
        settings += [_setting(row) | {"title": title} for title, row in rows.items()]

    body = render(
        "group.html",
        title=comparison.title,
        differences=comparison.differences,
        asked={name: _asked(name, words) for name, words in comparison.questions.items()},
        comparison=content,
        data=_data(records),
        tuning=tuning_section(records),
        settings=settings,
    )
    path = folder / "report.html"
    write_result(path, page(comparison.title, body))
    return path


def _asked(difference: str, question: str) -> str:
    """Name both settings: the first one is the "it" of some questions."""
    first, second = sides(difference)
    return f"{first} against {second}: {question}"


def _data(records: dict[str, list[Record]]) -> dict[str, Markup]:
    """Return title -> summary of the data. A later setting gets its own section only if its data
    differs. With several searches, which split the data by seeds of their own, the first one is
    shown."""
    sections: dict[str, Markup] = {}
    known: list[DataSummary] = []
    for setting, (record, *others) in records.items():
        summary = record.manifest.data_summary
        if summary is None or summary in known:
            continue
        title = f"Data of {setting}" if known else "Data"
        if others:
            title += ", as the first search has it"
        sections[title] = data(record, summary)
        known.append(summary)
    return sections


def _setting(row: TableRow) -> dict[str, object]:
    """Return the parts of the page about one setting."""
    record, number = row.record, row.number
    verdict = judge_study(record)
    parts: dict[str, object] = {
        "number": number,
        "opening": opening(record, verdict),
        "health": health(record),
        "curves": None,
        "pictures": None,
        "budget": budget(record),
        "failures": failures(record),
        "reproduction": reproduction(record, number),
    }
    if number is not None:
        parts["curves"] = learning_curves(record)
        parts["against_default"] = against_default(record, number, verdict)
        parts["parameters"] = dict(parameter_sections(record, number))
        parts["pictures"] = pictures(record, number)
    return parts
