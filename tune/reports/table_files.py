"""The files of a comparison in its group's folder.

    python tune/report.py table [GROUP]

prints the table and writes table.md, table.csv, table.html and table.png.
"""

from pathlib import Path

from trainables.files import write_atomically
from tune.reports.comparison_table import ComparisonTable, compare_settings
from tune.reports.html_comparison import comparison_page
from tune.reports.table_figure import draw
from tune.reports.table_text import as_csv, markdown, show, wide_console
from tune.study.group import Group

FILES = ("table.md", "table.csv", "table.html", "table.png")


def publish(group: Path | Group) -> ComparisonTable:
    """Print the table and write its files; a `Group` also gets events, which MLflow shows.

    Args:
        group: folder of the settings, or the group that they were run as.
    Raises:
        UserError: none of the settings has begun.
    """
    folder = group.folder if isinstance(group, Group) else group
    table = compare_settings(folder)

    folder.mkdir(exist_ok=True)
    figure = draw(table, folder / "table.png")
    write_atomically(folder / "table.md", markdown(table))
    write_atomically(folder / "table.csv", as_csv(table))
    write_atomically(folder / "table.html", comparison_page(table, figure))

    show(table, wide_console())
    if isinstance(group, Group):
        _log(table, group)
    return table


def _log(table: ComparisonTable, group: Group) -> None:
    """Append the table to the group's event log."""
    for name in FILES:
        group.emit("artifact", trial=None, path=name, to="table")

    metrics = {}
    for row in table.judged:
        assert row.accuracy is not None
        metrics[f"{table.metric}/{row.name}"] = row.accuracy.mean
    for difference in table.differences:
        metrics[f"{table.metric}/{difference.name}"] = difference.gain.mean

    tags = {f"verdict.{difference.name}": str(difference) for difference in table.differences}
    group.emit("summary", metrics=metrics, tags=tags)
