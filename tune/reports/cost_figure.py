"""Figures of value against cost: the first objective of every completed trial against another
objective or the training time, with their Pareto front."""

from collections.abc import Mapping
from pathlib import Path

import plotly.graph_objects as go

from trainables.plots.class_colours import COLOURS, GREY
from tune.reports.html_figures import BEST, COMPLETED, DEFAULT, figure
from tune.reports.trial_points import five_digits
from tune.study.objectives import Objective, front_of
from tune.study.record import Record

TIME = Objective("training time (s)", minimized=True)
"""Cost in a study with a single objective: the training time of a trial's epochs, in seconds."""

FRONT = "plots/front.png"
"""Picture of the front, in the study's folder."""

Points = Mapping[int, Mapping[str, float]]


def costs_of(record: Record) -> tuple[Points, list[Objective]]:
    """Return the completed trials, and the objectives to show: those of the study, or its only one
    and the training time."""
    if len(record.objectives) > 1:
        return record.points, record.objectives
    points = {
        number: {record.objective: value, TIME.metric: record.trials[number].seconds}
        for number, value in record.completed.items()
    }
    return points, [*record.objectives, TIME]


def cost_figure(points: Points, value: Objective, cost: Objective) -> go.Figure:
    """Draw one point per trial, and the front of the two objectives as steps.

    Args:
        points: trial -> metric -> value.
        value: the objective on the vertical axis.
        cost: the objective on the horizontal axis.
    """
    front = sorted(front_of(points, [value, cost]), key=lambda number: points[number][cost.metric])
    others = [number for number in points if number not in front and number != 0]
    traces = [
        _markers(points, others, value, cost, name="other trials", color=COMPLETED, size=7),
        _front_line(points, front, value, cost),
    ]
    if 0 in points:
        traces.append(
            _markers(points, [0], value, cost, name="the default", color=DEFAULT, size=11)
        )
    layout = go.Layout(
        xaxis={"title": {"text": cost.metric}, "rangemode": "tozero"},
        yaxis={"title": {"text": value.metric}},
        legend={"orientation": "h", "y": -0.18, "x": 0},
        margin={"l": 60, "r": 15, "t": 15, "b": 80},
    )
    return figure(traces, layout)


def _markers(
    points: Points,
    numbers: list[int],
    value: Objective,
    cost: Objective,
    *,
    name: str,
    **look: object,
) -> go.Scatter:
    return go.Scatter(
        mode="markers",
        name=name,
        marker=dict(look),
        x=[five_digits(points[number][cost.metric]) for number in numbers],
        y=[five_digits(points[number][value.metric]) for number in numbers],
        customdata=numbers,
        hovertemplate="trial %{customdata}: %{y} at %{x}<extra></extra>",
    )


def _front_line(points: Points, front: list[int], value: Objective, cost: Objective) -> go.Scatter:
    """Draw the front as steps, labelled with trial numbers: at each cost, the best value available
    for that cost or less."""
    trace = _markers(points, front, value, cost, name="front", color=BEST, size=9)
    # If the cost is maximized, the steps run in the other direction.
    shape = "hv" if cost.minimized else "vh"
    return trace.update(
        mode="lines+markers+text",
        line={"color": BEST, "width": 2, "shape": shape},
        text=[str(number) for number in front],
        textposition="top left" if cost.minimized else "top right",
        cliponaxis=False,
    )


def write_front_picture(record: Record, path: Path) -> None:
    """Draw the same front as a PNG for MLflow: the first objective against the second."""
    from matplotlib.figure import Figure

    points, (value, cost, *_) = costs_of(record)
    front = sorted(front_of(points, [value, cost]), key=lambda number: points[number][cost.metric])
    drawn = Figure(figsize=(7, 4.5))
    axes = drawn.subplots()
    axes.scatter(
        [at[cost.metric] for at in points.values()],
        [at[value.metric] for at in points.values()],
        color=GREY,
        label="completed trials",
    )
    axes.step(
        [points[number][cost.metric] for number in front],
        [points[number][value.metric] for number in front],
        where="post" if cost.minimized else "pre",
        color=COLOURS[0],
        marker="o",
        label="front",
    )
    for number in front:
        at = points[number]
        place = (at[cost.metric], at[value.metric])
        axes.annotate(str(number), place, xytext=(4, 4), textcoords="offset points")
    if 0 in points:
        at = points[0]
        place = (at[cost.metric], at[value.metric])
        axes.scatter(*place, color=COLOURS[1], zorder=3, label="the default")
    axes.set_xlabel(cost.metric)
    axes.set_ylabel(value.metric)
    axes.set_xlim(left=0)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, dpi=120, bbox_inches="tight")
