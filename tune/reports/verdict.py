"""The claim that a study may make; `doubts.py` lists reasons why it may be wrong.

The claim compares one trial with the default on the test split, over repeats under seeds
that the search has not used. It applies only to this configuration; another search would find
another one.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tune.reports.no_claim import why_no_claim
from tune.reports.sampling_error import MISSING, outcomes_of, sampling_variance
from tune.reports.statistics import Interval, mean_of, p_value_text, paired, significance, welch
from tune.study.rules import FINALISTS, WINNER, test_metric
from tune.study.view import StudyView

_RANK = "test/rankme"  # an effective rank, at least 1; the only metric that is not in [0, 1]


@dataclass(frozen=True)
class StudyVerdict:
    """Comparison of a trial with the default, on the test split."""

    metric: str

    number: int
    """The compared trial: the study's answer, or the best other trial if the default is the
    answer."""

    is_answer: bool
    """True if the trial is the study's answer; False if the default is."""

    seeds: int
    """Number of repeats of the configuration that has fewer."""

    trial: Interval
    default: Interval

    gain: Interval
    """Trial minus default."""

    level: float
    """Significance level of this look: the gain is decided if its p-value is below it."""

    baseline: float | None
    """The metric of the untrained network."""

    covers_images: bool
    """True if the intervals also cover another draw of test images."""

    @property
    def decided(self) -> bool:
        """True if the difference is larger than noise explains."""
        return self.gain.p < self.level

    @property
    def outcome(self) -> str:
        """The answer in a few words."""
        if not self.decided:
            return "Not decided"
        if self.gain.mean > 0:
            return f"Trial {self.number} beats the default"
        return f"Trial {self.number} is worse than the default"

    @property
    def sentence(self) -> str:
        """The verdict as a sentence."""
        untrained = "" if self.baseline is None else f"; the untrained network {self.baseline:.4f}"
        which = f"trial {self.number}"
        if not self.is_answer:
            which += ", the best of the others (validation prefers the default),"
        return (
            f"{self.outcome}: {self.metric} of {which} is {self.trial}, "
            f"of the default {self.default}, gain {self.gain} "
            f"(95 % intervals, {self.covered}, {p_value_text(self.gain.p, self.level)})"
            f"{untrained}."
        )

    @property
    def covered(self) -> str:
        """The sources of error that the intervals cover."""
        seeds = f"{self.seeds} fresh seeds of each"
        if self.covers_images:
            return f"{seeds} and the draw of test images"
        return f"{seeds}; {MISSING}"

    def metrics(self) -> dict[str, float]:
        """Metrics for the study's run in MLflow."""
        best = self.trial if self.is_answer else self.default
        intervals = {"best": best, "default": self.default, "gain": self.gain}

        metrics = {}
        for name, interval in intervals.items():
            metrics[f"{self.metric}/{name}"] = interval.mean
            metrics[f"{self.metric}/{name}_low"] = interval.low
            metrics[f"{self.metric}/{name}_high"] = interval.high
        return metrics


def judge_study(study: StudyView) -> StudyVerdict | None:
    """Compare the study's answer, or the best other trial, with the default.

    Return None if there are too few repeats (too few completed trials, or lost repeats), or if a
    repeat of a function diverged or all its repeats are equal.
    """
    metric = test_metric(study.objective)
    answer = study.best_number()
    number = answer or study.repeat_rule.challenger(study.distinct)
    if number is None or diverged_without_baseline(study, number):
        return None

    scores = repeat_scores(study, number, metric)
    default_scores = repeat_scores(study, 0, metric)
    if min(len(scores), len(default_scores)) < 2:
        return None
    if study.manifest.function and not _seeds_count(scores, default_scores):
        return None

    outcomes = outcomes_of(study, number)
    default_outcomes = outcomes_of(study, 0)
    of_trial = sampling_variance(metric, outcomes)
    of_default = sampling_variance(metric, default_outcomes)
    of_gain = sampling_variance(metric, outcomes, default_outcomes)

    trial = mean_of(list(scores.values()), of_trial or 0.0)
    default = mean_of(list(default_scores.values()), of_default or 0.0)
    # Scores of images are in [0, 1]. The range of a function's other metrics is unknown.
    is_share = of_gain is not None or not study.manifest.function
    if metric != _RANK and is_share:
        trial = trial.clipped_to_unit()
        default = default.clipped_to_unit()

    return StudyVerdict(
        metric=metric,
        number=number,
        is_answer=answer != 0,
        seeds=min(len(scores), len(default_scores)),
        trial=trial,
        default=default,
        gain=difference(scores, default_scores, of_gain or 0.0),
        level=level_of(study),
        baseline=study.summary.get(f"baseline/{metric}"),
        covers_images=of_gain is not None,
    )


def level_of(study: StudyView) -> float:
    """Return the significance level of a comparison at this look. With several objectives, two
    comparisons share it (Bonferroni): the front's best trial with the default, and its named points
    with each other."""
    level = significance(study.look)
    return level / 2 if len(study.objectives) > 1 else level


def diverged_without_baseline(study: StudyView, number: int) -> int:
    """Count the diverged repeats of a trial or the default that have no substitute score. A
    function has no untrained network, and leaving these repeats out would be too optimistic."""
    if not study.manifest.function:
        return 0
    return sum(
        run.state == "PRUNED" for (trial, _), run in study.repeats.items() if trial in (0, number)
    )


def _seeds_count(*configurations: Mapping[int, float]) -> bool:
    """True if the repeats of any configuration differ."""
    return any(len(set(scores.values())) > 1 for scores in configurations)


def repeat_scores(study: StudyView, number: int, metric: str) -> dict[int, float]:
    """Return seed -> test metric of a trial's repeats.

    A diverged repeat gets the score of the untrained network, or under version 1 of the rules that
    of its best epoch. Repeats that were lost, or whose metric is not finite, are left out.
    """
    judged_by_best_epoch = study.repeat_rule.rule == FINALISTS
    scores = {}
    for (trial, seed), run in study.repeats.items():
        if trial != number:
            continue
        value = run.metrics.get(metric, math.nan)
        diverged_later = run.state == "COMPLETE" and bool(run.reason)
        if run.state == "PRUNED" or (diverged_later and not judged_by_best_epoch):
            value = study.summary.get(f"baseline/{metric}", 0.0)
        if math.isfinite(value):
            scores[seed] = value
    return scores


def difference(
    scores: Mapping[int, float],
    others: Mapping[int, float],
    sampling_variance: float = 0.0,
) -> Interval:
    """Subtract two configurations: in pairs if both have the same seeds, otherwise by Welch's
    interval.

    Args:
        scores: seed -> metric, at least two.
        others: seed -> metric of the subtracted configuration.
        sampling_variance: variance of the difference over other samples of test images.
    """
    if scores.keys() != others.keys():
        return welch(list(scores.values()), list(others.values()), sampling_variance)
    seeds = list(scores)
    return paired(
        [scores[seed] for seed in seeds], [others[seed] for seed in seeds], sampling_variance
    )


def claim(study: StudyView, verdict: StudyVerdict | None) -> str:
    """Return the verdict's sentence, or the reason why there is no verdict."""
    if verdict is not None:
        return verdict.sentence

    number = study.best_number()
    is_compared = study.repeat_rule.rule != WINNER and list(study.completed) != [0]
    if number is not None and is_compared and study.manifest.function:
        missing = _missing_of_function(study, number)
        if missing:
            return f"No verdict: trial {number} leads on the split that selects, but {missing}."
    return why_no_claim(study)


def _missing_of_function(study: StudyView, number: int) -> str:
    """Say what prevents a verdict for a function's study; "" if only repeats are missing."""
    diverged = diverged_without_baseline(study, number)
    if diverged:
        repeats = "a repeat" if diverged == 1 else f"{diverged} repeats"
        return f"{repeats} of it or of the default diverged, and nothing stands for their result"

    finals = study.finals().values()
    metric = test_metric(study.objective)
    if finals and not any(metric in final for final in finals):
        given = metric.removeprefix("test/").removeprefix("-")
        return f"its function gives no test result, run.test({given}=...): this is a leaderboard"

    other = number or study.repeat_rule.challenger(study.distinct) or 0
    repeated = [repeat_scores(study, trial, metric) for trial in (0, other)]
    if min(map(len, repeated)) > 1 and not _seeds_count(*repeated):
        return (
            "all repeats of a configuration give the same result, as when a training does not use "
            "its seed, so nothing is known about the noise"
        )
    return ""
