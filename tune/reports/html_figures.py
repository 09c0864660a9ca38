"""Figures of a study's report: learning curves, importances, best against default."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from tune.reports.importances import Importances, Share
from tune.reports.statistics import Interval
from tune.reports.trial_points import finite, five_digits
from tune.reports.verdict import StudyVerdict, repeat_scores
from tune.study.record import Record, Run

COMPLETED = "#6b9fd4"
PRUNED = "#b5b5b5"
FAILED = "#c0392b"
OPEN = "#999"
BEST = "#14508c"
DEFAULT = "#d97706"
EARLY = "#a9c8e8"
STOP_MARK = "#777"

_FEW_EPOCHS = 12
_CURVE_POINTS = 60  # maximum per curve; keeps 1,000 curves small
_STATES = {
    "open": ("open", OPEN),
    "FAIL": ("failed", FAILED),
    "PRUNED": ("stopped early", PRUNED),
    "COMPLETE": ("ran to the end", COMPLETED),
}
"""State -> (legend, colour), in drawing order: the last one is on top."""

Runs = Mapping[int, Run]
"""Trial number -> run."""


def figure(traces: list[go.Scatter | go.Bar | go.Parcoords], layout: go.Layout) -> go.Figure:
    """Return a figure without plotly.py's default template, which plotly.js does not need."""
    layout.template = "none"
    return go.Figure(traces, layout)


def curves(record: Record, best: int | None) -> go.Figure:
    """Plot the objective of every trial by epoch; a cross marks where a trial was stopped.

    Args:
        best: number of the trial to highlight; the default is highlighted too.
    """
    objective = record.objective
    runs = {number: run for number, run in sorted(record.trials.items()) if run.history}

    traces = []
    for state, (legend, colour) in _STATES.items():
        shown = {}
        for number, run in runs.items():
            if run.state == state and number not in (best, 0):
                shown[number] = run
        if shown:
            trace = _lines(shown, objective)
            trace.update(
                name=f"{legend} ({len(shown)})",
                line={"color": colour, "width": 1},
                opacity=0.75,
            )
            traces.append(trace)

    for state, colour in (("PRUNED", STOP_MARK), ("FAIL", FAILED)):
        stopped = {number: run for number, run in runs.items() if run.state == state}
        if stopped:
            traces.append(_stop_marks(stopped, objective, colour))

    if 0 in record.trials:
        line = {"color": DEFAULT, "width": 3, "dash": "dash"}
        trace = _lines({0: record.trials[0]}, objective)
        traces.append(trace.update(name="the default (trial 0)", line=line))
    if best and best in record.trials:
        line = {"color": BEST, "width": 3, "dash": "solid"}
        trace = _lines({best: record.trials[best]}, objective)
        traces.append(trace.update(name=f"best: trial {best}", line=line))

    axis: dict[str, Any] = {"title": {"text": "epoch"}}
    if max((len(run.history) for run in runs.values()), default=0) <= _FEW_EPOCHS:
        axis["dtick"] = 1  # otherwise plotly labels half epochs
    layout = go.Layout(
        xaxis=axis,
        yaxis={"title": {"text": objective}},
        legend={"orientation": "h", "y": -0.18, "x": 0},
        margin={"l": 60, "r": 15, "t": 15, "b": 95},
    )
    return figure(traces, layout)


def _lines(runs: Runs, objective: str) -> go.Scatter:
    """Draw curves as one trace, with a gap after each."""
    x: list[int | None] = []
    y: list[float | None] = []
    numbers: list[int | None] = []
    for number, run in runs.items():
        for index in _shown_epochs(len(run.history)):
            value = finite(run.history[index].get(objective))
            x.append(index + 1)
            y.append(five_digits(value))
            numbers.append(number)
        x.append(None)
        y.append(None)
        numbers.append(None)
    return go.Scatter(
        mode="lines",
        x=x,
        y=y,
        customdata=numbers,
        hovertemplate="trial %{customdata}, epoch %{x}: %{y}<extra></extra>",
    )


def _shown_epochs(epochs: int) -> list[int]:
    """Return the indices of at most `_CURVE_POINTS` epochs, including the first and the last."""
    if epochs <= _CURVE_POINTS:
        return list(range(epochs))
    return sorted({round(index) for index in np.linspace(0, epochs - 1, _CURVE_POINTS)})


def _stop_marks(runs: Runs, objective: str, colour: str) -> go.Scatter:
    """Draw a cross at the last epoch of each run."""
    last_values = [finite(run.history[-1].get(objective)) for run in runs.values()]
    return go.Scatter(
        mode="markers",
        showlegend=False,
        marker={"symbol": "x-thin-open", "size": 6, "color": colour},
        x=[len(run.history) for run in runs.values()],
        y=[five_digits(value) for value in last_values],
        text=[f"trial {number}: {run.reason or run.state}" for number, run in runs.items()],
        hovertemplate="%{text}<br>epoch %{x}: %{y}<extra></extra>",
    )


def importance_bars(found: list[Importances]) -> go.Figure:
    """Draw bars with intervals by parameter, one colour per fidelity, most important on top."""
    names = list(dict.fromkeys(name for result in found for name in result.shares))
    traces = []
    for result, colour in zip(found, (BEST, EARLY), strict=False):
        nothing = Share(0.0, 0.0, 0.0)
        shares = [result.shares.get(name, nothing) for name in names]
        error_bars = {
            "type": "data",
            "symmetric": False,
            "array": [five_digits(max(0.0, share.high - share.value)) for share in shares],
            "arrayminus": [five_digits(max(0.0, share.value - share.low)) for share in shares],
            "color": STOP_MARK,
            "thickness": 1,
            "width": 3,
        }
        bars = go.Bar(
            orientation="h",
            name=f"at {result.fidelity} ({result.trials} trials)",
            marker={"color": colour},
            y=names,
            x=[five_digits(share.value) for share in shares],
            error_x=error_bars,
            text=[f"{share.low:.0%} to {share.high:.0%}" for share in shares],
            textposition="none",
            hovertemplate="%{y}: %{x:.1%} (%{text})<extra></extra>",
        )
        traces.append(bars)

    layout = go.Layout(
        showlegend=True,
        xaxis={"title": {"text": "share of the differences between trials"}, "tickformat": ".0%"},
        yaxis={"autorange": "reversed", "automargin": True},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        margin={"l": 120, "r": 15, "t": 60, "b": 45},
    )
    return figure(traces, layout)


def against_default(record: Record, verdict: StudyVerdict) -> go.Figure:
    """Plot the test metric under fresh seeds: one point per seed, and means with 95 % intervals."""
    name = f"trial {verdict.number}"
    traces = [
        _seed_points(record, verdict.metric, verdict.number, name, BEST),
        _mean_with_interval(verdict.trial, name, BEST),
        _seed_points(record, verdict.metric, 0, "the default", DEFAULT),
        _mean_with_interval(verdict.default, "the default", DEFAULT),
    ]

    layout = go.Layout(
        xaxis={"title": {"text": verdict.metric}},
        yaxis={"automargin": True, "autorange": "reversed"},
    )
    if verdict.baseline is not None and math.isfinite(verdict.baseline):
        _mark_untrained(layout, verdict.baseline)
    return figure(traces, layout)


def scores_with_intervals(
    sides: Mapping[str, tuple[Mapping[int, float], Interval | None]], metric: str
) -> go.Figure:
    """Plot the test metric of several studies: one point per seed, and means with 95 % intervals.

    Args:
        sides: study name -> (scores by seed, their mean with its interval).
    """
    traces = []
    for name, (scores, interval) in sides.items():
        traces.append(_score_points(scores, name, BEST))
        if interval is not None:
            traces.append(_mean_with_interval(interval, name, BEST))
    layout = go.Layout(
        xaxis={"title": {"text": metric}},
        yaxis={"automargin": True, "autorange": "reversed"},
    )
    return figure(traces, layout)


def _seed_points(record: Record, metric: str, trial: int, name: str, colour: str) -> go.Scatter:
    return _score_points(repeat_scores(record, trial, metric), name, colour)


def _score_points(by_seed: Mapping[int, float], name: str, colour: str) -> go.Scatter:
    scores = dict(sorted(by_seed.items()))
    return go.Scatter(
        mode="markers",
        x=[five_digits(score) for score in scores.values()],
        y=[name] * len(scores),
        text=[f"seed {seed}" for seed in scores],
        hovertemplate="%{text}: %{x}<extra></extra>",
        marker={"color": colour, "size": 8, "opacity": 0.45},
        showlegend=False,
    )


def _mean_with_interval(interval: Interval, name: str, colour: str) -> go.Scatter:
    error_bar = {
        "type": "data",
        "symmetric": False,
        "array": [interval.high - interval.mean],
        "arrayminus": [interval.mean - interval.low],
        "thickness": 2,
    }
    return go.Scatter(
        mode="markers",
        x=[interval.mean],
        y=[name],
        error_x=error_bar,
        marker={"color": colour, "size": 12, "symbol": "diamond"},
        showlegend=False,
        hovertemplate=f"mean {interval}<extra></extra>",
    )


def _mark_untrained(layout: go.Layout, value: float) -> None:
    """Draw a dotted line at the untrained network's metric."""
    line = {
        "type": "line",
        "x0": value,
        "x1": value,
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "line": {"dash": "dot"},
    }
    label = {
        "text": "untrained",
        "x": value,
        "yref": "paper",
        "y": 1.02,
        "yanchor": "bottom",
        "showarrow": False,
    }
    layout.update(shapes=[line], annotations=[label])
