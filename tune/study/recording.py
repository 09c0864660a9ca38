"""Recording of what happens to the runs of an open study, always in this order: first the event log
(appended and fsynced), then Optuna."""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from trainables.files import ARCHITECTURE, CLASS_RESULTS
from tune.function import LENGTH
from tune.search.methods import why_stopped
from tune.study.disk import Patience, StorageFailed
from tune.study.early_failures import (
    LEFT_OUT,
    EarlyFailures,
    Held,
    TrialsFailAlike,
    error_of,
    exclusion_line,
    told,
)
from tune.study.events import EventLog
from tune.study.kept_files import KeptFiles
from tune.study.known import Known
from tune.study.log_state import apply_event
from tune.study.objectives import check_measured, with_objectives
from tune.study.planner import Planner
from tune.study.requeues import Requeues
from tune.study.run_configs import write_config
from tune.study.trials import OWN
from tune.study.work import Outcome, Work

Observer = Callable[[dict[str, Any]], None]

_BREATH_S = 0.2
"""Interval at which a search in one thread checks whether it may continue."""


class _Block:
    """Lines and acts that wait for the end of a `together` block."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.then: list[Callable[[], None]] = []


class Recording(Known):
    """The part of a `Study` that records what has happened.

    Attributes:
        log: the event log.
        observers: called with every event after it has been written.
        files: removes the files of ended runs.
        stopping: no work is handed out any more.
        leave_out: excludes a machine from further trials; returns False if that is impossible.
    """

    directory: Path
    log: EventLog
    observers: list[Observer]
    stopping: bool
    leave_out: Callable[[str], bool]
    files: KeptFiles
    _emitting: threading.Lock
    _together: "_Block | None"
    """Things that wait for the end of an open `together` block; None outside."""
    _disk: Patience
    _planner: Planner
    _early: EarlyFailures
    _requeues: Requeues
    _failing: str | None
    """Message of the error that ends the run once nothing is running."""

    # -- the event log

    def emit(self, event: str, **fields: Any) -> None:
        """Append to the event log, then tell the observers (console, MLflow). Any thread may call
        this."""
        with self._emitting:
            if self._together is None:
                written = self.log.append(event, **fields)
            else:
                written, line = self.log.prepare(event, **fields)
                self._together.lines.append(line)
            apply_event(self._state, written)
            self._when_written(lambda: self._tell({"event": event, **fields}))

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Write what is recorded within the block at its end: first the log, in one write, then
        tell the observers and remove files, then Optuna, in another write. A kill leaves a prefix
        of the block's events.

        At most one report or one end of a trial may be in a block: then a kill between the two
        writes leaves Optuna one record behind, as it does without a block.

        Raises:
            StorageFailed: the log cannot be written; nothing of the block is on record then.
        """
        with self._database.one_write():
            self._together = _Block()
            try:
                yield
            finally:
                self._write_together()

    def _write_together(self) -> None:
        with self._emitting:
            block = self._together or _Block()
            self._together = None
            try:
                if block.lines:
                    self.log.append_lines(b"".join(block.lines))
            except BaseException:
                self._database.forget_unwritten()
                raise
            for act in block.then:
                act()

    def _when_written(self, act: Callable[[], None]) -> None:
        """Do this when all events so far are on disk."""
        if self._together is None:
            act()
        else:
            self._together.then.append(act)

    def _tell(self, event: dict[str, Any]) -> None:
        for observer in self.observers:
            observer(event)

    def summarize(self, metrics: dict[str, float], **tags: str) -> None:
        """Record metrics and tags of the whole study (baseline, verdict)."""
        self.emit("summary", metrics=metrics, tags=tags)

    def _emit_for(self, event: str, work: Work, **fields: Any) -> None:
        if work.id.repeat is not None:
            fields["repeat"] = work.id.repeat
        self.emit(event, trial=work.id.trial, **fields)

    # -- runs

    def started(self, work: Work) -> None:
        """Record that a process has begun the work, or resumed it after another process was
        lost."""
        if work.kind == "baseline":
            return
        self._write_config(work)
        own = {"enqueued": True} if self._is_own(work) else {}
        self._emit_for(
            "start",
            work,
            config=work.config,
            attempt=self._state.attempts(work.id) + 1,
            resumed_epoch=self._state.last_epoch(work.id),
            **own,
        )

    def _write_config(self, work: Work) -> None:
        directory = Path(work.directory)
        self._disk.insist(lambda: write_config(directory, work.config), directory)

    def _is_own(self, work: Work) -> bool:
        """True for a trial whose configuration the user named."""
        if work.kind != "trial":
            return False
        return OWN in self._database.trial(_trial_number(work)).user_attrs

    def reported(self, work: Work, epoch: int, metrics: dict[str, float], *nodes: str) -> bool:
        """Record an epoch, unless it is on record already. Return False if this trial must stop
        now.

        Args:
            nodes: machines of its workers, if there may be several.
        Raises:
            TrialsFailAlike: trials of another machine failed in a row, while this one works.
        """
        if self.is_new_epoch(work, epoch):
            self._record_epoch(work, epoch, metrics, nodes or (None,))
        if work.kind != "trial":
            return True

        number = _trial_number(work)
        length = metrics.get(LENGTH)
        epochs = None if length is None else int(length)
        stop = self._database.report(number, epoch, metrics[self.objective], epochs)
        # The default is placed on the rungs, but always runs to the end.
        return number == 0 or not stop

    def _record_epoch(
        self, work: Work, epoch: int, metrics: dict[str, float], nodes: Sequence[str | None]
    ) -> None:
        for node in nodes:
            self._requeues.note_report(node)
        if work.kind != "trial":
            self._emit_for("report", work, epoch=epoch, metrics=metrics)
            return

        for node in nodes:
            self._early.note_report(node)
            self._record_failures(self._early.take(node))
        if epoch == 1:
            if not self.manifest.function:  # a function may report other metrics at every epoch
                check_measured(metrics, self._objectives)
            # A kill between the two events records the artifact twice, rather than never.
            self._emit_artifact(work, ARCHITECTURE)
        self._emit_for("report", work, epoch=epoch, metrics=metrics)
        self._end_if_alike()

    def is_new_epoch(self, work: Work, epoch: int) -> bool:
        """True if no epoch this late is on record. A resumed run reports its last epoch again."""
        return epoch > (self._state.last_epoch(work.id) or 0)

    def _emit_artifact(self, work: Work, name: str) -> None:
        """Record a file that a trial may have written."""
        if (Path(work.directory) / name).exists():
            number = _trial_number(work)
            self.emit("artifact", trial=number, path=f"trials/{number:04d}/{name}", to="")

    def ended(self, work: Work, outcome: Outcome, node: str | None = None) -> None:
        """Record the end of a run. A second end of the same run is ignored.

        Args:
            node: machine that it ran on, if there may be several.
        Raises:
            TrialsFailAlike: several trials in a row fail before they report anything.
        """
        if work.kind == "baseline":
            self._planner.end(work.id)
            self._record_baseline(outcome)
            return
        if work.id not in self._planner.running:
            return
        is_silent = work.kind == "trial" and self._state.last_epoch(work.id) is None
        if is_silent and self._early.holds(outcome):
            if node in self._early.left_out:
                self.requeue(work)
            else:
                self._fail_early(work, outcome, node)
            return

        if work.kind == "trial":
            self._record_failures(self._early.take(node))
        self._record_end(work, outcome)

    def _fail_early(self, work: Work, outcome: Outcome, node: str | None) -> None:
        """Hold the failure; end the run if it is the last of too many. Trials that failed for the
        first time then stay open: the next start tries them once more."""
        if self._early.differs(outcome, node):
            self._record_failures(self._early.take(node))
        self._planner.end(work.id)
        self._early.add(work, outcome, node)
        self._end_if_alike()

    def _end_if_alike(self) -> None:
        """End the run if enough trials failed in the same way, and no running trial may still work.

        Raises:
            TrialsFailAlike: that is the case.
        """
        full = self._early.full()
        if full is None or self._silent():
            return

        node, held = full
        _, outcome = held[-1]
        why = f"failed before their first report ({error_of(outcome)})"
        if node is not None and self._left_out(node, len(held), why):
            return

        self._early.take_all()
        for work, its_outcome in held:
            if self._state.run(work.id).early_failures:
                self._record_end(work, its_outcome)
            else:
                about = {"reason": its_outcome.reason, "error": its_outcome.error}
                self._emit_for("early_failure", work, **about)
        blamed = node if self._early.is_alone(node) else None
        message = told(len(held), outcome, blamed)
        if blamed is None or not self._planner.running:
            raise TrialsFailAlike(message)
        self._failing = message  # runs on other machines may finish

    def _left_out(self, node: str, count: int, why: str) -> bool:
        """Exclude a machine from further trials, on record, and hand out again the trials that
        failed there. Return False if that is impossible.

        Args:
            count: number of trials that failed there.
            why: what happened to them.
        """
        others_work = self._early.is_alone(node)
        if not self.leave_out(node):
            return False
        for work, _ in reversed(self._early.leave_out(node)):
            self._planner.hand_out_again(work.id)

        line = exclusion_line(node, count, why, others_work)
        self._requeues.tell(line)
        known = self._state.tags.get(LEFT_OUT)
        self.summarize({}, **{LEFT_OUT: line if known is None else f"{known}; {line}"})
        return True

    def _silent(self) -> bool:
        """True if a running trial has not reported yet: it may still work."""
        return any(
            work_id.kind == "trial" and self._state.last_epoch(work_id) is None
            for work_id in self._planner.running
        )

    def _record_failures(self, held: Held) -> None:
        for work, outcome in held:
            self._record_end(work, outcome)

    def _record_end(self, work: Work, outcome: Outcome) -> None:
        if self._state.outcome(work.id) is None:
            if work.kind == "trial":
                self._emit_artifact(work, CLASS_RESULTS)
                outcome = with_objectives(self._state.run(work.id), outcome, self._objectives)
            self._emit_for("end", work, **outcome.to_event())
        if work.kind == "trial":
            self._database.tell(_trial_number(work), outcome)
        self._planner.end(work.id)
        self._when_written(lambda: self.files.ended(work.id))

    def _record_baseline(self, outcome: Outcome) -> None:
        if outcome.state == "COMPLETE":
            self.summarize(outcome.metrics)
            return
        # A failed baseline is no reason to lose the study.
        why = {
            "baseline.reason": outcome.reason or "",
            "baseline.error": outcome.error or "",
        }
        self.summarize({f"baseline/{self.objective}": math.nan}, **why)

    def pruned(self, work: Work) -> Outcome:
        """The outcome of a trial that `reported` has just stopped."""
        values = self._database.values(_trial_number(work))
        best = max(values.values())
        reason = why_stopped(self.manifest.rules["rungs"], max(values))
        return Outcome("PRUNED", best, reason, {f"best/{self.objective}": best})

    def requeue(self, work: Work) -> None:
        """Record that no process works on the run any more, although it has not ended. A trial is
        handed out next, now or at the next start."""
        self._planner.requeue(work.id)

    def requeue_after_failure(
        self, work: Work, failure: StorageFailed, node: str | None = None
    ) -> None:
        """Record that a run's process could not write the study's folder. The run is handed out
        next, on a shared disk after a pause.

        Args:
            node: machine of that process, if there may be several.
        Raises:
            StudyEnds: waiting would not help.
        """
        if not self.stopping and node not in self._early.left_out:
            self._requeues.add(failure, node)
        self.requeue(work)

    def await_disk(self) -> None:
        """Wait while no work is handed out after a failure of the disk. This is for a search in one
        thread, which has nothing else to do."""
        while self._requeues.rests and not self.stopping:
            time.sleep(_BREATH_S)


def _trial_number(work: Work) -> int:
    assert work.id.trial is not None
    return work.id.trial
