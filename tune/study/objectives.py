"""Objectives of a study: one, or several whose best trials form a front.

    --objective val/top1 --objective -time/epoch_s      # a minus: smaller is better

The first objective chooses which epoch of a trial counts, as in every study. The others are
measured when a trial is complete, and its final metrics contain them under `best/`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from trainables.config import nearest
from trainables.errors import UserError
from tune.study.disk import StudyEnds
from tune.study.log_state import Run
from tune.study.manifest import Manifest
from tune.study.work import Outcome

SHORT = {
    "parameters": "model/parameters",
    "megabytes": "model/megabytes",
    "memory": "model/memory_mb",
    "latency": "model/latency_ms",
    "hours": "time/hours",
    "cpu_hours": "time/cpu_hours",
    "gpu_hours": "time/gpu_hours",
}
"""Short name of a cost -> metric."""
_OF_MODELS = "model/"
"""Prefix of the costs of a trained network, which the study of a function does not know."""
MEASURED = ("model/memory_mb", "model/latency_ms")
"""Costs that take time to measure: only studies that search by them measure them."""
BALANCED = "balanced"
"""Name of the point of a front that is nearest to the best value of every objective."""

Values = Mapping[str, float]
"""Metric -> value."""


@dataclass(frozen=True)
class Objective:
    """A metric and its better direction."""

    metric: str
    minimized: bool = False

    def __str__(self) -> str:
        return f"-{self.metric}" if self.minimized else self.metric

    def gain(self, values: Values) -> float:
        """The metric as a value to maximize."""
        value = values[self.metric]
        return -value if self.minimized else value


def parse_objective(typed: str, *, function: bool = False) -> Objective:
    """Parse `top1`, `val/top1`, `-time/epoch_s`, `-parameters`.

    Args:
        function: the study's function builds its own network, so `-latency` is a metric that it
            reports under that name.
    """
    name = typed.removeprefix("-")
    short = SHORT.get(name, name)
    if not (function and short.startswith(_OF_MODELS)):
        name = short
    return Objective(name if "/" in name else f"val/{name}", typed.startswith("-"))


def parse_objectives(
    typed: Sequence[str], main: str, *, function: bool = False
) -> list[str] | None:
    """Parse the values of several `--objective` options; None if there is at most one.

    Args:
        main: full name of the first objective's metric.
        function: see `parse_objective`.
    Returns:
        The objectives as a manifest holds them, `main` first.
    Raises:
        UserError: the first is not the metric that chooses an epoch, or one is given twice.
    """
    if len(typed) < 2:
        return None
    others = [parse_objective(one, function=function) for one in typed[1:]]
    first = parse_objective(typed[0], function=function)
    if first.metric != main and f"val/{typed[0]}" != main:
        raise UserError(
            f"--objective {typed[0]}: the first objective chooses the epoch of a trial, and "
            f"here that is {main}; name it first"
        )
    names = [main, *(one.metric for one in others)]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise UserError(f"--objective {name} is given twice: leave one of them out")
    return [main, *map(str, others)]


def objectives_of(manifest: Manifest) -> list[Objective]:
    """The objectives of a study; the first one selects."""
    others = (manifest.objectives or [])[1:]
    return [Objective(manifest.objective), *map(parse_objective, others)]


def measured(objectives: Sequence[Objective]) -> list[str]:
    """Costs of the trained network that a trial must measure."""
    wanted = {objective.metric for objective in objectives}
    return [name for name in MEASURED if name in wanted]


def check_measured(metrics: Values, objectives: Sequence[Objective]) -> None:
    """Check, at the first report of a trial, that every objective will have a value.

    Raises:
        StudyEnds: an objective is not the name of a metric, so no trial could be complete.
    """
    known = [*metrics, *SHORT.values()]
    for objective in objectives[1:]:
        if objective.metric not in known:
            raise StudyEnds(
                f"--objective {objective}: trials have no such metric, so begin again with one of "
                f"theirs, under another --study name{nearest(objective.metric, known)}"
            )


def with_objectives(run: Run, outcome: Outcome, objectives: Sequence[Objective]) -> Outcome:
    """Return the outcome of a trial with all objectives in its metrics; a failure if one is
    missing.

    Args:
        run: the trial, with its history.
    """
    if len(objectives) < 2 or outcome.state != "COMPLETE":
        return outcome
    metrics = dict(outcome.metrics)
    for objective in objectives[1:]:
        value = _measured(run, outcome.metrics, objective.metric)
        if value is None or not math.isfinite(value):
            return replace(outcome, state="FAIL", reason=f"no metric {objective.metric}")
        metrics[f"best/{objective.metric}"] = value
    return replace(outcome, metrics=metrics)


def _measured(run: Run, final: Values, metric: str) -> float | None:
    """Value for a complete trial: a cost, the mean of a time over the epochs, or else the value at
    its best epoch."""
    if metric in final:
        return final[metric]
    totals = {
        "time/hours": run.seconds,
        "time/cpu_hours": run.cpu_seconds,
        "time/gpu_hours": run.gpu_seconds,
    }
    if metric in totals:
        return totals[metric] / 3600

    values = {
        epoch: metrics[metric]
        for epoch, metrics in zip(run.epochs, run.history, strict=True)
        if metrics.get(metric) is not None
    }
    if metric.startswith("time/") and values:
        return fmean(values.values())
    return values.get(int(final.get("best/epoch", 0)))


def points_of(
    runs: Mapping[int, Run], objectives: Sequence[Objective]
) -> dict[int, dict[str, float]]:
    """Completed trial -> its value of each objective."""
    found = {}
    for number, run in sorted(runs.items()):
        if run.state != "COMPLETE" or run.value is None:
            continue
        values = {objectives[0].metric: run.value}
        for objective in objectives[1:]:
            value = run.metrics.get(f"best/{objective.metric}")
            if value is not None:
                values[objective.metric] = value
        if len(values) == len(objectives):
            found[number] = values
    return found


def front_of(points: Mapping[int, Values], objectives: Sequence[Objective]) -> list[int]:
    """Return the Pareto front: trials that no other trial beats (as good in everything and better
    in something). The best by the first objective comes first. Of equal points only the earliest
    trial is included."""
    gains = {
        number: tuple(objective.gain(values) for objective in objectives)
        for number, values in points.items()
    }
    found: list[int] = []
    for number, own in gains.items():
        beaten = any(
            _is_as_good(other, own) and (other != own or earlier < number)
            for earlier, other in gains.items()
            if earlier != number
        )
        if not beaten:
            found.append(number)
    return sorted(found, key=lambda number: ([-gain for gain in gains[number]], number))


def _is_as_good(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a >= b for a, b in zip(one, other, strict=True))


def named_points(points: Mapping[int, Values], objectives: Sequence[Objective]) -> dict[int, str]:
    """Named trials of the front: the best by the first objective, and the balanced one. The
    balanced one is nearest to the best of all objectives, each scaled to its range on the front."""
    front = front_of(points, objectives)
    if not front:
        return {}
    named = {front[0]: f"best {objectives[0].metric}"}
    if len(objectives) > 1:
        named.setdefault(
            min(front, key=_distances(front, points, objectives).__getitem__), BALANCED
        )
    return named


def _distances(
    front: Sequence[int], points: Mapping[int, Values], objectives: Sequence[Objective]
) -> dict[int, float]:
    """Trial of the front -> distance from the best of all objectives."""
    squares = dict.fromkeys(front, 0.0)
    for objective in objectives:
        gains = {number: objective.gain(points[number]) for number in front}
        best, worst = max(gains.values()), min(gains.values())
        for number, gain in gains.items():
            squares[number] += ((best - gain) / ((best - worst) or 1.0)) ** 2
    return {number: math.sqrt(square) for number, square in squares.items()}
