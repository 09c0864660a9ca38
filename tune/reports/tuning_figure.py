"""Figure of a comparison's tuning curves, which shows the leading setting for each number of
trials."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from markupsafe import Markup

from trainables.plots.class_colours import COLOURS
from tune.reports.html_figures import figure
from tune.reports.html_page import plot, render
from tune.reports.trial_points import finite, five_digits
from tune.reports.tuning_curve import TuningCurve, tuning_curve
from tune.study.record import Record

NOTE = (
    "Median of the best of n trials on the split that selects, with a 95 % band for all n. A "
    "stopped trial counts with its best epoch. "
)
_INK = 0.4  # opacity of all bands together: many would hide the lines
_FAINT = 0.15  # opacity of one band
_FEWEST = 4  # trials; fewer give no useful band


def tuning_section(searches: Mapping[str, Sequence[Record]]) -> Markup:
    """Render the figure with its heading and note, as part of a page; empty if there is no figure.

    Args:
        searches: setting -> its searches, whose trials are pooled into one sample.
    """
    drawn = tuning_figure(searches)
    if drawn is None:
        return Markup()
    shown = plot(drawn, "the best of n trials, by setting", height=420)
    return render("tuning.html", figure=shown, note=NOTE + _exactness(searches))


def _exactness(searches: Mapping[str, Sequence[Record]]) -> str:
    """Say whether the trials are the independent draws that the band assumes."""
    records = [record for found in searches.values() for record in found]
    reasons = []
    if any(record.manifest.rules["sampler"] != "random" for record in records):
        reasons.append("the sampler spreads its first trials and then learns from them")
    if any(run.state == "PRUNED" for record in records for run in record.trials.values()):
        reasons.append("whether a trial is stopped depends on the others")
    if not reasons:
        return "Band and median are exact, because these draws are independent."
    return (
        "Approximate: band and median are exact for independent draws, while "
        f"{' and '.join(reasons)}."
    )


def tuning_figure(searches: Mapping[str, Sequence[Record]]) -> go.Figure | None:
    """Draw the curves of all settings; None if no setting has enough trials with results in [0,
    1]."""
    traces = []
    for place, (name, records) in enumerate(searches.items()):
        values = [value for record in records for value in results(record)]
        if len(values) < _FEWEST or min(values) < 0 or max(values) > 1:
            continue
        colour = COLOURS[place % len(COLOURS)]
        curve = tuning_curve(values, trials=len(values))
        traces += _traces(name, curve, colour, opacity=min(_FAINT, _INK / len(searches)))
    if not traces:
        return None

    objective = next(record.objective for records in searches.values() for record in records)
    layout = go.Layout(
        xaxis={"title": {"text": "trials"}},
        yaxis={"title": {"text": f"best {objective}"}},
        legend={"orientation": "h", "y": -0.18, "x": 0},
        margin={"l": 60, "r": 15, "t": 15, "b": 95},
    )
    return figure(traces, layout)


def results(record: Record) -> list[float]:
    """Return the best objective of every trial that the sampler drew and that completed or was
    pruned."""
    values = []
    for number, run in sorted(record.trials.items()):
        drawn = number != 0 and not run.enqueued
        if not drawn or run.state not in ("COMPLETE", "PRUNED"):
            continue
        reached = [finite(metrics.get(record.objective)) for metrics in run.history]
        known = [value for value in reached if value is not None]
        if known:
            values.append(max(known))
    return values


def _traces(name: str, curve: TuningCurve, colour: str, opacity: float) -> list[go.Scatter]:
    """Draw the band as an area, and the median as a line."""
    there_and_back = curve.trials + curve.trials[::-1]
    area = go.Scatter(
        x=there_and_back,
        y=[five_digits(value) for value in curve.high + curve.low[::-1]],
        fill="toself",
        fillcolor=colour,
        opacity=opacity,
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
