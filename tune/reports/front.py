"""Describe the Pareto front of a study with several objectives, and compare its named points on the
test split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tune.formatting import format_value
from tune.reports.sampling_error import outcomes_of, sampling_variance
from tune.reports.statistics import Interval, p_value_text
from tune.reports.verdict import difference, level_of, repeat_scores
from tune.study.objectives import BALANCED, Objective, front_of, named_points
from tune.study.rules import test_metric
from tune.study.view import StudyView

_NAMED = 6  # trials of the front that a sentence lists


@dataclass(frozen=True)
class PointVerdict:
    """Comparison of the front's balanced point with its best by the first objective."""

    metric: str
    balanced: int
    """Number of the balanced trial."""
    best: int
    gain: Interval
    """Balanced trial minus best trial, on the test split."""
    level: float
    """Significance level: the difference is decided if its p-value is below it."""
    seeds: int
    """Number of repeats of the trial that has fewer."""
    costs: str
    """The other objectives of both trials, as text."""

    @property
    def sentence(self) -> str:
        """The verdict as a sentence."""
        names = f"trial {self.balanced} ({BALANCED}) and trial {self.best}"
        if self.gain.p >= self.level:
            said = f"Not decided between {names}"
        elif self.gain.mean < 0:
            said = f"Trial {self.balanced} ({BALANCED}) is worse than trial {self.best}"
        else:
            said = f"Trial {self.balanced} ({BALANCED}) is better than trial {self.best}"
        return (
            f"{said}: {self.metric} differs by {self.gain} (95 % interval, {self.seeds} fresh "
            f"seeds of each, {p_value_text(self.gain.p, self.level)}); {self.costs}."
        )


def has_front(study: StudyView) -> bool:
    """True for a study with several objectives and at least one completed trial."""
    return len(study.objectives) > 1 and bool(study.points)


def front_text(study: StudyView) -> str:
    """Return a sentence that lists the front's trials with their values."""
    points, objectives = study.points, study.objectives
    front = front_of(points, objectives)
    names = named_points(points, objectives)
    shown = []
    for number in front[:_NAMED]:
        name = f" ({names[number]})" if number in names else ""
        values = ", ".join(
            f"{one.metric} {format_value(points[number][one.metric])}" for one in objectives
        )
        shown.append(f"trial {number}{name}: {values}")
    if len(front) > _NAMED:
        shown.append(f"and {len(front) - _NAMED} more")
    of = " and ".join(map(str, objectives))
    count = "1 trial" if len(front) == 1 else f"{len(front)} trials"
    return f"The front of {of} has {count} of {len(points)}: {'; '.join(shown)}."


def judge_points(study: StudyView) -> PointVerdict | None:
    """Compare the named points of the front; None if they are the same trial or lack repeats."""
    names = named_points(study.points, study.objectives)
    if len(names) < 2:
        return None
    best, balanced = names
    metric = test_metric(study.objective)
    scores = repeat_scores(study, balanced, metric)
    others = repeat_scores(study, best, metric)
    if min(len(scores), len(others)) < 2:
        return None

    variance = sampling_variance(metric, outcomes_of(study, balanced), outcomes_of(study, best))
    return PointVerdict(
        metric=metric,
        balanced=balanced,
        best=best,
        gain=difference(scores, others, variance or 0.0),
        level=level_of(study),
        seeds=min(len(scores), len(others)),
        costs=_costs(study, balanced, best),
    )


def _costs(study: StudyView, balanced: int, best: int) -> str:
    points = study.points
    return "; ".join(
        f"{one.metric} {format_value(points[balanced][one.metric])} against "
        f"{format_value(points[best][one.metric])}"
        for one in study.objectives[1:]
    )


def front_conclusions(study: StudyView) -> list[str]:
    """Return the closing sentences of a study with several objectives; empty for a single
    objective."""
    if not has_front(study):
        return []
    verdict = judge_points(study)
    return [front_text(study), *([] if verdict is None else [verdict.sentence])]


def front_rows(
    points: Mapping[int, Mapping[str, float]], objectives: Sequence[Objective]
) -> tuple[list[str], list[list[str]]]:
    """Return the header and rows of a table of the front."""
    names = named_points(points, objectives)
    titles = [
        f"{one.metric}, less is better" if one.minimized else one.metric for one in objectives
    ]
    header = ["trial", "point", *titles]
    rows = []
    for number in front_of(points, objectives):
        values = [format_value(points[number][one.metric]) for one in objectives]
        rows.append([str(number), names.get(number, ""), *values])
    return header, rows
