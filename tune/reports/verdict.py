"""The claim that a study may make, and why it may be wrong.

The claim compares the best trial with the untuned default on the test split, over repeats under
seeds that the search has not used.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from tune.command_line import command
from tune.reports.statistics import Interval, difference, mean_of
from tune.study.record import table_of
from tune.study.view import StudyView

FEW_TRIALS = 12
"""A search of fewer trials gets a warning."""

_EDGE = 0.02  # as a share of the range
_RANK = "test/rankme"  # an effective rank, at least 1: the one metric that is not in [0, 1]
_RISE = 0.02  # relative gain of the last epoch
_CURVE_EPOCHS = 4  # a shorter curve does not show a trend


@dataclass(frozen=True)
class StudyVerdict:
    """The best trial against the untuned default."""

    metric: str

    best_number: int
    """The best trial; 0 is the default itself."""

    seeds: int
    """Repeats of each configuration."""

    best: Interval
    default: Interval

    gain: Interval | None
    """Best minus default, paired by seed; None where the default is the best trial."""

    baseline: float | None
    """The metric of the untrained network."""

    @property
    def sentence(self) -> str:
        """The verdict for a reader."""
        untrained = "" if self.baseline is None else f"; the untrained network {self.baseline:.4f}"
        if self.gain is None:
            return (
                f"No trial beat the default: {self.metric} {self.default} "
                f"over {self.seeds} seeds{untrained}."
            )
        return (
            f"{_outcome(self.gain)}: {self.metric} of trial {self.best_number} is {self.best}, "
            f"of the untuned default {self.default}, "
            f"gain {self.gain} (95 % intervals, {self.seeds} fresh seeds){untrained}."
        )

    def metrics(self) -> dict[str, float]:
        """Metrics for the study's run in MLflow."""
        intervals = {"best": self.best, "default": self.default}
        if self.gain is not None:
            intervals["gain"] = self.gain

        metrics = {}
        for name, interval in intervals.items():
            metrics[f"{self.metric}/{name}"] = interval.mean
            metrics[f"{self.metric}/{name}_low"] = interval.low
            metrics[f"{self.metric}/{name}_high"] = interval.high
        return metrics


def _outcome(gain: Interval) -> str:
    if gain.low > 0:
        return "Tuning helps"
    if gain.high < 0:
        return "Tuning hurts"
    return "Not decided"


def test_metric(objective: str) -> str:
    """Name the test metric of an objective: `val/knn_top1` -> `test/knn_top1`."""
    return "test/" + objective.removeprefix("val/")


def judge_study(study: StudyView) -> StudyVerdict | None:
    """Compare the best trial with the default.

    Returns None where repeats are missing: too few completed trials, or failed repeats.
    """
    metric = test_metric(study.objective)
    number = study.best_number()
    if number is None:
        return None

    leaders = study.leaders()
    rows, scores = table_of(study.finals(), [0, *leaders], metric)
    seeds = scores.shape[1]
    if number not in rows or 0 not in rows or seeds < 2:
        return None
    best_row = rows.index(number)
    default_row = rows.index(0)

    # The leaders share one estimate of the noise. The default may be noisier: it has its own.
    leader_rows = [row for row, trial in enumerate(rows) if trial in leaders]
    best = mean_of(scores[leader_rows], leader_rows.index(best_row))
    default = mean_of(scores[[default_row]], 0)
    if metric != _RANK:
        best = best.clipped_to_unit()
        default = default.clipped_to_unit()

    gain = None
    if number != 0:
        gain = difference(scores, best_row, default_row)
    return StudyVerdict(
        metric=metric,
        best_number=number,
        seeds=seeds,
        best=best,
        default=default,
        gain=gain,
        baseline=study.summary.get(f"baseline/{metric}"),
    )


def claim(study: StudyView, verdict: StudyVerdict | None) -> str:
    """Return the verdict's sentence, or the reason why there is none."""
    if verdict is not None:
        return verdict.sentence

    number = study.best_number()
    if number is None:
        return "No trial has run to the end, so there is nothing to claim."
    return (
        f"No claim yet: trial {number} leads on the split that selects, "
        "but it or the default has fewer than two repeats under fresh seeds."
    )


def doubts(study: StudyView, storage: Path) -> list[str]:
    """List the reasons not to trust the study's answer; each names a remedy.

    Args:
        storage: folder of the study's folder.
    """
    trials = study.frozen_trials()
    found = list(_doubts_about_search(study, storage, trials))

    number = study.best_number()
    if number is None:
        return [*found, "no trial ran to the end, so there is no best one"]

    best = next((trial for trial in trials if trial.number == number), None)
    if best is None:
        lost = (
            f"study.journal lacks trial {number}, so nothing is known about its parameters; "
            "restore the file from a copy"
        )
        return [*found, lost]

    found += _doubts_about_learning(study, best)
    if number != 0:
        found += _parameters_at_edge(best)
    found += _doubts_about_gain(study)
    found += _doubts_about_budget(best)
    return found


def _doubts_about_search(
    study: StudyView, storage: Path, trials: list[FrozenTrial]
) -> Iterator[str]:
    finished = [trial for trial in trials if trial.state.is_finished()]
    if len(finished) < FEW_TRIALS:
        yield (
            f"only {len(finished)} trials: fewer than {FEW_TRIALS} say little; "
            "give more with --trials"
        )

    failed = sum(trial.state == TrialState.FAIL for trial in finished)
    if failed > len(finished) / 4:
        show = command("report", "show", study.manifest.name, storage=storage, anywhere=True)
        yield f"{failed} of {len(finished)} trials failed; `{show}` has the reasons"


def _doubts_about_learning(study: StudyView, best: FrozenTrial) -> Iterator[str]:
    untrained = study.summary.get(f"baseline/{study.objective}")
    if untrained is None:
        return
    if math.isnan(untrained):
        yield (
            "the untrained network could not be measured, "
            "so it is unknown whether anything was learned; events.jsonl has the reason"
        )
    elif best.value is not None and best.value <= untrained:
        yield (
            f"no trial beat the untrained network ({study.objective} {untrained:.4f}): "
            "nothing was learned; train longer or widen the space"
        )


def _parameters_at_edge(best: FrozenTrial) -> Iterator[str]:
    for name, distribution in best.distributions.items():
        if not isinstance(distribution, FloatDistribution | IntDistribution):
            continue
        value = best.params[name]
        if _is_at_edge(value, distribution):
            yield (
                f"the best {name}={value:g} lies at the edge of its range "
                f"({distribution.low:g} to {distribution.high:g}); widen the range or pin it beyond"
            )


def _is_at_edge(value: float, distribution: FloatDistribution | IntDistribution) -> bool:
    low, high = float(distribution.low), float(distribution.high)
    if distribution.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return min(value - low, high - value) < _EDGE * (high - low)


def _doubts_about_gain(study: StudyView) -> Iterator[str]:
    verdict = judge_study(study)
    if verdict is None or verdict.gain is None or verdict.gain.decided:
        return
    yield (
        f"the gain over the default ({verdict.gain}) is smaller than the noise between seeds; "
        f"{verdict.seeds} fresh seeds cannot tell, give more with --repeats {2 * verdict.seeds}"
    )


def _doubts_about_budget(best: FrozenTrial) -> Iterator[str]:
    curve = [value for _, value in sorted(best.intermediate_values.items())]
    if len(curve) < _CURVE_EPOCHS:
        return
    last = curve[-1]
    rise = last - curve[-2]
    if last == max(curve) and rise > _RISE * abs(last):
        yield (
            "the best trial was still rising at its last epoch; "
            "give it more with --set train.epochs=..."
        )
