"""Trials that fail before their first report. One may fail through its configuration; several in a
row that fail alike have met something that every trial would meet, such as a missing package."""

import re

from tune.study.events import StudyEnds
from tune.study.work import Outcome, Work

ALIKE = 3
"""So many in a row end the run, where no trial has reported anything."""
ALIKE_LATER = 6
"""So many where one has: half of a space's configurations may fail."""
_ITS_OWN = ("oom", "data")
"""Reasons that lie in a configuration, or that the study has checked before."""


class TrialsFailAlike(StudyEnds):
    """No trial could succeed: the run ends, and those that failed stay open."""


class EarlyFailures:
    """Failures that are not on record yet, as the next trials will tell who is to blame.

    Args:
        has_reported: a trial of the study has reported an epoch before this start.
    """

    def __init__(self, has_reported: bool) -> None:
        self._held: list[tuple[Work, Outcome]] = []
        self._has_reported = has_reported

    @property
    def are_enough(self) -> bool:
        """True where no other trial is to be begun before those that run have said something."""
        limit = ALIKE_LATER if self._has_reported else ALIKE
        return len(self._held) >= limit

    def holds(self, outcome: Outcome) -> bool:
        """True where an outcome of a trial that has not reported anything is to be held."""
        return outcome.state == "FAIL" and outcome.reason not in _ITS_OWN

    def differs(self, outcome: Outcome) -> bool:
        """True where those that are held failed otherwise."""
        return any(_kind(held) != _kind(outcome) for _, held in self._held)

    def add(self, work: Work, outcome: Outcome) -> None:
        """Hold a failure."""
        self._held.append((work, outcome))

    def note_report(self) -> None:
        """A trial has reported an epoch."""
        self._has_reported = True

    def take(self) -> list[tuple[Work, Outcome]]:
        """Give back those that are held, and hold none."""
        held = self._held
        self._held = []
        return held


def told(count: int, outcome: Outcome) -> str:
    """The error of the last of so many trials that failed alike, and the remedy, in one line."""
    return (
        f"the last {count} trials failed alike before their first report ({_error(outcome)}), so "
        "that the others would too: mend that and run the same command again, which tries them "
        "once more"
    )


def _error(outcome: Outcome) -> str:
    """The last line of the traceback, or the reason."""
    lines = (outcome.error or "").strip().splitlines()
    return lines[-1].strip() if lines else str(outcome.reason)


def _kind(outcome: Outcome) -> tuple[str | None, str]:
    """Reason and error, without numbers: those of a trial's folder, say."""
    return outcome.reason, re.sub(r"\d+", "", _error(outcome))
