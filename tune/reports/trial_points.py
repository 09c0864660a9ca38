"""Trials and searched parameters as the figures of a report need them."""

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
    """Objective at the first rung; None: unknown."""

    reached: float | None
    """Final or best objective so far; None: unknown."""


@dataclass(frozen=True)
class ParameterAxis:
    """A searched parameter, over all ranges that trials drew it from."""

    name: str

    choices: list[Any] | None
    """Values of a categorical parameter; None: numeric, in [low, high]."""

    low: float = 0.0
    high: float = 0.0
    log: bool = False


def first_rung(record: Record) -> int | None:
    """The epoch at which trials are first compared; None where trials have one epoch."""
    version = record.manifest.rules["rungs"]
    return next(iter(rungs(record.length, version)), None)


def trial_points(record: Record) -> list[TrialPoint]:
    """All trials that have begun, with the parameters that the sampler suggested."""
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
    """The value of a run that has ended, otherwise the best of its epochs."""
    value = finite(run.value)
    if value is not None:
        return value
    values = [finite(metrics.get(objective)) for metrics in run.history]
    return max((value for value in values if value is not None), default=None)


def parameter_axes(record: Record) -> list[ParameterAxis]:
    """The searched parameters in alphabetical order; those with a single value are left out."""
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
        # In the order in which they were first met. Sets of choices repeat: look at each once.
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
    """The number; None for a missing or an infinite one."""
    if value is None or not math.isfinite(value):
        return None
    return float(value)


def five_digits(value: float | None) -> float | None:
    """Round to five significant digits, more than a screen can show."""
    return None if value is None else float(f"{value:.5g}")
