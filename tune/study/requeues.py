"""Trials whose processes could not write the study's folder, although the driver can. They are
handed out again after a growing pause; runs in progress do not wait."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tune.formatting import duration
from tune.study.disk import (
    LONGEST_PAUSE_S,
    PATIENCE_S,
    StorageFailed,
    StudyEnds,
    is_shared,
    may_pass,
    warn,
)
from tune.study.early_failures import ALIKE

_MOST_DOUBLINGS = 6
"""After this many doublings a pause has its maximum length."""


class Requeues:
    """Decides when work is handed out again after failures of the disk.

    Args:
        folder: folder of the study; on a local disk the first failure is final.

    Attributes:
        tell: called with a sentence for the user.
        leave_out: excludes a machine from further trials, given the number of failures and the
            reason; returns False if that is impossible.
    """

    def __init__(self, folder: Path):
        self.tell: Callable[[str], None] = warn
        self.leave_out: Callable[[str, int, str], bool] = lambda node, count, why: False
        self._shared = is_shared(folder)
        self._failures: Counter[str | None] = Counter()
        self._since: float | None = None
        self._until = 0.0
        self._others_work = False

    @property
    def rests(self) -> bool:
        """True while no work is handed out."""
        return time.monotonic() < self._until

    def add(self, failure: StorageFailed, node: str | None) -> None:
        """Note that a process has failed to write.

        Args:
            node: its machine; None if there is only one.
        Raises:
            StudyEnds: another try would not help.
        """
        if not self._shared or not may_pass(failure):
            raise failure

        now = time.monotonic()
        problem = str(failure).partition(";")[0]
        if self._since is None:
            self._since = now
            self.tell(f"{problem}; its trial is tried again, for up to {duration(PATIENCE_S)}")
        self._failures[node] += 1
        if self._others_work and self._failures[node] >= ALIKE:
            self._leave_out(node, problem)
            return
        if now - self._since > PATIENCE_S:
            raise failure
        doublings = min(self._failures.total() - 1, _MOST_DOUBLINGS)
        self._until = now + min(2.0**doublings, LONGEST_PAUSE_S)

    def _leave_out(self, node: str | None, problem: str) -> None:
        """Exclude a machine from further trials, and forget its failures.

        Raises:
            StudyEnds: it cannot be excluded.
        """
        if node is None or not self.leave_out(node, self._failures[node], problem):
            raise StudyEnds(
                f"trials on {node}: {problem}, while those of other machines work: repair that "
                "machine or take it out of the cluster, and run the same command again"
            )
        del self._failures[node]

    def note_report(self, node: str | None) -> None:
        """Note that a trial has reported an epoch, so its checkpoint could be written."""
        if self._since is None:
            return
        del self._failures[node]
        self._others_work = bool(self._failures)
        if not self._failures:
            self._since = None
            self._until = 0.0
