"""Estimate the time that a study takes while its first epoch is still training."""

from pathlib import Path

from trainables.pace import Pace, read_pace
from tune.study.forecast import Amount, whole_seconds
from tune.study.run_costs import Costs
from tune.study.work import WorkId

_LOOK_S = 1.0


class Glimpse:
    """Reads the pace that trials write to disk during their first epoch (`trainables/pace.py`).

    Safe to call from another thread, because it reads none of the study's own state.

    Args:
        folder: the study's folder.
        amount: work of the study.

    Attributes:
        at_a_time: number of runs at a time.
    """

    def __init__(self, folder: Path, amount: Amount):
        self._folder = folder
        self._amount = amount
        self.at_a_time = 1
        self._pace: Pace | None = None
        self._seen_at = 0.0
        self._looked_at = -_LOOK_S

    def left(self, now: float) -> float | None:
        """Return the seconds until the study ends; None if no trial has written its pace.

        Args:
            now: time on a monotonic clock, in seconds.
        """
        if now - self._looked_at >= _LOOK_S:
            self._looked_at = now
            self._look(now)
        if self._pace is None:
            return None

        costs = Costs(opening=0.0, epoch=self._pace.epoch_s, testing=self._pace.validation_s)
        whole = whole_seconds(self._amount, self.at_a_time, costs)
        if whole is None:
            return None
        trained = self._pace.steps * self._pace.step_s + now - self._seen_at
        return max(0.0, whole - trained)

    def _look(self, now: float) -> None:
        """Read the pace of the first trial that has written one."""
        for number in range(self.at_a_time):
            pace = read_pace(WorkId(number).folder(self._folder))
            if pace is None:
                continue
            if pace != self._pace:
                self._pace = pace
                self._seen_at = now
            return
