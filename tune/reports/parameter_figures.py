"""Figures of the searched parameters: parallel coordinates, and the objective against each
parameter."""

import math
import zlib
from typing import Any

import numpy as np
import plotly.graph_objects as go

from tune.formatting import format_value
from tune.reports.html_figures import BEST, COMPLETED, figure
from tune.reports.trial_points import ParameterAxis, TrialPoint, five_digits

_UNFINISHED = "#888"
_TICKS = 5  # on a numeric axis
_MISSING_OFFSET = 0.12  # distance of "-" below the axis, as a fraction of its length
_JITTER = 0.5  # fraction of the distance between two choices
_DECADES_FOR_POWERS = 1.5  # log axes over more decades have ticks at powers of ten


def parallel(points: list[TrialPoint], axes: list[ParameterAxis], rung: int | None) -> go.Figure:
    """Draw parallel coordinates of all trials that have a value at the compared epoch.

    A trial without a parameter passes through "-" on its axis, and so does a stopped trial on the
    axis of final values.

    Args:
        rung: epoch whose value colours the lines; None for the last epoch.
    """
    points = [point for point in points if _compared(point, rung) is not None]
    compared = [_compared(point, rung) for point in points]
    finals = [_final(point) for point in points]

    dimensions = []
    for axis in axes:
        values = [point.params.get(axis.name) for point in points]
        dimensions.append(_dimension(axis, values))
    if rung is not None:
        dimensions += _objective_dimension(f"epoch {rung}", compared)
    dimensions += _objective_dimension("at the end", finals)

    line = {
        "color": [five_digits(value) for value in compared],
        "colorscale": "Viridis",
        "showscale": True,
        "colorbar": {"thickness": 10},
    }
    trace = go.Parcoords(
        dimensions=dimensions,
        labelangle=-15,
        tickfont={"size": 10},
        labelfont={"size": 11},
        line=line,
    )
    margin = {"l": 60, "r": 40, "t": 95, "b": 25}
    return figure([trace], go.Layout(margin=margin))


def _compared(point: TrialPoint, rung: int | None) -> float | None:
    """Return the value at the epoch at which trials are compared."""
    if rung is None:
        return point.reached
    return point.at_rung


def _final(point: TrialPoint) -> float | None:
    if point.state != "COMPLETE":
        return None
    return point.reached


def _objective_dimension(name: str, values: list[float | None]) -> list[dict[str, Any]]:
    """Return the axis of the objective; empty if no value is known."""
    known = [value for value in values if value is not None]
    if not known:
        return []
    axis = ParameterAxis(
        name=f"<b>{name}</b>",
        choices=None,
        low=min(known),
        high=max(known),
    )
    return [_dimension(axis, values)]


def _dimension(axis: ParameterAxis, values: list[Any]) -> dict[str, Any]:
    """Build an axis of the parallel coordinates; None among the values is drawn at "-"."""
    ticks = _ticks(axis)
    low = min(ticks)
    high = max(ticks)
    missing = low - _MISSING_OFFSET * (high - low)
    if None in values:
        low = missing
        ticks = {missing: "-"} | ticks

    positions = []
    for value in values:
        position = missing if value is None else _position(axis, value)
        positions.append(five_digits(position))
    return {
        "label": axis.name,
        "range": [low, high],
        "tickvals": list(ticks),
        "ticktext": list(ticks.values()),
        "values": positions,
    }


def _ticks(axis: ParameterAxis) -> dict[float, str]:
    """Return position on the axis -> label, in ascending order."""
    if axis.choices is not None:
        return {float(place): format_value(choice) for place, choice in enumerate(axis.choices)}

    low = _position(axis, axis.low)
    high = _position(axis, axis.high)
    if high <= low:
        high = low + 1
    ticks = {}
    for position in np.linspace(low, high, _TICKS):
        value = 10**position if axis.log else position
        ticks[float(position)] = f"{value:.3g}"
    return ticks


def _position(axis: ParameterAxis, value: Any) -> float:
    if axis.choices is not None:
        return float(axis.choices.index(value))
    if axis.log:
        return math.log10(value)
    return float(value)


def slices(
    points: list[TrialPoint], axis: ParameterAxis, objective: str, best: int | None
) -> go.Figure:
    """Plot the objective against one parameter."""
    unfinished = []
    completed = []
    best_points = []
    for point in points:
        if axis.name not in point.params or point.reached is None:
            continue
        if point.number == best:
            best_points.append(point)
        elif point.state == "COMPLETE":
            completed.append(point)
        else:
            unfinished.append(point)

    traces = []
    if unfinished:
        cross = {"color": _UNFINISHED, "size": 5, "symbol": "x-thin-open"}
        traces.append(_markers(axis, "stopped early", unfinished, cross))
    if completed:
        dot = {"color": COMPLETED, "size": 6}
        traces.append(_markers(axis, "ran to the end", completed, dot))
    if best_points:
        star = {"color": BEST, "size": 11, "symbol": "star"}
        traces.append(_markers(axis, "the best", best_points, star))

    layout = go.Layout(
        xaxis=_slice_axis(axis),
        yaxis={"title": {"text": objective}},
        margin={"l": 50, "r": 10, "t": 10, "b": 45},
    )
    return figure(traces, layout)


def _markers(
    axis: ParameterAxis, name: str, points: list[TrialPoint], marker: dict[str, Any]
) -> go.Scatter:
    x = []
    y = []
    text = []
    for point in points:
        x.append(five_digits(_spread(axis, point)))
        y.append(five_digits(point.reached))
        value = format_value(point.params[axis.name])
        text.append(f"trial {point.number}, {value}")
    return go.Scatter(
        mode="markers",
        name=name,
        showlegend=False,
        marker=marker,
        x=x,
        y=y,
        text=text,
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
        count = len(axis.choices)
        x["tickvals"] = list(range(count))
        x["ticktext"] = [format_value(choice) for choice in axis.choices]
        x["range"] = [-0.5, count - 0.5]
    elif axis.log:
        decades = math.log10(axis.high / axis.low)
        if decades > _DECADES_FOR_POWERS:
            x["dtick"] = 1
            x["exponentformat"] = "power"
        else:
            x["nticks"] = 6
    return x


def _spread(axis: ParameterAxis, point: TrialPoint) -> float:
    """Return the x of a point. Points with the same choice are spread so that they do not overlap.

    The offset depends only on the trial's number, so the same study always gives the same page.
    """
    value = point.params[axis.name]
    if axis.choices is None:
        return float(value)
    seed = str(point.number).encode()
    draw = zlib.crc32(seed) % 1000 / 1000  # in [0, 1)
    offset = (draw - 0.5) * _JITTER
    return _position(axis, value) + offset
