"""`python tune/report.py html GROUP`: a comparison of settings in one HTML file: its table, then
what each of them found."""

from pathlib import Path

from trainables.files import write_atomically
from tune.reports.comparison_table import draw, html_body
from tune.reports.comparison_table import verdict as compare
from tune.reports.html_page import escape, page
from tune.reports.html_report import (
    against_default,
    budget,
    failures,
    health,
    learning_curves,
    of_parameters,
    opening,
    pictures,
    reproduction,
)
from tune.reports.verdict import verdict


def write_group_report(folder: Path) -> Path:
    """Write `report.html` into a group's folder.

    Raises:
        UserError: none of its settings has been begun.
    """
    found = compare(folder)
    folder.mkdir(exist_ok=True)
    parts = [f"<h1>{escape(found.title)}</h1>"]
    for d in found.differences:
        parts.append(
            f"<p class=verdict>{escape(f'{d.name}, {found.comparison.questions[d.name]}? {d}')}</p>"
        )
    parts.append(html_body(found, draw(found, folder / "table.png")))
    for row in found.rows:
        record, number, claim = row.record, row.number, verdict(row.record)
        parts += [f"<h2>{escape(row.setting)}</h2>", opening(record, claim), health(record)]
        if number is not None:
            parts += [
                learning_curves(record),
                f"<h3>Best against default</h3>{against_default(record, number, claim)}",
            ]
            figures = "".join(
                f"<h3>{escape(name)}</h3>{content}"
                for name, content in of_parameters(record, number)
            )
            parts.append(
                f"<details><summary>Parameters: importance, all of them side by side, one at a time</summary>{figures}</details>"
            )
            if shown := pictures(record, number):
                parts.append(
                    f"<details><summary>Pictures of trial {number}</summary>{shown}</details>"
                )
        inside = budget(record) + failures(record) + reproduction(record, number)
        parts.append(
            f"<details><summary>Budget, failures, how to repeat it</summary>{inside}</details>"
        )
    path = folder / "report.html"
    write_atomically(path, page(found.title, "".join(parts)))
    return path
