"""Trials that fail before their first report. One may fail through its configuration; several in a
row that fail alike have met something that every trial would meet, such as a missing package."""

from collections.abc import Iterable

from tune.study.events import StudyEnds
from tune.study.work import Outcome, Work, WorkId

ALIKE = 3
"""So many in a row end the run, where no trial has reported anything."""
ALIKE_LATER = 6
"""So many where one has, or may still do: half of a space's configurations may fail."""
_ITS_OWN = ("oom", "data")
"""Reasons that lie in a configuration, or that the study has checked before."""


class TrialsFailAlike(StudyEnds):
    """No trial could succeed: the run ends, and those that failed stay open."""


class EarlyFailures:
    """Failures that are not on record yet, as the next trials will tell who is to blame."""

    def __init__(self) -> None:
        self._held: list[tuple[Work, Outcome]] = []
        self._has_reported = False

    def holds(self, outcome: Outcome) -> bool:
        """True where an outcome of a trial that has not reported anything is to be held."""
        return outcome.state == "FAIL" and outcome.reason not in _ITS_OWN

    def differs(self, outcome: Outcome) -> bool:
        """True where those that are held failed for another reason."""
        return any(held.reason != outcome.reason for _, held in self._held)

    def add(self, work: Work, outcome: Outcome, running: Iterable[WorkId]) -> bool:
        """Hold a failure. Returns True where it is the last of too many.

        Args:
            running: trials that have not reported yet.
        """
        self._held.append((work, outcome))
        first = self._held[0][0].id.trial or 0
        is_open = any((work_id.trial or 0) < first for work_id in running)
        limit = ALIKE_LATER if self._has_reported or is_open else ALIKE
        return len(self._held) >= limit

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
    lines = (outcome.error or "").strip().splitlines()
    error = lines[-1].strip() if lines else outcome.reason
    return (
        f"the last {count} trials failed alike before their first report ({error}), so that the "
        "others would too: mend that and run the same command again, which tries them once more"
    )
