"""The chosen trial, and how far its value in the search exceeds the value of its repeats.

The best of many single runs is a selected maximum. Part of its value is luck, and another training
of the same configuration does not have that luck. Pages that show the value say so, and show the
mean of the repeats if there are any.
"""

from dataclasses import dataclass
from statistics import fmean

from tune.formatting import DEFAULT, assignments
from tune.study.record import Record
from tune.study.view import StudyView

MARK = "*"
"""Mark of the chosen trial in a table."""

LARGEST_FALL = 0.04
"""Largest fall of such a maximum once it was repeated, in the records that docs/evidence.md
lists."""


@dataclass(frozen=True)
class Selection:
    """The trial chosen by a study."""

    number: int
    objective: str

    value: float
    """Its objective in the search."""

    place: int
    """Its rank by that value among the completed trials, from 1. It can differ from 1 only under
    version 1 of the rules, where repeats decide among finalists."""

    trials: int
    """Number of trials that have started."""

    repeats: tuple[float, ...]
    """Objective of each repeat, at its best epoch."""

    @property
    def sentence(self) -> str:
        """The chosen trial as a sentence."""
        return f"chosen: trial {self.number}, {self.objective} {self.value:.4f}, {self.label}"

    @property
    def label(self) -> str:
        """Says what kind of value it is, and how the repeats compare."""
        which = f"the best of {self.trials} single runs" if self.trials > 1 else "a single run"
        if self.place > 1:
            which = f"number {self.place} of {self.trials} single runs, but first by its repeats"
        if self.repeats:
            return f"{which}; {repeats_label(self.value, self.repeats)}"
        if self.trials > 1:
            return (
                f"{which}, not repeated yet: such maxima fell by up to {LARGEST_FALL:g} "
                "(docs/evidence.md)"
            )
        return which


def configuration(record: Record, number: int) -> str:
    """Describe a trial by the values that differ from the default, and say if a user enqueued
    it."""
    differences = assignments(record.differences(number)) or DEFAULT
    return f"enqueued: {differences}" if record.trials[number].enqueued else differences


def repeats_label(value: float, repeats: tuple[float, ...]) -> str:
    """Compare a trial's repeats with its value; "" if there are none."""
    if not repeats:
        return ""
    mean = fmean(repeats)
    runs = "its repeat is" if len(repeats) == 1 else f"its {len(repeats)} repeats average"
    fall = round(value - mean, 4)
    if fall == 0:
        return f"{runs} {mean:.4f}, the same"
    direction = "lower" if fall > 0 else "higher"
    return f"{runs} {mean:.4f}, {abs(fall):.4f} {direction}"


def selection(study: StudyView, trials: int) -> Selection | None:
    """Return the chosen trial of a study; None if no trial is complete.

    Args:
        trials: number of trials that have started.
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
