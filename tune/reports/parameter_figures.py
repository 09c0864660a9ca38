"""Figures of the searched parameters: parallel coordinates, and the objective against each."""

import math
import zlib
from typing import Any

import numpy as np
import plotly.graph_objects as go

from tune.formatting import format_value
from tune.reports.html_figures import BEST, COMPLETED, figure
from tune.reports.trial_points import ParameterAxis, TrialPoint, five_digits

_UNFINISHED = "#888"
_TICKS = 5  # of a numeric axis
_MISSING_OFFSET = 0.12  # of the axis: the place of "-" below it
_JITTER = 0.5  # of the distance between two choices
_DECADES_FOR_POWERS = 1.5  # a log axis over more decades has its ticks at powers of ten


def parallel(points: list[TrialPoint], axes: list[ParameterAxis], rung: int | None) -> go.Figure:
    """Parallel coordinates of all trials that can be compared at one epoch.

    A trial without a parameter passes through "-" on its axis, and so does a stopped trial on the
    axis of final values.

    Args:
        rung: the epoch whose value colours the lines; None: the last one.
    """
    points = [point for point in points if _compared(point, rung) is not None]
    colours = [_compared(point, rung) for point in points]
    finals = [point.reached if point.state == "COMPLETE" else None for point in points]

    dimensions = []
    for axis in axes:
        values = [point.params.get(axis.name) for point in points]
        dimensions.append(_dimension(axis, values))
    if rung is not None:
        dimensions += _objective_dimension(f"epoch {rung}", colours)
    dimensions += _objective_dimension("at the end", finals)

    trace = go.Parcoords(
        dimensions=dimensions,
        labelangle=-15,
        tickfont={"size": 10},
        labelfont={"size": 11},
        line={
            "color": [five_digits(colour) for colour in colours],
            "colorscale": "Viridis",
            "showscale": True,
            "colorbar": {"thickness": 10},
        },
    )
    return figure([trace], go.Layout(margin={"l": 60, "r": 40, "t": 95, "b": 25}))


def _compared(point: TrialPoint, rung: int | None) -> float | None:
    return point.reached if rung is None else point.at_rung


def _objective_dimension(name: str, values: list[float | None]) -> list[dict[str, Any]]:
    """The axis of the objective; none where no value is known."""
    known = [value for value in values if value is not None]
    if not known:
        return []
    axis = ParameterAxis(f"<b>{name}</b>", None, min(known), max(known))
    return [_dimension(axis, values)]


def _dimension(axis: ParameterAxis, values: list[Any]) -> dict[str, Any]:
    """An axis of the parallel coordinates; None among the values is drawn at "-"."""
    if axis.choices is not None:
        low, high = 0.0, float(len(axis.choices) - 1)
        ticks = [float(place) for place in range(len(axis.choices))]
        labels = [format_value(choice) for choice in axis.choices]
    else:
        low, high = _scaled(axis, axis.low), _scaled(axis, axis.high)
        if high <= low:
            high = low + 1
        ticks = [float(tick) for tick in np.linspace(low, high, _TICKS)]
        labels = [f"{10**tick if axis.log else tick:.3g}" for tick in ticks]

    missing = low - _MISSING_OFFSET * (high - low)
    if any(value is None for value in values):
        low = missing
        ticks = [missing, *ticks]
        labels = ["-", *labels]

    positions = [missing if value is None else _position(axis, value) for value in values]
    return {
        "label": axis.name,
        "range": [low, high],
        "tickvals": ticks,
        "ticktext": labels,
        "values": [five_digits(position) for position in positions],
    }


def _position(axis: ParameterAxis, value: Any) -> float:
    if axis.choices is not None:
        return float(axis.choices.index(value))
    return _scaled(axis, value)


def _scaled(axis: ParameterAxis, value: float) -> float:
    return math.log10(value) if axis.log else float(value)


def slices(
    points: list[TrialPoint], axis: ParameterAxis, objective: str, best: int | None
) -> go.Figure:
    """The objective against one parameter."""
    points = [point for point in points if axis.name in point.params and point.reached is not None]
    unfinished = [point for point in points if point.state != "COMPLETE"]
    completed = [point for point in points if point.state == "COMPLETE" and point.number != best]
    best_points = [point for point in points if point.number == best]

    groups = [
        ("stopped early", unfinished, {"color": _UNFINISHED, "size": 5, "symbol": "x-thin-open"}),
        ("ran to the end", completed, {"color": COMPLETED, "size": 6}),
        ("the best", best_points, {"color": BEST, "size": 11, "symbol": "star"}),
    ]
    traces = [_markers(axis, name, group, marker) for name, group, marker in groups if group]
    layout = go.Layout(
        xaxis=_slice_axis(axis),
        yaxis={"title": {"text": objective}},
        margin={"l": 50, "r": 10, "t": 10, "b": 45},
    )
    return figure(traces, layout)


def _markers(
    axis: ParameterAxis, name: str, points: list[TrialPoint], marker: dict[str, Any]
) -> go.Scatter:
    shown = [format_value(point.params[axis.name]) for point in points]
    return go.Scatter(
        mode="markers",
        name=name,
        showlegend=False,
        marker=marker,
        x=[five_digits(_spread(axis, point)) for point in points],
        y=[five_digits(point.reached) for point in points],
        text=[f"trial {point.number}, {value}" for point, value in zip(points, shown, strict=True)],
        hovertemplate="%{text}: %{y}<extra></extra>",
    )


def _slice_axis(axis: ParameterAxis) -> dict[str, Any]:
    x: dict[str, Any] = {
        "title": {"text": axis.name},
        "type": "log" if axis.log else "linear",
        "zeroline": False,
        "automargin": True,
    }
    if axis.choices is not None:
        last = len(axis.choices) - 1
        x["tickvals"] = list(range(last + 1))
        x["ticktext"] = [format_value(choice) for choice in axis.choices]
        x["range"] = [-0.5, last + 0.5]
    elif axis.log and math.log10(axis.high / axis.low) > _DECADES_FOR_POWERS:
        x["dtick"] = 1
        x["exponentformat"] = "power"
    elif axis.log:
        x["nticks"] = 6
    return x


def _spread(axis: ParameterAxis, point: TrialPoint) -> float:
    """The x of a point. Points of one choice are spread so that they do not cover each other.

    The offset depends on the trial's number alone: the same study gives the same page.
    """
    value = point.params[axis.name]
    if axis.choices is None:
        return float(value)
    draw = zlib.crc32(str(point.number).encode()) % 1000 / 1000  # in [0, 1)
    return float(axis.choices.index(value)) + (draw - 0.5) * _JITTER
