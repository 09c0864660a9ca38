"""The picture of a comparison: accuracies with intervals beside learning curves."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from trainables.plots.curves import draw_curves
from trainables.plots.style import COLOURS
from tune.reports.comparison_table import ComparisonTable, TableRow


def draw(table: ComparisonTable, path: Path) -> bytes:
    """Write the picture as PNG, and return it.

    Left: test accuracy of each setting and of its default. Right: validation metric of the chosen
    configurations by epoch.
    """
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[2, 3])

    # A setting keeps its colour whichever of the others have begun.
    settings = list(table.comparison.settings)
    colours = {row.setting: COLOURS[settings.index(row.name)] for row in table.rows}

    _draw_accuracies(left, table.rows, colours)

    curves = {}
    for row in table.rows:
        runs = _validation_curves(row)
        if runs:
            curves[row.setting] = runs
    if curves:
        draw_curves(right, curves, table.rows[0].record.objective, colours)
    else:
        right.set_axis_off()

    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    return path.read_bytes()


def _draw_accuracies(axes: Axes, rows: list[TableRow], colours: dict[str, str]) -> None:
    for y, row in enumerate(rows):
        accuracy = row.accuracy
        if accuracy is not None:
            below = max(0.0, accuracy.mean - accuracy.low)
            above = accuracy.high - accuracy.mean
            axes.errorbar(
                accuracy.mean,
                y,
                xerr=[[below], [above]],
                fmt="o",
                color=colours[row.setting],
                capsize=4,
            )
        if row.default is not None:
            axes.plot(row.default.mean, y, "|", color="0.45", markersize=13)

    axes.set_yticks(range(len(rows)), [row.setting for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("test accuracy, 95 % interval; bar: untuned default")


def _validation_curves(row: TableRow) -> list[list[float]]:
    """Validation metric by epoch of the chosen configuration's repeats."""
    objective = row.record.objective
    curves = []
    for run in row.chosen_repeats:
        if run.history:
            curves.append([metrics[objective] for metrics in run.history])
    return curves
