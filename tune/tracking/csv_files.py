"""A study as two tables, for pandas, R or a spreadsheet: `--log csv`.

    runs/<study>/csv/metrics.csv    trial,repeat,epoch,metric,value,time: one line per value
    runs/<study>/csv/trials.csv     one line per trial and repeat: state, times, config, last
                                    value of each metric, best value of the objective

Values of the study as a whole, such as the untrained baseline, have no trial. metrics.csv is only
appended to; trials.csv is rewritten when anything in it has changed.
"""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trainables.files import write_atomically
from tune.tracking.destination import Opening
from tune.tracking.local_files import AppendedFiles, LocalConnection, LocalPlace
from tune.tracking.projection import Changes, ProjectedRun

__all__ = ["CsvStudy", "CsvTables"]

METRICS, TRIALS = "metrics.csv", "trials.csv"
_HEADER = ("trial", "repeat", "epoch", "metric", "value", "time")
_ABOUT = ("trial", "repeat", "state", "reason", "epochs", "started", "ended")


class CsvTables(LocalPlace):
    """Folder `csv` of a study, as a `Destination`."""

    name = "csv"
    title = "CSV"

    def connect(self, opening: Opening) -> "CsvStudy":
        """Open the tables; create them if they do not exist."""
        return CsvStudy(opening, self.folder(opening.study_dir))


@dataclass
class _Row:
    """One line of trials.csv."""

    trial: int
    repeat: int | None
    started: int  # ms since the epoch
    state: str = ""
    reason: str = ""
    epochs: int = 0
    ended: int | None = None  # ms since the epoch
    params: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


class CsvStudy(LocalConnection):
    """Both tables of one study, as a `Connection`.

    Args:
        folder: folder of the tables.
    """

    def __init__(self, opening: Opening, folder: Path):
        super().__init__(opening, folder)
        self._files = AppendedFiles(folder, opening)
        self._objective = f"best/{opening.first['objective']}"
        self._searched = list(opening.first["searched"])
        self._rows: dict[str, _Row] = {}
        self._changed = False
        self.offset = self._files.offset

    def recall(self, run: ProjectedRun, changes: Changes) -> None:
        """Rebuild the line of a run."""
        self._note(run, changes)

    def apply(self, run: ProjectedRun, changes: Changes) -> None:
        """Add the lines of one run."""
        self._note(run, changes)
        if changes.metrics:
            self._files.append(METRICS, self._metric_lines(run, changes))
        self._changed = True

    def remember(self, study: ProjectedRun, offset: int) -> None:
        """Write both tables to disk.

        Raises:
            OSError: the folder is not writable.
        """
        if self._changed:
            write_atomically(self._files.folder / TRIALS, self._trials_table())
            self._changed = False
        self._files.commit(offset)
        self.offset = offset

    def _note(self, run: ProjectedRun, changes: Changes) -> None:
        """Update the line of a run."""
        if run.trial is None:
            return

        row = self._rows.setdefault(run.key, _Row(run.trial, run.repeat, run.started))
        row.params |= changes.params
        row.state = changes.tags.get("trial.state", row.state)
        row.reason = changes.tags.get("trial.reason", row.reason)
        row.metrics |= {name: value for name, value, _, _ in changes.metrics}
        row.epochs = changes.epoch or row.epochs
        if changes.status is not None:
            status, since = changes.status
            row.ended = None if status == "RUNNING" else since

    def _metric_lines(self, run: ProjectedRun, changes: Changes) -> bytes:
        lines: list[Iterable[Any]] = []
        if not self._files.has(METRICS):
            lines.append(_HEADER)
        for name, value, t, step in changes.metrics:
            lines.append((run.trial, run.repeat, step, name, value, _time(t)))
        return _written(lines).encode()

    def _trials_table(self) -> str:
        rows = sorted(self._rows.values(), key=_place)
        params = list(dict.fromkeys([*self._searched, *(p for row in rows for p in row.params)]))
        metrics = list(dict.fromkeys([self._objective, *(m for row in rows for m in row.metrics)]))

        lines: list[Iterable[Any]] = [[*_ABOUT, *params, *metrics]]
        for row in rows:
            # pandas and others read a bare `nan` as a missing value.
            reason = "diverged: nan" if row.reason == "nan" else row.reason
            about = [row.trial, row.repeat, row.state, reason, row.epochs]
            times = [_time(row.started), _time(row.ended)]
            config = [row.params.get(name) for name in params]
            values = [row.metrics.get(name) for name in metrics]
            lines.append([*about, *times, *config, *values])
        return _written(lines)


def _place(row: _Row) -> tuple[int, int]:
    """Return the sort key of a line: a trial comes first, then its repeats."""
    return row.trial, -1 if row.repeat is None else row.repeat


def _time(t: int | None) -> str | None:
    """Format milliseconds since the epoch as ISO 8601 in UTC."""
    if t is None:
        return None
    return datetime.fromtimestamp(t / 1000, UTC).isoformat(timespec="milliseconds")


def _written(lines: Iterable[Iterable[Any]]) -> str:
    """Format lines as CSV. Numbers are written in full, None as an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
