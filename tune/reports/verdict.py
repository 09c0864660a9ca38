"""What a study may claim: the best trial against the untuned default on the test split, over seeds
that no search has used; and what it does not know."""

import math
from dataclasses import dataclass
from typing import Any

from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState

from tune.reports.statistics import Interval, difference, mean_of
from tune.study.record import table_of
from tune.study.view import StudyView

_EDGE = 0.02  # of a range: closer than this is "at the edge"
_RANK = "test/rankme"  # the one metric that is no share: an effective rank, from 1 on
FEW_TRIALS = 12


@dataclass(frozen=True)
class Verdict:
    """`gain` is paired by seed (`tune/reports/statistics.py`); None where the default itself is the
    best trial."""

    metric: str
    best_number: int
    seeds: int
    best: Interval
    default: Interval
    gain: Interval | None
    baseline: float | None

    @property
    def sentence(self) -> str:
        untrained = "" if self.baseline is None else f"; the untrained network {self.baseline:.4f}"
        if self.gain is None:
            return f"No trial beat the default: {self.metric} {self.default} over {self.seeds} seeds{untrained}."
        known = (
            "Tuning helps"
            if self.gain.low > 0
            else "Tuning hurts"
            if self.gain.high < 0
            else "Not decided"
        )
        return (
            f"{known}: {self.metric} of trial {self.best_number} is {self.best}, of the untuned default {self.default}, "
            f"gain {self.gain} (95 % intervals, {self.seeds} fresh seeds){untrained}."
        )

    def metrics(self) -> dict[str, float]:
        """For the study's run in MLflow."""
        shown: dict[str, Interval] = {"best": self.best, "default": self.default}
        if self.gain is not None:
            shown["gain"] = self.gain
        return {
            f"{self.metric}/{k}{e}": v
            for k, i in shown.items()
            for e, v in (("", i.mean), ("_low", i.low), ("_high", i.high))
        }


def test_metric(objective: str) -> str:
    """`val/knn_top1` -> `test/knn_top1`."""
    return "test/" + objective.removeprefix("val/")


def verdict(study: StudyView) -> Verdict | None:
    """None where repeats are missing (too few finished trials, or repeats that failed)."""
    metric = test_metric(study.objective)
    number = study.best_number()
    if number is None:
        return None
    rows, scores = table_of(study.finals(), [0, *study.leaders()], metric)
    if not {0, number} <= set(rows) or scores.shape[1] < 2:
        return None
    best, default = rows.index(number), rows.index(0)
    # alike in their noise, the default perhaps not
    leaders = [row for row, n in enumerate(rows) if n in study.leaders()]
    means = mean_of(scores[leaders], leaders.index(best)), mean_of(scores[[default]], 0)
    if metric != _RANK:
        means = means[0].clipped_to_unit(), means[1].clipped_to_unit()
    return Verdict(
        metric=metric,
        best_number=number,
        seeds=scores.shape[1],
        best=means[0],
        default=means[1],
        gain=None if number == 0 else difference(scores, best, default),
        baseline=study.summary.get(f"baseline/{metric}"),
    )


def claim(study: StudyView, found: Verdict | None) -> str:
    """The verdict in a sentence, or why there is none."""
    if found is not None:
        return found.sentence
    if (number := study.best_number()) is None:
        return "No trial has run to the end, so that there is nothing to claim."
    return f"No claim yet: trial {number} is ahead on the split that selects; it or the default has fewer than two repeats on fresh seeds."


def doubts(study: StudyView) -> list[str]:
    """What keeps this study from being the last word; each line says what to do."""
    found = []
    trials = [t for t in study.frozen_trials() if t.state.is_finished()]
    if len(trials) < FEW_TRIALS:
        found.append(
            f"only {len(trials)} trials: fewer than {FEW_TRIALS} say little; give more with --trials"
        )
    failed = sum(t.state == TrialState.FAIL for t in trials)
    if trials and failed * 4 > len(trials):
        found.append(
            f"{failed} of {len(trials)} trials failed; `python tune/report.py show {study.manifest.name}` has the reasons"
        )
    number = study.best_number()
    if number is None:
        return [*found, "no trial ran to the end, so there is no best one"]
    best = {t.number: t for t in study.frozen_trials()}.get(number)
    if best is None:
        return [
            *found,
            f"study.journal lacks trial {number}, so that nothing can be said of its parameters; restore it from a copy",
        ]
    untrained = study.summary.get(f"baseline/{study.objective}")
    if untrained is not None and math.isnan(untrained):
        found.append(
            "the untrained network could not be measured: whether anything was learned is open; events.jsonl has the reason"
        )
    if untrained is not None and best.value is not None and best.value <= untrained:
        found.append(
            f"no trial beat the untrained network ({study.objective} {untrained:.4f}): nothing was learned; train longer or widen the space"
        )
    found += [
        f"the best {name}={best.params[name]:g} lies at the edge of its range ({d.low:g} to {d.high:g}); widen the range or pin it beyond"
        for name, d in best.distributions.items()
        if isinstance(d, FloatDistribution | IntDistribution)
        and number
        and _at_edge(best.params[name], d)
    ]
    shown = verdict(study)
    if shown is not None and shown.gain is not None and not shown.gain.decided:
        found.append(
            f"the gain over the default ({shown.gain}) is smaller than the noise between seeds; "
            f"{shown.seeds} fresh seeds cannot tell, give more with --repeats {2 * shown.seeds}"
        )
    values = [v for _, v in sorted(best.intermediate_values.items())]
    if (
        len(values) >= 4
        and values[-1] == max(values)
        and values[-1] - values[-2] > 0.02 * abs(values[-1])
    ):
        found.append(
            "the best trial was still rising at its last epoch; give it more with --set train.epochs=..."
        )
    return found


def _at_edge(value: Any, d: FloatDistribution | IntDistribution) -> bool:
    low, high, at = (
        (math.log(x) for x in (d.low, d.high, value)) if d.log else (d.low, d.high, value)
    )
    return min(at - low, high - at) < _EDGE * (high - low)
