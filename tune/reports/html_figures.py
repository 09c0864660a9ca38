"""The figures of a study's report, as plotly dicts: learning curves, parallel coordinates, slices,
importances, best against default."""

import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tune.formatting import format_value
from tune.reports.html_page import Figure
from tune.reports.importances import Importances
from tune.reports.verdict import Verdict
from tune.search.pruner import rungs
from tune.study.record import Record, Run

_ENDED, _STOPPED, _FAILED, _BEST, _DEFAULT = "#6b9fd4", "#b5b5b5", "#c0392b", "#14508c", "#d97706"
_CURVE_POINTS = 60  # of one curve at most: 1,000 curves stay light
_STATES = {
    "COMPLETE": ("ran to the end", _ENDED),
    "PRUNED": ("stopped early", _STOPPED),
    "FAIL": ("failed", _FAILED),
    "open": ("open", "#999"),
}
_BELOW = {"orientation": "h", "y": -0.18, "x": 0}


@dataclass(frozen=True)
class Point:
    """A trial as the figures need it. `at_rung` is its objective at the first rung, `reached` the
    best so far; None: not known."""

    number: int
    state: str
    params: dict[str, Any]
    at_rung: float | None
    reached: float | None


@dataclass(frozen=True)
class Axis:
    """A searched parameter over all the ranges it has had."""

    name: str
    choices: list[Any] | None
    low: float = 0.0
    high: float = 0.0
    log: bool = False


def first_rung_of(record: Record) -> int | None:
    """The epoch at which all trials are first compared; None where trials have only one."""
    return next(iter(rungs(int(record.manifest.base["train.epochs"]))), None)


def points_of(record: Record) -> list[Point]:
    """All trials that have been begun, with the parameters that they were asked for."""
    rung = first_rung_of(record)
    found = []
    for frozen in record.frozen_trials():
        if (run := record.trials.get(frozen.number)) is not None:
            at_rung = None if rung is None else frozen.intermediate_values.get(rung)
            found.append(
                Point(
                    frozen.number,
                    run.state,
                    frozen.params,
                    _finite(at_rung),
                    reached(run, record.objective),
                )
            )
    return found


def reached(run: Run, objective: str) -> float | None:
    """The value of a run that ended, or the best of its epochs."""
    values = [v for v in (_finite(m.get(objective)) for m in run.history) if v is not None]
    return _finite(run.value) if _finite(run.value) is not None else max(values, default=None)


def axes_of(record: Record) -> list[Axis]:
    """The searched parameters, in alphabetical order; those that had one value alone are left
    out."""
    met: dict[str, list[Any]] = {}
    for frozen in record.frozen_trials():
        for name, distribution in frozen.distributions.items():
            if distribution not in met.setdefault(name, []):
                met[name].append(distribution)
    axes = []
    for name, distributions in sorted(met.items()):
        if all(isinstance(d, CategoricalDistribution) for d in distributions):
            choices = list(dict.fromkeys(choice for d in distributions for choice in d.choices))
            axes += [Axis(name, choices)] if len(choices) > 1 else []
        elif all(isinstance(d, FloatDistribution | IntDistribution) for d in distributions):
            low, high = min(d.low for d in distributions), max(d.high for d in distributions)
            axes += (
                [Axis(name, None, low, high, all(d.log for d in distributions))]
                if low < high
                else []
            )
    return axes


def curves(record: Record, best: int | None) -> Figure:
    """The objective by epoch of every trial; a cross marks where one was stopped."""
    objective = record.objective
    data: list[dict[str, Any]] = []
    for state, (said, colour) in reversed(_STATES.items()):
        runs = {
            n: run
            for n, run in sorted(record.trials.items())
            if run.state == state and run.history and n not in (best, 0)
        }
        if runs:
            data.append(
                _lines(runs, objective)
                | {
                    "name": f"{said} ({len(runs)})",
                    "line": {"color": colour, "width": 1},
                    "opacity": 0.75,
                }
            )
    ends = [
        (n, run)
        for n, run in sorted(record.trials.items())
        if run.state in ("PRUNED", "FAIL") and run.history
    ]
    for state, colour in (("PRUNED", "#777"), ("FAIL", _FAILED)):
        stops = [
            (n, len(run.history), run.reason, _finite(run.history[-1].get(objective)))
            for n, run in ends
            if run.state == state
        ]
        if stops:
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "showlegend": False,
                    "marker": {"symbol": "x-thin-open", "size": 6, "color": colour},
                    "x": [s[1] for s in stops],
                    "y": [_short(s[3]) for s in stops],
                    "text": [f"trial {s[0]}: {s[2] or state}" for s in stops],
                    "hovertemplate": "%{text}<br>epoch %{x}: %{y}<extra></extra>",
                }
            )
    for number, name, colour, dash in (
        (0, "the default (trial 0)", _DEFAULT, "dash"),
        (best, f"best: trial {best}", _BEST, "solid"),
    ):
        if (
            number is not None
            and number in record.trials
            and (number or name.startswith("the default"))
        ):
            line = {"color": colour, "width": 3, "dash": dash}
            data.append(
                _lines({number: record.trials[number]}, objective) | {"name": name, "line": line}
            )
    layout = {
        "xaxis": {"title": {"text": "epoch"}},
        "yaxis": {"title": {"text": objective}},
        "legend": _BELOW,
        "margin": _margin(95),
    }
    return {"data": data, "layout": layout}


def _lines(runs: dict[int, Run], objective: str) -> dict[str, Any]:
    """Curves as one trace, with gaps between them."""
    x: list[int | None] = []
    y: list[float | None] = []
    numbers: list[int | None] = []
    for number, run in runs.items():
        for i in sorted(
            {round(k) for k in np.linspace(0, len(run.history) - 1, _CURVE_POINTS)}
            if run.history
            else []
        ):
            x.append(i + 1)
            y.append(_short(_finite(run.history[i].get(objective))))
            numbers.append(number)
        x, y, numbers = [*x, None], [*y, None], [*numbers, None]
    template = "trial %{customdata}, epoch %{x}: %{y}<extra></extra>"
    return {
        "type": "scatter",
        "mode": "lines",
        "x": x,
        "y": y,
        "customdata": numbers,
        "hovertemplate": template,
    }


def parallel(
    points: list[Point], axes: list[Axis], objective: str, rung: int | None
) -> tuple[Figure, int]:
    """Parallel coordinates of all trials that can be compared at one epoch, and how many axes it
    has.

    Where a parameter was not asked for its line goes through "-"; a trial that was stopped has no
    final value.
    """
    shown = [p for p in points if (p.at_rung if rung is not None else p.reached) is not None]
    dimensions = [_dimension(axis, [p.params.get(axis.name) for p in shown]) for axis in axes]
    finals = [p.reached if p.state == "COMPLETE" else None for p in shown]
    colours = [p.at_rung if rung is not None else p.reached for p in shown]
    for name, values in ([] if rung is None else [(f"epoch {rung}", colours)]) + [
        ("at the end", finals)
    ]:
        known = [v for v in values if v is not None]
        if known:
            dimensions.append(
                _dimension(Axis(f"<b>{name}</b>", None, min(known), max(known)), values)
            )
    trace = {
        "type": "parcoords",
        "dimensions": dimensions,
        "labelangle": -15,
        "tickfont": {"size": 10},
        "labelfont": {"size": 11},
        "line": {
            "color": [_short(c) for c in colours],
            "colorscale": "Viridis",
            "showscale": True,
            "colorbar": {"thickness": 10},
        },
    }
    return {"data": [trace], "layout": {"margin": {"l": 60, "r": 40, "t": 95, "b": 25}}}, len(
        dimensions
    )


def _dimension(axis: Axis, values: list[Any]) -> dict[str, Any]:
    if axis.choices is not None:
        places = list(range(len(axis.choices)))
        at: list[float | None] = [
            None if v is None else float(axis.choices.index(v)) for v in values
        ]
        low, high, ticks, texts = (
            0.0,
            float(places[-1]),
            [float(p) for p in places],
            [format_value(c) for c in axis.choices],
        )
    else:
        low, high = _place(axis, axis.low), _place(axis, axis.high)
        high = high if high > low else low + 1
        at = [None if v is None else _place(axis, v) for v in values]
        ticks = list(np.linspace(low, high, 5))
        texts = [f"{10**t if axis.log else t:.3g}" for t in ticks]
    missing = low - 0.12 * (high - low)
    if any(a is None for a in at):
        low, ticks, texts = missing, [missing, *ticks], ["-", *texts]
    return {
        "label": axis.name,
        "range": [low, high],
        "tickvals": [float(t) for t in ticks],
        "ticktext": texts,
        "values": [_short(missing if a is None else float(a)) for a in at],
    }


def slices(points: list[Point], axis: Axis, objective: str, best: int | None) -> Figure:
    """The objective against one parameter: what ran to the end, what was stopped, and the best."""
    asked = [p for p in points if axis.name in p.params and p.reached is not None]
    data = []
    for name, group, marker in (
        (
            "stopped early",
            [p for p in asked if p.state != "COMPLETE"],
            {"color": "#888", "size": 5, "symbol": "x-thin-open"},
        ),
        (
            "ran to the end",
            [p for p in asked if p.state == "COMPLETE" and p.number != best],
            {"color": _ENDED, "size": 6},
        ),
        (
            "the best",
            [p for p in asked if p.number == best],
            {"color": _BEST, "size": 11, "symbol": "star"},
        ),
    ):
        if group:
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": name,
                    "showlegend": False,
                    "marker": marker,
                    "x": [_short(_spread(axis, p)) for p in group],
                    "y": [_short(p.reached) for p in group],
                    "text": [
                        f"trial {p.number}, {format_value(p.params[axis.name])}" for p in group
                    ],
                    "hovertemplate": "%{text}: %{y}<extra></extra>",
                }
            )
    x: dict[str, Any] = {
        "title": {"text": axis.name},
        "type": "log" if axis.log else "linear",
        "zeroline": False,
        "automargin": True,
    }
    if axis.choices is not None:
        last = len(axis.choices) - 1
        x |= {
            "tickvals": list(range(last + 1)),
            "ticktext": [format_value(c) for c in axis.choices],
            "range": [-0.5, last + 0.5],
        }
    elif axis.log:
        x |= (
            {"dtick": 1, "exponentformat": "power"}
            if math.log10(axis.high / axis.low) > 1.5
            else {"nticks": 6}
        )
    return {
        "data": data,
        "layout": {
            "xaxis": x,
            "yaxis": {"title": {"text": objective}},
            "margin": {"l": 50, "r": 10, "t": 10, "b": 45},
        },
    }


def _spread(axis: Axis, point: Point) -> float:
    """A choice's place, and beside it, so that points of one choice do not cover each other; by
    number, so that a page stays the same."""
    value = point.params[axis.name]
    if axis.choices is None:
        return float(value)
    return (
        axis.choices.index(value)
        + (zlib.crc32(str(point.number).encode()) % 1000 / 1000 - 0.5) * 0.5
    )


def importance_bars(found: list[Importances]) -> Figure:
    """Bars by parameter, one colour a fidelity; the most important on top."""
    names = list(dict.fromkeys(name for one in found for name in one.shares))
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": f"at {one.fidelity} ({one.trials} trials)",
            "marker": {"color": colour},
            "y": names,
            "x": [_short(one.shares.get(name, 0.0)) for name in names],
            "hovertemplate": "%{y}: %{x:.1%}<extra></extra>",
        }
        for one, colour in zip(found, (_BEST, "#a9c8e8"), strict=False)
    ]
    layout = {
        "showlegend": True,
        "xaxis": {"title": {"text": "share of importance"}, "tickformat": ".0%"},
        "yaxis": {"autorange": "reversed", "automargin": True},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "margin": {"l": 120, "r": 15, "t": 60, "b": 45},
    }
    return {"data": data, "layout": layout}


def against_default(record: Record, found: Verdict) -> Figure:
    """The test metric over fresh seeds: each of them as a point, means with 95 % intervals."""
    data: list[dict[str, Any]] = []
    rows = [
        (found.best_number, f"trial {found.best_number}", found.best, _BEST),
        (0, "the default", found.default, _DEFAULT),
    ]
    for number, name, interval, colour in rows[: 1 if found.best_number == 0 else 2]:
        finals = [
            (seed, metrics)
            for (n, seed), metrics in sorted(record.finals().items(), key=lambda f: f[0])
            if n == number
        ]
        scores = [
            (seed, metrics[found.metric]) for seed, metrics in finals if found.metric in metrics
        ]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [_short(score) for _, score in scores],
                "y": [name] * len(scores),
                "text": [f"seed {seed}" for seed, _ in scores],
                "hovertemplate": "%{text}: %{x}<extra></extra>",
                "marker": {"color": colour, "size": 8, "opacity": 0.45},
                "showlegend": False,
            }
        )
        bars = {
            "type": "data",
            "symmetric": False,
            "array": [interval.high - interval.mean],
            "arrayminus": [interval.mean - interval.low],
        }
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [interval.mean],
                "y": [name],
                "error_x": bars | {"thickness": 2},
                "marker": {"color": colour, "size": 12, "symbol": "diamond"},
                "showlegend": False,
                "hovertemplate": f"mean {interval}<extra></extra>",
            }
        )
    layout = {
        "xaxis": {"title": {"text": found.metric}},
        "yaxis": {"automargin": True, "autorange": "reversed"},
    }
    if found.baseline is not None and math.isfinite(found.baseline):
        line = {
            "type": "line",
            "x0": found.baseline,
            "x1": found.baseline,
            "yref": "paper",
            "y0": 0,
            "y1": 1,
            "line": {"dash": "dot"},
        }
        note = {
            "x": found.baseline,
            "yref": "paper",
            "y": 1.02,
            "yanchor": "bottom",
            "text": "untrained",
            "showarrow": False,
        }
        layout |= {"shapes": [line], "annotations": [note]}
    return {"data": data, "layout": layout}


def _place(axis: Axis, value: float) -> float:
    return math.log10(value) if axis.log else float(value)


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _short(value: float | None) -> float | None:
    """Five digits: what a screen can show."""
    return None if value is None else float(f"{value:.5g}")


def _margin(below: int) -> dict[str, int]:
    return {"l": 60, "r": 15, "t": 15, "b": below}
