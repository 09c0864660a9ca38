"""The chosen trial, and how far its value while searching is above what its repeats give.

The best of many single runs is a selected maximum: part of its value is luck, which another
training of the same configuration does not have. Pages that show the value say so, with the mean of
the repeats beside it where there are some.
"""

from dataclasses import dataclass
from statistics import fmean

from tune.formatting import DEFAULT, assignments
from tune.study.record import Record
from tune.study.view import StudyView

MARK = "*"
"""Mark of the chosen trial in a table."""


@dataclass(frozen=True)
class Selection:
    """The trial that is a study's answer."""

    number: int
    objective: str

    value: float
    """Its objective in the search."""

    place: int
    """Its place by that value among the completed trials, from 1. Only under the rule of version 1,
    where repeats choose among finalists, can it be another than 1."""

    trials: int
    """Trials that have begun."""

    repeats: tuple[float, ...]
    """Objectives of its repeats, each of the best epoch."""

    @property
    def sentence(self) -> str:
        """The chosen trial for a reader."""
        return f"chosen: trial {self.number}, {self.objective} {self.value:.4f}, {self.label}"

    @property
    def label(self) -> str:
        """The nature of the value, and what the repeats say."""
        which = f"the best of {self.trials} single runs" if self.trials > 1 else "a single run"
        if self.place > 1:
            which = f"number {self.place} of {self.trials} single runs, but first by its repeats"
        repeated = repeats_label(self.value, self.repeats)
        return f"{which}; {repeated}" if repeated else which


def configuration(record: Record, number: int) -> str:
    """Describe a trial by the values in which it differs from the default, and tell if somebody
    named them."""
    differences = assignments(record.departures(number)) or DEFAULT
    return f"enqueued: {differences}" if record.trials[number].enqueued else differences


def repeats_label(value: float, repeats: tuple[float, ...]) -> str:
    """Compare the repeats of a trial with its value; "" where there are none."""
    if not repeats:
        return ""
    mean = fmean(repeats)
    fall = value - mean
    direction = "lower" if fall >= 0 else "higher"
    runs = "its repeat is" if len(repeats) == 1 else f"its {len(repeats)} repeats average"
    return f"{runs} {mean:.4f}, {abs(fall):.4f} {direction}"


def selection(study: StudyView, trials: int) -> Selection | None:
    """The chosen trial of a study; None where no trial is complete.

    Args:
        trials: number of trials that have begun.
    """
    number = study.best_number()
    if number is None:
        return None

    completed = study.completed
    value = completed[number]
    better = sum(other > value for other in completed.values())
    name = f"best/{study.objective}"
    repeats = [
        metrics[name]
        for (repeated, _), metrics in sorted(study.finals().items())
        if repeated == number and name in metrics
    ]
    return Selection(number, study.objective, value, 1 + better, trials, tuple(repeats))
