"""Page layout of a report: one HTML file that works offline and on a phone.

Jinja2 templates escape all text. plotly's script is included once.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_FOLDS = 4  # tables with at most this many short columns fold on a phone
_LAYOUT = {
    "margin": {"l": 55, "r": 15, "t": 30, "b": 45},
    "font": {"size": 12},
    "hovermode": "closest",
}
"""Layout of every figure; the figure's own values take precedence."""

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.globals["zip"] = zip


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str

    kind: str
    """CSS class: `num`, `long` or none."""

    @property
    def label(self) -> str:
        """Name to show before a cell that is folded below the others."""
        return self.name if self.kind == "long" else ""


@dataclass(frozen=True)
class _Table:
    columns: list[Column]
    rows: list[list[str]]
    best: int

    @property
    def named(self) -> bool:
        return any(column.name for column in self.columns)

    @property
    def short(self) -> int:
        return sum(column.kind != "long" for column in self.columns)

    @property
    def folds(self) -> bool:
        has_long = self.short < len(self.columns)
        return has_long and self.short <= _FOLDS


def render(template: str, **values: object) -> Markup:
    """Fill in a template from the folder `templates`. Strings are escaped, `Markup` is not."""
    return Markup(_TEMPLATES.get_template(template).render(values))


def table(
    header: list[str],
    rows: list[list[str]],
    *,
    numeric: tuple[int, ...] = (),
    long: tuple[int, ...] = (),
    best: int = -1,
) -> Markup:
    """Render a table of strings.

    On a narrow screen it scrolls sideways. If it has few short columns, the long ones fold below
    them.

    Args:
        numeric: indices of right-aligned columns.
        long: indices of the last columns, whose text may break anywhere.
        best: index of the highlighted row; -1 for none.
    """
    columns = []
    for index, name in enumerate(header):
        kind = ""
        if index in numeric:
            kind = "num"
        elif index in long:
            kind = "long"
        columns.append(Column(name, kind))
    return render("table.html", table=_Table(columns, rows, best))


def plot(figure: go.Figure, label: str, *, height: int, min_width: int = 0) -> Markup:
    """Render a figure, which the page's script draws.

    Args:
        label: text for screen readers.
        height: in pixels.
        min_width: in pixels; on a narrower screen the figure scrolls sideways.
    Raises:
        ValueError: a number in the figure is not finite, which JSON cannot represent.
    """
    spec = with_layout(figure, height)
    spec["layout"].pop("template", None)

    text = json.dumps(
        spec,
        allow_nan=False,
        separators=(",", ":"),
    )
    safe = Markup(text.replace("</", "<\\/"))  # no text may close the script element
    return render("plot.html", spec=safe, label=label, height=height, min_width=min_width)


def with_layout(figure: go.Figure, height: int) -> dict[str, Any]:
    """Return the figure as plotly's JSON, with the layout shared by all figures.

    Args:
        height: in pixels.
    """
    spec = figure.to_plotly_json()
    layout = _LAYOUT | {"height": height} | spec["layout"]
    return {"data": spec["data"], "layout": layout}


def page(title: str, body: Markup) -> str:
    """Render a complete document, including plotly's script if there are figures."""
    plotly = None
    if 'class="plot' in body:
        from plotly.offline import get_plotlyjs

        plotly = Markup(get_plotlyjs())
    return str(render("page.html", title=title, body=body, plotly=plotly))
