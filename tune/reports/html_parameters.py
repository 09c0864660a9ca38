"""Report sections about the searched parameters."""

from collections.abc import Iterator

from markupsafe import Markup

from tune.reports.html_figures import importance_bars
from tune.reports.html_page import plot, render
from tune.reports.importances import FEW, METHOD, Importances, importances
from tune.reports.parameter_figures import parallel, slices
from tune.reports.trial_points import (
    ParameterAxis,
    TrialPoint,
    first_rung,
    parameter_axes,
    trial_points,
)
from tune.study.record import Record

_AXIS_WIDTH = 96  # pixels


def parameter_sections(record: Record, best: int | None) -> Iterator[tuple[str, Markup]]:
    """Yield title and content of each section: importances, parallel coordinates, slices.

    Yield nothing before two trials have started, or if no parameter is searched.

    Args:
        best: number of the best trial.
    """
    points = trial_points(record)
    axes = parameter_axes(record)
    rung = first_rung(record)
    if not axes or len(points) < 2:
        return

    found = importances(record.frozen_trials(), rung)
    yield "Importance of parameters", _importance(found)
    yield "Parallel coordinates", _parallel(record, points, axes, rung)

    order = list(found[0].shares) if found else []
    rank = {name: place for place, name in enumerate(order)}
    by_importance = sorted(axes, key=lambda axis: (rank.get(axis.name, len(rank)), axis.name))
    yield "One parameter at a time", _slices(record, points, by_importance, best)


def _importance(found: list[Importances]) -> Markup:
    figure = None
    if found:
        names = {name for result in found for name in result.shares}
        figure = plot(
            importance_bars(found),
            "importance of parameters",
            height=130 + 34 * len(names),
        )
    return render(
        "importance.html",
        figure=figure,
        results=found,
        method=METHOD,
        few=FEW,
    )


def _parallel(
    record: Record, points: list[TrialPoint], axes: list[ParameterAxis], rung: int | None
) -> Markup:
    drawn = parallel(points, axes, rung)
    figure = plot(
        drawn,
        "parallel coordinates of all trials",
        height=440,
        min_width=_AXIS_WIDTH * len(drawn.data[0].dimensions),
    )
    return render("parallel.html", figure=figure, objective=record.objective, rung=rung)


def _slices(
    record: Record, points: list[TrialPoint], axes: list[ParameterAxis], best: int | None
) -> Markup:
    figures = []
    for axis in axes:
        figure = plot(
            slices(points, axis, record.objective, best),
            f"{record.objective} against {axis.name}",
            height=250,
        )
        figures.append(figure)
    return render("slices.html", figures=figures)
