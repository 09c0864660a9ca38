"""Figure of a comparison: accuracies with intervals next to learning curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from trainables.plots.class_colours import COLOURS
from trainables.plots.curves import draw_curves
from tune.reports.comparison_table import ComparisonTable, TableRow
from tune.reports.pooled_row import PooledRow
from tune.reports.pooled_table import PooledTable
from tune.reports.statistics import Interval

LABEL_WIDTH = 26
"""Characters of a setting's label before it goes on in the next line."""


@dataclass(frozen=True)
class _Bar:
    """One setting in the figure; accuracies are in [0, 1]."""

    setting: str
    accuracy: Interval | None
    points: Sequence[float]
    """Single observations, drawn next to the interval."""
    default: float | None
    curves: list[list[float]]
    """Validation metric by epoch of each repeat of the chosen configuration."""


def draw(table: ComparisonTable, path: Path) -> bytes:
    """Write the figure as PNG, and return its bytes.

    Left: test accuracy of each setting and of its default. Right: validation metric of the chosen
    configurations by epoch.
    """
    bars = {row.name: _bar(row) for row in table.rows}
    objective = table.rows[0].record.objective
    return _draw(bars, list(table.comparison.settings), objective, path)


def draw_pooled(table: PooledTable, path: Path) -> bytes:
    """Write the figure of a comparison over searches, in which a point is a search."""
    bars = {row.name: _pooled_bar(row) for row in table.rows}
    records = [one.record for row in table.rows for one in row.searches.values()]
    objective = records[0].objective if records else ""
    return _draw(bars, list(table.comparison.settings), objective, path)


def _bar(row: TableRow) -> _Bar:
    default = None if row.default is None else row.default.mean
    return _Bar(row.setting, row.accuracy, (), default, _validation_curves(row))


def _pooled_bar(row: PooledRow) -> _Bar:
    curves = [curve for one in row.searches.values() for curve in _validation_curves(one)]
    default = None
    if row.defaults:
        default = sum(row.defaults.values()) / len(row.defaults)
    return _Bar(row.setting, row.accuracy, list(row.accuracies.values()), default, curves)


def _draw(bars: Mapping[str, _Bar], settings: list[str], objective: str, path: Path) -> bytes:
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[2, 3])

    # A setting keeps its colour no matter which other settings have started.
    colours = {name: COLOURS[settings.index(name)] for name in bars}
    _draw_accuracies(left, bars, colours)

    curves = {name: bar.curves for name, bar in bars.items() if bar.curves}
    if curves:
        draw_curves(right, curves, objective, colours)
    else:
        right.set_axis_off()

    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    return path.read_bytes()


def _draw_accuracies(axes: Axes, bars: Mapping[str, _Bar], colours: Mapping[str, str]) -> None:
    for y, (name, bar) in enumerate(bars.items()):
        colour = colours[name]
        accuracy = bar.accuracy
        if accuracy is not None:
            below = max(0.0, accuracy.mean - accuracy.low)
            above = accuracy.high - accuracy.mean
            axes.errorbar(
                accuracy.mean, y, xerr=[[below], [above]], fmt="o", color=colour, capsize=4
            )
        if bar.points:
            heights = [y + 0.22] * len(bar.points)
            axes.plot(bar.points, heights, "o", color=colour, alpha=0.45, markersize=4)
        if bar.default is not None:
            axes.plot(bar.default, y, "|", color="0.45", markersize=13)

    labels = [fill(bar.setting, LABEL_WIDTH) for bar in bars.values()]
    axes.set_yticks(range(len(bars)), labels)
    axes.invert_yaxis()
    label = "test accuracy, 95 % interval"
    if any(bar.points for bar in bars.values()):
        label += "\nsmall: each search"
    if any(bar.default is not None for bar in bars.values()):
        label += "\nbar: default"
    axes.set_xlabel(label)


def _validation_curves(row: TableRow) -> list[list[float]]:
    """Return the validation metric by epoch of the chosen configuration's repeats."""
    objective = row.record.objective
    curves = []
    for run in row.chosen_repeats:
        if run.history:
            curves.append([metrics[objective] for metrics in run.history])
    return curves
