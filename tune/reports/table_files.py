"""Output files of a comparison, in its group's folder.

    python tune/report.py table [GROUP]

prints the table and writes table.md, table.csv, table.html and table.png.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from trainables.files import write_result
from tune.reports.comparison_table import ComparisonTable, compare_settings
from tune.reports.html_comparison import comparison_page, pooled_page
from tune.reports.pooled_row import PooledRow
from tune.reports.pooled_table import PooledTable, compare_searches, has_searches
from tune.reports.pooled_text import pooled_csv, pooled_markdown, show_pooled
from tune.reports.table_figure import draw, draw_pooled
from tune.reports.table_text import as_csv, markdown, show, wide_console
from tune.study.group import Group

FILES = ("table.md", "table.csv", "table.html", "table.png")


@dataclass(frozen=True)
class _Shown:
    """A table in all its output formats."""

    table: ComparisonTable | PooledTable
    markdown: str
    csv: str
    draw: Callable[[Path], bytes]
    page: Callable[[bytes], str]
    show: Callable[[Console], None]


def publish(group: Path | Group, *, shown: bool = True) -> None:
    """Print the table and write its files. A `Group` also logs events, which MLflow shows.

    Args:
        group: folder of the group, or the group itself.
        shown: print the table.
    Raises:
        UserError: no setting has started.
    """
    folder = group.folder if isinstance(group, Group) else group
    table = _several(folder) if has_searches(folder) else _single(folder)

    folder.mkdir(exist_ok=True)
    figure = table.draw(folder / "table.png")
    write_result(folder / "table.md", table.markdown)
    write_result(folder / "table.csv", table.csv)
    write_result(folder / "table.html", table.page(figure))

    if shown:
        table.show(wide_console())
    if isinstance(group, Group):
        _log(table.table, group)


def _single(folder: Path) -> _Shown:
    table = compare_settings(folder)
    return _Shown(
        table=table,
        markdown=markdown(table),
        csv=as_csv(table),
        draw=lambda path: draw(table, path),
        page=lambda figure: comparison_page(table, figure),
        show=lambda out: show(table, out),
    )


def _several(folder: Path) -> _Shown:
    table = compare_searches(folder)
    return _Shown(
        table=table,
        markdown=pooled_markdown(table),
        csv=pooled_csv(table),
        draw=lambda path: draw_pooled(table, path),
        page=lambda figure: pooled_page(table, figure),
        show=lambda out: show_pooled(table, out),
    )


def _log(table: ComparisonTable | PooledTable, group: Group) -> None:
    """Append the table to the group's event log."""
    for name in FILES:
        group.emit("artifact", trial=None, path=name, to="table")

    metrics = {}
    for row in table.rows:
        if row.accuracy is not None:
            metrics[f"{table.metric}/{row.name}"] = row.accuracy.mean
        if isinstance(row, PooledRow):
            for part, deviation in row.parts.items():
                metrics[f"sd_of_{part}/{row.name}"] = deviation
    if isinstance(table, PooledTable) and table.backbone is not None:
        names = ("sd_of_backbone", "sd_of_backbone_low", "sd_of_backbone_high")
        metrics |= dict(zip(names, table.backbone.deviations, strict=True))
    for difference in table.differences:
        metrics[f"{table.metric}/{difference.name}"] = difference.gain.mean

    tags = {f"verdict.{difference.name}": str(difference) for difference in table.differences}
    group.emit("summary", metrics=metrics, tags=tags)
