"""`python tune/report.py html GROUP`: a comparison of settings in one HTML file.

The page shows the comparison's table, then what each setting found.
"""

from pathlib import Path

from trainables.files import write_atomically
from tune.reports.comparison_table import TableRow, compare_settings
from tune.reports.html_comparison import comparison_content, pooled_content
from tune.reports.html_page import page, render
from tune.reports.html_parameters import parameter_sections
from tune.reports.html_pictures import pictures
from tune.reports.html_sections import (
    against_default,
    budget,
    failures,
    health,
    learning_curves,
    opening,
    reproduction,
)
from tune.reports.pooled_table import compare_searches, has_searches
from tune.reports.table_figure import draw, draw_pooled
from tune.reports.tuning_figure import tuning_section
from tune.reports.verdict import judge_study


def write_group_report(folder: Path) -> Path:
    """Write `report.html` into a group's folder.

    Raises:
        UserError: none of the settings has begun.
    """
    if has_searches(folder):
        return _write_searches_report(folder)
    comparison = compare_settings(folder)
    folder.mkdir(exist_ok=True)
    figure = draw(comparison, folder / "table.png")
    body = render(
        "group.html",
        title=comparison.title,
        differences=comparison.differences,
        questions=comparison.questions,
        comparison=comparison_content(comparison, figure),
        tuning=tuning_section({row.setting: [row.record] for row in comparison.rows}),
        settings=[_setting(row) for row in comparison.rows],
    )
    path = folder / "report.html"
    write_atomically(path, page(comparison.title, body))
    return path


def _write_searches_report(folder: Path) -> Path:
    """Write the page of a comparison over searches: the table, and each search folded away."""
    comparison = compare_searches(folder)
    folder.mkdir(exist_ok=True)
    figure = draw_pooled(comparison, folder / "table.png")
    settings = []
    records = {}
    for row in comparison.rows:
        records[row.setting] = [one.record for one in row.searches.values()]
        for search, one in row.searches.items():
            settings.append(_setting(one) | {"title": f"{row.setting}, {search}"})
    body = render(
        "group.html",
        title=comparison.title,
        differences=comparison.differences,
        questions=comparison.questions,
        comparison=pooled_content(comparison, figure),
        tuning=tuning_section(records),
        settings=settings,
    )
    path = folder / "report.html"
    write_atomically(path, page(comparison.title, body))
    return path


def _setting(row: TableRow) -> dict[str, object]:
    """The parts of the page about one setting."""
    record, number = row.record, row.number
    verdict = judge_study(record)
    parts: dict[str, object] = {
        "title": row.setting,
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
