"""Figure of a comparison's tuning curves: which setting is ahead at which number of trials."""

from collections.abc import Mapping

import plotly.graph_objects as go

from tune.reports.html_figures import figure
from tune.reports.trial_points import five_digits
from tune.reports.tuning_curve import TuningCurve, tuning_curve
from tune.study.record import Record

NOTE = (
    "Median of the best of n trials on the split that selects, with a 95 % band for all n. "
    "Approximate: band and median are exact for independent draws, while the sampler spreads its "
    "first trials and then learns from them. A stopped trial counts with its best epoch."
)
_COLOURS = ("#14508c", "#d97706", "#2e7d32", "#8e44ad", "#c0392b", "#555555")
_FEWEST = 4  # trials: fewer bound nothing


def tuning_figure(records: Mapping[str, Record]) -> go.Figure | None:
    """The curves of all settings; None where none has enough trials with results in [0, 1]."""
    traces = []
    for place, (name, record) in enumerate(records.items()):
        values = results(record)
        if len(values) < _FEWEST or min(values) < 0 or max(values) > 1:
            continue
        colour = _COLOURS[place % len(_COLOURS)]
        traces += _traces(name, tuning_curve(values, trials=len(values)), colour)
    if not traces:
        return None

    objective = next(iter(records.values())).objective
    layout = go.Layout(
        xaxis={"title": {"text": "trials"}},
        yaxis={"title": {"text": f"best {objective}"}},
        legend={"orientation": "h", "y": -0.18, "x": 0},
        margin={"l": 60, "r": 15, "t": 15, "b": 95},
    )
    return figure(traces, layout)


def results(record: Record) -> list[float]:
    """Best objective of every trial that the sampler drew and that has ended or was stopped."""
    values = []
    for number, run in sorted(record.trials.items()):
        if number == 0 or run.state not in ("COMPLETE", "PRUNED"):
            continue
        reached = [metrics[record.objective] for metrics in run.history]
        if reached:
            values.append(max(reached))
    return values


def _traces(name: str, curve: TuningCurve, colour: str) -> list[go.Scatter]:
    """The band as an area, and the median as a line of steps."""
    there_and_back = curve.trials + curve.trials[::-1]
    area = go.Scatter(
        x=there_and_back,
        y=[five_digits(value) for value in curve.high + curve.low[::-1]],
        fill="toself",
        fillcolor=colour,
        opacity=0.15,
        mode="none",
        legendgroup=name,
        showlegend=False,
        hoverinfo="skip",
    )
    line = go.Scatter(
        x=curve.trials,
        y=[five_digits(value) for value in curve.median],
        mode="lines+markers",
        line={"color": colour, "width": 2},
        name=name,
        legendgroup=name,
        hovertemplate=f"{name}, best of %{{x}}: %{{y}}<extra></extra>",
    )
    return [area, line]
