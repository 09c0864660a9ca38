"""The order of a study's work. The past is read from the event log's state and from Optuna; what
runs now is remembered here."""

from typing import Literal

from tune.study.log_state import LogState
from tune.study.record import leaders
from tune.study.trials import TrialDatabase
from tune.study.work import BASELINE, WorkId

Step = WorkId | Literal["new trial", "wait"] | None
"""A run, a trial that Optuna is to begin, nothing at the moment, or nothing any more."""


class Planner:
    """Decides the order of a study's work:

    1. the untrained baseline, once;
    2. interrupted trials;
    3. new trials, up to `trials`;
    4. repeats of trial 0 and of the leaders under `seeds`.

    Args:
        objective: metric that the baseline must have on record.
        trials: trials of the study in total.
        seeds: seeds of the repeats.
        top: number of best trials that are repeated.
    """

    def __init__(
        self,
        log: LogState,
        database: TrialDatabase,
        *,
        objective: str,
        trials: int,
        seeds: list[int],
        top: int,
    ):
        self._log = log
        self._database = database
        self._objective = objective
        self._trials = trials
        self._seeds = seeds
        self._top = top
        self.running: set[WorkId] = set()
        self.interrupted: list[WorkId] = []
        """Trials that wait for another process, first come first served."""

    def next(self) -> Step:
        """The next step; a run is not marked as running yet."""
        if self._baseline_is_due():
            return BASELINE
        if self.interrupted:
            return self.interrupted[0]
        if self._database.begun() < self._trials:
            return "new trial"
        repeat = self._next_repeat()
        if repeat is not None:
            return repeat
        return "wait" if self.running else None

    def start(self, work_id: WorkId) -> None:
        """The run has been handed out."""
        if work_id in self.interrupted:
            self.interrupted.remove(work_id)
        self.running.add(work_id)

    def end(self, work_id: WorkId) -> None:
        """The run has ended."""
        self.running.discard(work_id)

    def requeue(self, work_id: WorkId) -> None:
        """The run has lost its process: a trial is the next to be handed out, a repeat or the
        baseline is found to be missing."""
        if work_id not in self.running:
            return
        self.running.discard(work_id)
        if work_id.kind == "trial":
            self.interrupted.insert(0, work_id)

    def leaders(self) -> list[int]:
        """The trials that are repeated, best first."""
        return leaders(self._database.completed(), self._top)

    def _baseline_is_due(self) -> bool:
        recorded = f"baseline/{self._objective}" in self._log.summary
        return not recorded and BASELINE not in self.running

    def _next_repeat(self) -> WorkId | None:
        """Repeats of trial 0 fill the time until the last trial ends; then those of the leaders
        follow."""
        searching = any(work_id.kind == "trial" for work_id in self.running)
        numbers = [0] if searching else list(dict.fromkeys([0, *self.leaders()]))
        for number in numbers:
            outcome = self._log.outcome(WorkId(number))
            if outcome is None or outcome.state != "COMPLETE":
                continue
            for seed in self._seeds:
                repeat = WorkId(number, seed)
                if repeat not in self.running and self._log.outcome(repeat) is None:
                    return repeat
        return None
