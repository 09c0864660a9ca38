"""The order of a study's work. The past is read from the event log's state and from Optuna; the
planner remembers only what runs now."""

from collections.abc import Callable, Sequence
from typing import Literal

from tune.study.log_state import LogState
from tune.study.objectives import Objective, named_points, points_of
from tune.study.rules import ATTEMPTS, RepeatRule, test_metric
from tune.study.trials import TrialDatabase
from tune.study.work import BASELINE, WorkId

Step = WorkId | Literal["new trial", "wait"] | None
"""A run, a trial that Optuna begins, nothing for now, or nothing any more."""


class Planner:
    """Decides the order of a study's work:

    1. the untrained baseline, once (in a single process after the first trial);
    2. interrupted trials;
    3. new trials, up to `trials` or until the space is exhausted;
    4. repeats under `seeds`, of the trials that the rule names.

    Args:
        objective: metric that the baseline must have on record.
        trials: trials of the study in total.
        seeds: seeds of the repeats.
        is_exhausted: returns True if the space has no configuration left.
        objectives: objectives of the study; if there are several, named points of the front are
            repeated too.
        function: a function trains, so there is no untrained network, and repeats end after the
            first one without a test metric.
    """

    def __init__(
        self,
        log: LogState,
        database: TrialDatabase,
        *,
        objective: str,
        trials: int,
        seeds: list[int],
        repeats: RepeatRule,
        is_exhausted: Callable[[], bool] = lambda: False,
        function: bool = False,
        objectives: Sequence[Objective] = (),
    ):
        self._log = log
        self._database = database
        self._objective = objective
        self._trials = trials
        self._seeds = seeds
        self._repeats = repeats
        self._is_exhausted = is_exhausted
        self._function = function
        self._objectives = objectives
        self.running: set[WorkId] = set()
        self.interrupted: list[WorkId] = []
        """Trials that wait for another process, first come, first served."""

    def next(self, trial_first: bool = False) -> Step:
        """Return the next step; a run is not marked as running yet.

        Args:
            trial_first: run the first trial before the baseline.
        """
        if self._baseline_is_due() and not (trial_first and self._is_untouched()):
            return BASELINE
        if self.interrupted:
            return self.interrupted[0]
        if self._database.begun() < self._trials and not self._is_exhausted():
            return "new trial"
        repeat = self._next_repeat()
        if repeat is not None:
            return repeat
        return "wait" if self.running else None

    def start(self, work_id: WorkId) -> None:
        """Note that the run has been handed out."""
        if work_id in self.interrupted:
            self.interrupted.remove(work_id)
        self.running.add(work_id)

    def end(self, work_id: WorkId) -> None:
        """Note that the run has ended."""
        self.running.discard(work_id)

    def requeue(self, work_id: WorkId) -> None:
        """Note that the run has lost its process. A trial is handed out next; a repeat or the
        baseline becomes due again."""
        if work_id in self.running:
            self.hand_out_again(work_id)

    def hand_out_again(self, work_id: WorkId) -> None:
        """Note that the run came to nothing, through no fault of its own, and hand it out as
        `requeue` does."""
        self.running.discard(work_id)
        if work_id.kind == "trial":
            self.interrupted.insert(0, work_id)

    def _is_untouched(self) -> bool:
        """True if trials are wanted and none has begun."""
        return self._trials > 0 and not self._database.begun()

    def _baseline_is_due(self) -> bool:
        if self._function:
            return False
        recorded = f"baseline/{self._objective}" in self._log.summary
        return not recorded and BASELINE not in self.running

    def _next_repeat(self) -> WorkId | None:
        """Return the next repeat. Repeats that are certain fill the time until the last trial ends;
        then come those of trials that the search has chosen."""
        if self._function and self._tests_nothing():
            return None

        searching = any(work_id.kind == "trial" for work_id in self.running)
        if searching:
            numbers = self._repeats.certain()
        else:
            chosen = self._repeats.repeated(self._database.distinct())
            numbers = list(dict.fromkeys([*chosen, *self._named_points()]))

        for number in numbers:
            outcome = self._log.outcome(WorkId(number))
            if outcome is None or outcome.state != "COMPLETE":
                continue
            for seed in self._seeds:
                repeat = WorkId(number, seed)
                if repeat not in self.running and self._is_due(repeat):
                    return repeat
        return None

    def _named_points(self) -> list[int]:
        """Trials of the front that are repeated too; none for a single objective."""
        if len(self._objectives) < 2:
            return []
        points = points_of(self._log.trials, self._objectives)
        return list(named_points(points, self._objectives))

    def _tests_nothing(self) -> bool:
        """True if a repeat has shown that the function reports no test metric."""
        metric = test_metric(self._objective)
        return any(
            run.state == "COMPLETE" and metric not in run.metrics
            for run in self._log.repeats.values()
        )

    def _is_due(self, repeat: WorkId) -> bool:
        """True if the repeat must be trained. One that diverged says something about its
        configuration; one that failed says nothing, and is trained again."""
        outcome = self._log.outcome(repeat)
        if outcome is None:
            return True
        run = self._log.run(repeat)
        return outcome.state == "FAIL" and run.attempts - run.attempts_before < ATTEMPTS
