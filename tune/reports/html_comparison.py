"""Render the comparison of settings as HTML."""

from markupsafe import Markup

from tune.reports.comparison_table import ComparisonTable
from tune.reports.html_page import page, render, table
from tune.reports.html_pictures import data_uri
from tune.reports.pooled_table import PooledTable
from tune.reports.pooled_text import component_cells, pooled_cells, pooled_choices, pooled_notes
from tune.reports.table_text import difference_cells, notes, setting_cells

_REFERENCES = 8  # column of published results, if there are any


def comparison_page(comparison: ComparisonTable, figure: bytes) -> str:
    """Render the table as a self-contained page.

    Args:
        figure: PNG returned by `table_figure.draw`.
    """
    return _page(comparison.title, comparison_content(comparison, figure))


def pooled_page(table: PooledTable, figure: bytes) -> str:
    """Render the table over searches as a self-contained page.

    Args:
        figure: PNG returned by `table_figure.draw_pooled`.
    """
    return _page(table.title, pooled_content(table, figure))


def _page(title: str, content: Markup) -> str:
    body = render("comparison_page.html", title=title, comparison=content)
    return page(title, body)


def pooled_content(over_searches: PooledTable, figure: bytes) -> Markup:
    """Render tables, picture, chosen configurations and notes over searches, as part of a page."""
    settings = pooled_cells(over_searches)
    differences = difference_cells(over_searches)
    parts = component_cells(over_searches)
    return render(
        "comparison.html",
        paired_by="search",
        settings=table(settings.header, settings.rows),
        picture=data_uri(figure, "png"),
        differences=table(differences.header, differences.rows),
        parts=table(parts.header, parts.rows) if parts.rows else None,
        chosen=pooled_choices(over_searches),
        notes=pooled_notes(over_searches),
    )


def comparison_content(comparison: ComparisonTable, figure: bytes) -> Markup:
    """Render tables, picture, chosen configurations and notes, as part of a page."""
    settings = setting_cells(comparison)
    differences = difference_cells(comparison)
    return render(
        "comparison.html",
        paired_by="seed",
        settings=table(settings.header, settings.rows, long=(_REFERENCES,)),
        picture=data_uri(figure, "png"),
        differences=table(differences.header, differences.rows),
        parts=None,
        chosen={
            row.name: f"trial {row.number}, {row.configuration}"
            for row in comparison.rows
            if row.number is not None
        },
        notes=notes(comparison),
    )
