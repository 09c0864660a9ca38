"""Trials that fail before their first report. One may fail through its configuration; several in a
row that fail alike have met something that every trial would meet, such as a missing package, or
that every trial of one machine would, such as a broken GPU."""

import re

from tune.study.disk import StudyEnds
from tune.study.work import Outcome, Work

ALIKE = 3
"""So many in a row end the run, where no trial has reported anything, or none of that machine while
others work."""
ALIKE_LATER = 6
"""So many where one has: half of a space's configurations may fail."""
LEFT_OUT = "machines.left_out"
"""Tag of a study: machines that got no trials any more, and why."""
_ITS_OWN = ("oom", "data")
"""Reasons that lie in a configuration, or that the study has checked before."""

Held = list[tuple[Work, Outcome]]


class TrialsFailAlike(StudyEnds):
    """No trial could succeed: the run ends, and those that failed stay open."""


class EarlyFailures:
    """Failures that are not on record yet, by machine, as the next trials will tell who is to
    blame.

    Machines are told apart by an address; None where there is one alone, or it is not known.

    Args:
        has_reported: a trial of the study has reported an epoch before this start.
    """

    def __init__(self, has_reported: bool) -> None:
        self._held: dict[str | None, Held] = {}
        self._has_reported = has_reported
        self._working: set[str | None] = set()
        self.left_out: set[str] = set()
        """Machines that get no trials any more: failures there say nothing."""

    @property
    def are_enough(self) -> bool:
        """True where no other trial is to be begun before those that run have said something."""
        return self.full() is not None

    def full(self) -> tuple[str | None, Held] | None:
        """The failures that are enough to end the run, and the machine that they are of (None: it
        is not to blame, or there are several); None where there are none."""
        if not self._working:
            everywhere = self._of_all()
            if len(everywhere) < self._limit(None):
                return None
            return self._only_node(), everywhere

        for node, held in self._held.items():
            if len(held) >= self._limit(node):
                return (node if self.is_alone(node) else None), held
        return None

    def _only_node(self) -> str | None:
        """The machine of all failures that are held; None where there are several."""
        nodes = [node for node, held in self._held.items() if held]
        return nodes[0] if len(nodes) == 1 else None

    def _limit(self, node: str | None) -> int:
        if self.is_alone(node) or not self._has_reported:
            return ALIKE
        return ALIKE_LATER

    def is_alone(self, node: str | None) -> bool:
        """True where trials of other machines have reported in this start, and none of this one."""
        return node is not None and bool(self._working) and node not in self._working

    def holds(self, outcome: Outcome) -> bool:
        """True where an outcome of a trial that has not reported anything is to be held."""
        return outcome.state == "FAIL" and outcome.reason not in _ITS_OWN

    def differs(self, outcome: Outcome, node: str | None) -> bool:
        """True where those that are held failed otherwise: of this machine, once one has worked."""
        held = self._held.get(node, []) if self._working else self._of_all()
        return any(_kind(one) != _kind(outcome) for _, one in held)

    def add(self, work: Work, outcome: Outcome, node: str | None) -> None:
        """Hold a failure."""
        self._held.setdefault(node, []).append((work, outcome))

    def note_report(self, node: str | None) -> None:
        """A trial has reported an epoch."""
        self._has_reported = True
        self._working.add(node)

    def take(self, node: str | None) -> Held:
        """Give back what is held of a machine and of those that are not known, and hold none of
        it. None: of all."""
        if node is None:
            return self.take_all()
        held = [*self._held.pop(None, []), *self._held.pop(node, [])]
        return sorted(held, key=_number)

    def leave_out(self, node: str) -> Held:
        """Hold no failures of a machine any more, which gets no trials; give back those that are
        held."""
        self.left_out.add(node)
        return sorted(self._held.pop(node, []), key=_number)

    def take_all(self) -> Held:
        """Give back all that are held, and hold none."""
        held = self._of_all()
        self._held = {}
        return held

    def _of_all(self) -> Held:
        held = [one for of_node in self._held.values() for one in of_node]
        return sorted(held, key=_number)


def told_left_out(node: str, count: int, why: str, others_work: bool) -> str:
    """A machine that gets no trials any more, and the reason, in one line."""
    others = "while those of other machines work" if others_work else "and other machines are tried"
    return f"{node} gets no more trials of this run: the last {count} there {why}, {others}"


def error_of(outcome: Outcome) -> str:
    """The last line of the traceback, or the reason."""
    lines = (outcome.error or "").strip().splitlines()
    return lines[-1].strip() if lines else str(outcome.reason)


def told(count: int, outcome: Outcome, node: str | None = None) -> str:
    """The error of the last of so many trials that failed alike, and the remedy, in one line.

    Args:
        node: the machine that they failed on, while those of others work.
    """
    if node is not None:
        return (
            f"the last {count} trials on {node} failed in the same way before their first report "
            f"({error_of(outcome)}), while those of other machines work: repair that machine or "
            "take it out of the cluster, and run the same command again, which tries them once more"
        )
    return (
        f"the last {count} trials failed in the same way before their first report "
        f"({error_of(outcome)}), so the others would too: fix that and run the same command again, "
        "which tries them once more"
    )


def _number(held: tuple[Work, Outcome]) -> int:
    """The number of the trial."""
    return held[0].id.trial or 0


def _kind(outcome: Outcome) -> tuple[str | None, str]:
    """Reason and error, without numbers: those of a trial's folder, say."""
    return outcome.reason, re.sub(r"\d+", "", error_of(outcome))
