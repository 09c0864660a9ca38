"""The state that a study's event log describes. One reducer serves everyone who reads the log.

The running study applies the events that it writes, and readers apply those that they find.
MLflow's projection (`tune/tracking/projection.py`) is another reducer: its state is a set of MLflow
calls.
"""

from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from tune.function import LENGTH
from tune.study.events import EventLog
from tune.study.manifest import with_earlier_values
from tune.study.work import Outcome, WorkId

CONCLUSIONS = ("chosen", "verdict", "front", "warm_start")
"""Tags that are written at the end of a study."""
_OF_RUNS = ("start", "report", "end", "early_failure", "retry")
_PIECE = 2**22  # bytes per read


@dataclass
class Run:
    """A trial, or a repeat of a trial under another seed."""

    config: dict[str, Any] = field(default_factory=dict)
    """Flat config of the last start."""
    attempts: int = 0
    """Number of starts."""
    started: int = 0
    """Time of the first start, ms since the epoch."""
    ended: int = 0
    """Time of the end, ms since the epoch."""
    epochs: list[int] = field(default_factory=list)
    """Reported epochs, from 1, in ascending order."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """Metrics of each reported epoch."""
    state: str = "open"
    """`open`, or the state of its outcome."""
    outcome: Outcome | None = None
    """None until the run has ended."""
    occupied_ms: int = 0
    """Time from each start to the last event of that attempt: training, validation, checkpoints.
    Interruptions do not count."""
    opening_ms: int = 0
    """Time from the last start before the first report to that report."""
    closing_ms: int = 0
    """Time from the last report to the end."""
    heard: int = 0
    """Time of the last event, ms since the epoch."""
    enqueued: bool = False
    """The user named the configuration; the search did not draw it."""
    early_failures: int = 0
    """Attempts that failed before the first report and left the run open."""
    retries: int = 0
    """Number of times that the run failed and was opened again."""
    attempts_before: int = 0
    """Starts before the last retry."""

    @property
    def last_epoch(self) -> int | None:
        """The last reported epoch; None before the first."""
        return max(self.epochs, default=None)

    @property
    def length(self) -> int:
        """Number of epochs that a function has announced; 0 if it has announced none."""
        last = self.history[-1] if self.history else {}
        return int(last.get(LENGTH) or 0)

    @property
    def value(self) -> float | None:
        """Best objective of a run that has ended; None before."""
        return None if self.outcome is None else self.outcome.value

    @property
    def reason(self) -> str | None:
        """Reason why the run ended as it did."""
        return None if self.outcome is None else self.outcome.reason

    @property
    def metrics(self) -> dict[str, float]:
        """Final metrics; empty until the run has ended."""
        return {} if self.outcome is None else self.outcome.metrics

    @property
    def seconds(self) -> float:
        """Training time of the epochs."""
        return float(sum(metrics.get("time/epoch_s") or 0.0 for metrics in self.history))

    @property
    def cpu_seconds(self) -> float:
        """CPU-seconds reserved: the run's share of the occupied time, times threads and workers."""
        workers = max((m.get("time/workers") or 1.0 for m in self.history), default=1.0)
        threads = float(self.config.get("train.threads", 1))
        return self._own_seconds * threads * workers

    @property
    def gpu_seconds(self) -> float:
        """GPU-seconds reserved."""
        gpus = max((m.get("time/gpus") or 0.0 for m in self.history), default=0.0)
        return self._own_seconds * gpus

    @property
    def _own_seconds(self) -> float:
        """Occupied time; a run that was batched with others counts only its share."""
        sizes = [float(metrics.get("time/batched_trials") or 1.0) for metrics in self.history]
        mean_size = sum(sizes) / len(sizes) if sizes else 1.0
        return self.occupied_ms / 1000 / mean_size


@dataclass
class LogState:
    """Everything that a prefix of the event log describes."""

    keeps_history: bool
    """Keep the metrics of every epoch. The running study does not, because those of a thousand
    trials would stay in the driver's memory."""
    objective: str = ""
    """Objective that the log began with; empty if it has no `study` event yet."""
    runs: dict[WorkId, Run] = field(default_factory=dict)
    just_ended: list[WorkId] = field(default_factory=list)
    """Runs that have ended since the last start or report, the last of them at the end."""
    summary: dict[str, float] = field(default_factory=dict)
    """Metrics of the whole study."""
    tags: dict[str, str] = field(default_factory=dict)
    """Tags of the whole study."""
    finished: bool = False
    """The study has ended, and no run has started since."""
    looks: list[tuple[int, int]] = field(default_factory=list)
    """Number of trials and of repeats that had ended at each verdict."""

    @property
    def look(self) -> int:
        """Number of the verdict that the log allows now, from 1. A verdict on the same runs keeps
        its number, however often it is stated."""
        if self._ended in self.looks:
            return 1 + self.looks.index(self._ended)
        return 1 + len(self.looks)

    @property
    def _ended(self) -> tuple[int, int]:
        """Number of trials and of repeats that have ended."""
        trials = sum(run.outcome is not None for run in self.trials.values())
        repeats = sum(run.outcome is not None for run in self.repeats.values())
        return trials, repeats

    def note_look(self) -> None:
        """Note which runs the verdict is based on, now that the study has ended."""
        ended = self._ended
        if ended[1] and ended not in self.looks:
            self.looks.append(ended)

    @property
    def trials(self) -> dict[int, Run]:
        """Trial -> run, in the order in which they first appear."""
        return {
            work_id.trial: run
            for work_id, run in self.runs.items()
            if work_id.trial is not None and work_id.repeat is None
        }

    @property
    def repeats(self) -> dict[tuple[int, int], Run]:
        """(trial, seed) -> run, in the order in which they first appear."""
        return {
            (work_id.trial, work_id.repeat): run
            for work_id, run in self.runs.items()
            if work_id.trial is not None and work_id.repeat is not None
        }

    def run(self, work_id: WorkId) -> Run:
        """The run; an empty one if it has not begun."""
        return self.runs.get(work_id, Run())

    def outcome(self, work_id: WorkId) -> Outcome | None:
        """The outcome on record; None if the run has not ended."""
        run = self.runs.get(work_id)
        return None if run is None else run.outcome

    def attempts(self, work_id: WorkId) -> int:
        """Number of starts on record."""
        run = self.runs.get(work_id)
        return 0 if run is None else run.attempts

    def last_epoch(self, work_id: WorkId) -> int | None:
        """The last reported epoch; None before the first."""
        run = self.runs.get(work_id)
        return None if run is None else run.last_epoch


def read_state(path: Path, *, keeps_history: bool = True) -> LogState:
    """Read the state that the event log in `path` describes; the empty state if there is no log.

    Raises:
        UserError: a line of the log is damaged.
    """
    state = LogState(keeps_history=keeps_history)
    offset = 0
    while True:
        events, offset = EventLog.read(path, offset, limit=_PIECE)
        if not events:
            return state
        for event in events:
            apply_event(state, event)


def usual_epoch_s(state: LogState) -> float:
    """Seconds of an epoch: the median over the trials that have reported; 0 if none has."""
    found = [
        run.occupied_ms / 1000 / len(run.epochs) for run in state.trials.values() if run.epochs
    ]
    return median(found) if found else 0.0


def apply_event(state: LogState, event: dict[str, Any]) -> None:
    """Apply the next event of the log to the state. Events that do not affect it are ignored."""
    kind = event["event"]
    if kind == "study":
        state.objective = event.get("objective", "")
    elif kind == "summary":
        state.summary |= event["metrics"]
        state.tags |= event["tags"]
    elif kind == "finish":
        state.finished = event["state"] == "FINISHED"
        if state.finished:
            state.note_look()
    elif kind == "retry" and event["trial"] is None:
        _forget_baseline(state)
    elif kind in _OF_RUNS and event.get("trial") is not None:
        _apply_to_run(state, event)


def _apply_to_run(state: LogState, event: dict[str, Any]) -> None:
    work_id = WorkId.from_event(event)
    run = state.runs.setdefault(work_id, Run())
    kind = event["event"]
    if kind in ("start", "report"):
        state.just_ended.clear()
    if kind == "start":
        _start(run, event)
        _reopen(state)
        return
    if kind == "retry":
        _retry(run)
        _reopen(state)
        return

    # A process that was lost before its start took no time; a clock may be set back.
    passed = max(0, event["t"] - run.heard) if run.heard else 0
    run.occupied_ms += passed
    run.heard = event["t"]
    if kind == "early_failure":
        run.early_failures += 1
    elif kind == "report":
        if not run.epochs:
            run.opening_ms = passed
        _report(run, event, state.keeps_history)
    else:
        run.ended = event["t"]
        run.closing_ms = passed
        run.state = event["state"]
        run.outcome = Outcome.from_dict(event)
        state.just_ended.append(work_id)


def _start(run: Run, event: dict[str, Any]) -> None:
    run.config = with_earlier_values(event["config"])
    run.attempts = event["attempt"]
    run.enqueued = bool(event.get("enqueued"))
    run.started = run.started or event["t"]
    run.heard = event["t"]
    run.state = "open"  # a failed repeat is trained again
    run.outcome = None


def _report(run: Run, event: dict[str, Any], keeps_history: bool) -> None:
    """Insert an epoch in order: one that was written back comes late."""
    place = bisect_right(run.epochs, event["epoch"])
    run.epochs.insert(place, event["epoch"])
    if keeps_history:
        run.history.insert(place, event["metrics"])


def _retry(run: Run) -> None:
    """Forget a failed attempt, except for its cost: the run begins anew."""
    run.epochs.clear()
    run.history.clear()
    run.state = "open"
    run.outcome = None
    run.early_failures = 0
    run.retries += 1
    run.attempts_before = run.attempts


def _forget_baseline(state: LogState) -> None:
    for name in [name for name in state.summary if name.startswith("baseline/")]:
        del state.summary[name]
    for name in ("baseline.reason", "baseline.error"):
        state.tags.pop(name, None)


def _reopen(state: LogState) -> None:
    """Forget the conclusions of a finished study: they rest on fewer trials or repeats."""
    if not state.finished:
        return
    state.finished = False
    for name in CONCLUSIONS:
        state.tags.pop(name, None)
