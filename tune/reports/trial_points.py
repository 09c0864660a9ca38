"""Trials and searched parameters, prepared for the figures of a report."""

import math
from dataclasses import dataclass
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from tune.search.rungs import rungs
from tune.study.record import Record, Run


@dataclass(frozen=True)
class TrialPoint:
    """A trial in a figure of parameters."""

    number: int
    state: str
    params: dict[str, Any]

    at_rung: float | None
    """Objective at the first rung; None if unknown."""

    reached: float | None
    """Final objective, or the best one so far; None if unknown."""


@dataclass(frozen=True)
class ParameterAxis:
    """A searched parameter, over all ranges from which trials drew it."""

    name: str

    choices: list[Any] | None
    """Values of a categorical parameter; None for a numeric one, which is in [low, high]."""

    low: float = 0.0
    high: float = 0.0
    log: bool = False


def first_rung(record: Record) -> int | None:
    """Return the epoch of the first rung; None if there is no rung."""
    version = record.manifest.rules["rungs"]
    return next(iter(rungs(record.length, version)), None)


def trial_points(record: Record) -> list[TrialPoint]:
    """Return all trials that have started, with the parameters that the sampler suggested."""
    rung = first_rung(record)
    points = []
    for frozen in record.frozen_trials():
        run = record.trials.get(frozen.number)
        if run is None:
            continue
        at_rung = None if rung is None else frozen.intermediate_values.get(rung)
        point = TrialPoint(
            number=frozen.number,
            state=run.state,
            params=frozen.params,
            at_rung=finite(at_rung),
            reached=reached(run, record.objective),
        )
        points.append(point)
    return points


def reached(run: Run, objective: str) -> float | None:
    """Return the value of a completed run, otherwise the best value of its epochs."""
    value = finite(run.value)
    if value is not None:
        return value
    values = [finite(metrics.get(objective)) for metrics in run.history]
    return max((value for value in values if value is not None), default=None)


def parameter_axes(record: Record) -> list[ParameterAxis]:
    """Return the searched parameters in alphabetical order, without those that have a single
    value."""
    distributions: dict[str, list[BaseDistribution]] = {}
    for frozen in record.frozen_trials():
        for name, distribution in frozen.distributions.items():
            distributions.setdefault(name, []).append(distribution)

    axes = []
    for name in sorted(distributions):
        axis = _axis(name, distributions[name])
        if axis is not None:
            axes.append(axis)
    return axes


def _axis(name: str, distributions: list[BaseDistribution]) -> ParameterAxis | None:
    categorical = [d for d in distributions if isinstance(d, CategoricalDistribution)]
    if len(categorical) == len(distributions):
        # Choices in order of first appearance. Many trials have the same set of choices, so look at
        # each set once.
        tuples = dict.fromkeys(d.choices for d in categorical)
        choices = list(dict.fromkeys(choice for each in tuples for choice in each))
        return ParameterAxis(name, choices) if len(choices) > 1 else None

    numeric = [d for d in distributions if isinstance(d, FloatDistribution | IntDistribution)]
    if len(numeric) == len(distributions):
        low = min(d.low for d in numeric)
        high = max(d.high for d in numeric)
        log = all(d.log for d in numeric)
        return ParameterAxis(name, None, low, high, log) if low < high else None
    return None


def finite(value: Any) -> float | None:
    """Return the value as a float; None if it is missing or not finite."""
    if value is None or not math.isfinite(value):
        return None
    return float(value)


def five_digits(value: float | None) -> float | None:
    """Round to five significant digits, more than a screen can show."""
    return None if value is None else float(f"{value:.5g}")
