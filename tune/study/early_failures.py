"""Trials that fail before their first report.

One trial may fail because of its configuration. If several fail in a row in the same way, the cause
affects every trial, such as a missing package, or every trial of one machine, such as a broken GPU.
"""

import re

from tune.study.disk import StudyEnds
from tune.study.work import Outcome, Work

ALIKE = 3
"""This many failures in a row end the run if no trial has reported, or exclude a machine if only
trials of other machines have."""
ALIKE_LATER = 6
"""The same once trials have reported, because half of a space's configurations may fail."""
LEFT_OUT = "machines.left_out"
"""Tag of a study: machines that get no more trials, and why."""
_ITS_OWN = ("oom", "data")
"""Reasons that lie in the configuration, or that the study has checked before."""

Held = list[tuple[Work, Outcome]]


class TrialsFailAlike(StudyEnds):
    """No trial could succeed: the run ends, and the failed trials stay open."""


class EarlyFailures:
    """Failures before the first report, by machine. They are not on record until the next trials
    show what is to blame.

    Machines are identified by their addresses; None if there is only one machine, or if the address
    is not known.

    Args:
        has_reported: a trial of the study has reported an epoch before this start.
    """

    def __init__(self, has_reported: bool) -> None:
        self._held: dict[str | None, Held] = {}
        self._has_reported = has_reported
        self._working: set[str | None] = set()
        self.left_out: set[str] = set()
        """Machines that get no more trials: failures there say nothing."""

    @property
    def are_enough(self) -> bool:
        """True if no new trial should begin before the running ones have reported or ended."""
        return self.full() is not None

    def full(self) -> tuple[str | None, Held] | None:
        """Return the failures that are enough to end the run, and their machine; None if there are
        not enough.

        The machine is None if it is not to blame, or if there are several.
        """
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
        """The machine of all held failures; None if there are several."""
        nodes = [node for node, held in self._held.items() if held]
        return nodes[0] if len(nodes) == 1 else None

    def _limit(self, node: str | None) -> int:
        if self.is_alone(node) or not self._has_reported:
            return ALIKE
        return ALIKE_LATER

    def is_alone(self, node: str | None) -> bool:
        """True if trials of other machines have reported in this start, but none of this
        machine."""
        return node is not None and bool(self._working) and node not in self._working

    def holds(self, outcome: Outcome) -> bool:
        """True if this outcome of a trial without a report should be held."""
        return outcome.state == "FAIL" and outcome.reason not in _ITS_OWN

    def differs(self, outcome: Outcome, node: str | None) -> bool:
        """True if the held failures had another cause. Once a trial has worked, only those of this
        machine count."""
        held = self._held.get(node, []) if self._working else self._of_all()
        return any(_kind(one) != _kind(outcome) for _, one in held)

    def add(self, work: Work, outcome: Outcome, node: str | None) -> None:
        """Hold a failure."""
        self._held.setdefault(node, []).append((work, outcome))

    def note_report(self, node: str | None) -> None:
        """Note that a trial has reported an epoch."""
        self._has_reported = True
        self._working.add(node)

    def take(self, node: str | None) -> Held:
        """Release and return the failures of a machine and of unknown machines; None: all
        failures."""
        if node is None:
            return self.take_all()
        held = [*self._held.pop(None, []), *self._held.pop(node, [])]
        return sorted(held, key=_number)

    def leave_out(self, node: str) -> Held:
        """Note that a machine gets no more trials. Release and return its failures."""
        self.left_out.add(node)
        return sorted(self._held.pop(node, []), key=_number)

    def take_all(self) -> Held:
        """Release and return all held failures."""
        held = self._of_all()
        self._held = {}
        return held

    def _of_all(self) -> Held:
        held = [one for of_node in self._held.values() for one in of_node]
        return sorted(held, key=_number)


def exclusion_line(node: str, count: int, why: str, others_work: bool) -> str:
    """Return a line for the user: this machine gets no more trials, and why."""
    others = "while those of other machines work" if others_work else "and other machines are tried"
    return f"{node} gets no more trials of this run: the last {count} there {why}, {others}"


def error_of(outcome: Outcome) -> str:
    """Last line of the traceback, or the reason."""
    lines = (outcome.error or "").strip().splitlines()
    return lines[-1].strip() if lines else str(outcome.reason)


def told(count: int, outcome: Outcome, node: str | None = None) -> str:
    """Return a line for the user: the error of the last of `count` trials that failed in the same
    way, and the remedy.

    Args:
        node: the machine on which they failed, if trials of other machines work.
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
    """Number of the trial."""
    return held[0].id.trial or 0


def _kind(outcome: Outcome) -> tuple[str | None, str]:
    """Reason and error without digits, because digits, as in the name of a folder, differ between
    trials."""
    return outcome.reason, re.sub(r"\d+", "", error_of(outcome))
