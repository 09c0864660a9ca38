"""The reports of a function's trial, epoch by epoch, in a file that the next start reads."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainables.base import Metrics
from trainables.engine import distributed
from trainables.files import write_atomically


@dataclass
class Report:
    """The report of an epoch."""

    epoch: int
    """From 1."""
    metrics: Metrics
    saved: bool
    """`best.pt` may hold this epoch."""


class History:
    """The reports of a trial.

    Args:
        path: file of the reports.
        objective: metric that decides which epoch is the best.
        last_epoch: epoch of the checkpoint that training resumes from; later reports are forgotten.
            None: there is no checkpoint, and training begins anew.
        writes: False in all workers except rank 0.
    """

    def __init__(self, path: Path, objective: str, last_epoch: float | None, *, writes: bool):
        self._path = path
        self._objective = objective
        self._writes = writes
        self._reports: list[Report] = distributed.broadcast(_read(path, last_epoch))

    def __iter__(self) -> Iterator[Report]:
        return iter(list(self._reports))

    @property
    def last_epoch(self) -> int | None:
        """The last reported epoch; None before the first."""
        return self._reports[-1].epoch if self._reports else None

    @property
    def best(self) -> Report | None:
        """The report with the best objective, the first of equal ones; None before the first
        report."""
        return max(self._reports, key=self._value, default=None)

    def forget(self, epoch: int = 0) -> None:
        """Forget the reports from an epoch on, because it is trained again."""
        self._reports = [report for report in self._reports if report.epoch < epoch]

    def add(self, report: Report) -> None:
        """Add a report."""
        self._reports.append(report)
        self._write()

    def note_saved(self, epoch: int) -> bool:
        """Note that the save of an epoch counts, if that epoch was reported last.

        Returns:
            True if it is the best epoch that has a save.
        """
        if self.last_epoch != epoch:
            return False
        last = self._reports[-1]
        if not last.saved:
            last.saved = True
            self._write()
        saved = [report for report in self._reports if report.saved]
        return max(saved, key=self._value) is last

    def _value(self, report: Report) -> float:
        return report.metrics[self._objective]

    def _write(self) -> None:
        if not self._writes:
            return
        rows = [[report.epoch, report.metrics, report.saved] for report in self._reports]
        write_atomically(self._path, json.dumps(rows) + "\n")


def _read(path: Path, last_epoch: float | None) -> list[Report]:
    if last_epoch is None or not path.exists():
        return []
    reports = [Report(*row) for row in json.loads(path.read_text())]
    return [report for report in reports if report.epoch <= last_epoch]
