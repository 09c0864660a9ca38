"""The durable study. The event log is the record, Optuna's storage the database of trials, and
everything else is a worker.

    study = Study.open(...)                 # creates it, or resumes it after any kind of end
    while (work := study.next_work()) ...   # interrupted trials, new trials, then repeats
        study.started(work); study.reported(work, epoch, metrics); study.ended(work, outcome)

Order within every call: the event log first (appended and fsynced), then Optuna. `open` brings
Optuna up to the log.

    work.py         names of runs, what is handed out, how it ended
    log_state.py    what has happened, by the event log
    trials.py       what has happened, by Optuna
    planner.py      what runs next
"""

import math
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from trainables.config import build
from trainables.errors import UserError
from trainables.files import (
    ARCHITECTURE,
    BEST,
    CLASS_RESULTS,
    remove_partials,
)
from tune.experiments import Experiment
from tune.function import LENGTH
from tune.search.methods import why_stopped
from tune.search.own_configuration import own_configuration
from tune.search.space import Pinned, asked_for
from tune.study.copied import adopt
from tune.study.disk import Patience, StorageFailed
from tune.study.early_failures import (
    LEFT_OUT,
    EarlyFailures,
    Held,
    TrialsFailAlike,
    error_of,
    told,
    told_left_out,
)
from tune.study.enqueued import Queue, enqueue
from tune.study.events import EventLog
from tune.study.fresh import FreshConfigurations
from tune.study.group import Group, is_group
from tune.study.kept_files import KeptFiles
from tune.study.known import Known
from tune.study.lock import locked, write_holder
from tune.study.log_state import apply_event, read_state
from tune.study.manifest import Manifest
from tune.study.mending import mend_journal, mend_log, reopen_in_journal, retry_failed
from tune.study.objectives import check_measured, objectives_of, with_objectives
from tune.study.opening import COMMITS, continued_by, first_event
from tune.study.planner import Planner
from tune.study.put_back import PutBack
from tune.study.rules import derived_seed
from tune.study.run_configs import restore_configs, write_config
from tune.study.trials import OWN, TrialDatabase
from tune.study.warm_turns import enqueued, next_point
from tune.study.work import Outcome, Work, WorkId

_BREATH_S = 0.2

Observer = Callable[[dict[str, Any]], None]

REFUSED = "enqueued.refused"
"""Tag of a study: why it does not try a configuration that was enqueued."""


class Study(Known):
    """One durable study, open for running; see the module's docstring.

    A lock keeps other processes out.
    """

    def __init__(
        self,
        directory: Path,
        experiment: Experiment,
        manifest: Manifest,
        *,
        trials: int,
        repeats: int,
        lock: FileLock,
        retry: int | None = None,
    ):
        self.directory = directory
        self.experiment = experiment
        self.manifest = manifest
        self.trials = trials
        self.repeat_count = repeats
        self.base: Any = build(experiment.config, manifest.base)
        self.pins = manifest.pins
        self.observers: list[Observer] = []
        self.stopping = False
        self._emitting = threading.Lock()
        self._lock = lock

        events = directory / "events.jsonl"
        self._objectives = objectives_of(manifest)
        self._state = read_state(events, keeps_history=len(self._objectives) > 1)
        begun = self._state.trials.values()
        self._early = EarlyFailures(has_reported=any(run.epochs for run in begun))
        self.log = EventLog(events)
        self.notes: list[str] = []
        if retry is not None:
            self.notes.append(retry_failed(self._state, manifest.objective, retry, self.emit))
        journal = directory / "study.journal"
        reopen_in_journal(journal, self._state)
        epochs = 0 if manifest.function else int(manifest.base["train.epochs"])
        self._database = TrialDatabase(journal, manifest, epochs)
        self._fresh = FreshConfigurations(experiment.space, manifest, self._database)
        self._queue = Queue(directory)
        # A study that is dropped gives its lock back at once: nothing that it holds refers to it.
        this = weakref.proxy(self)
        self._disk = Patience(directory)
        self._disk.is_over = lambda: bool(this.stopping)
        self._put_back = PutBack(directory)
        self._put_back.leave_out = lambda node, count, why: this._left_out(node, count, why)
        self.leave_out: Callable[[str], bool] = lambda node: False
        """Takes a machine out of those that get trials; False where that is impossible."""
        self._failing: str | None = None
        """The reason to end the run once nothing runs any more."""
        self.log.patience = self._disk
        self._database.be_patient(self._disk)
        self._planner = Planner(
            self._state,
            self._database,
            objective=manifest.objective,
            trials=trials,
            seeds=self.repeat_seeds(),
            repeats=self.repeat_rule,
            is_exhausted=lambda: bool(this.is_exhausted),
            function=manifest.function,
            objectives=self._objectives,
        )
        self.files = KeptFiles(
            directory,
            self._state,
            self.repeat_rule,
            manifest.keep,
            arrays=not manifest.function,
            points=lambda numbers: this._front(numbers),
        )
        self._reconcile()

    @classmethod
    def open(
        cls,
        directory: Path,
        experiment: Experiment,
        manifest: Manifest,
        *,
        trials: int,
        repeats: int = 3,
        observers: list[Observer] | None = None,
        group: Group | None = None,
        retry: int | None = None,
    ) -> "Study":
        """Create the study in `directory`, or resume the one that is there.

        Args:
            trials: trials in total.
            repeats: repeats of each leader.
            observers: are called with every event after it has been written.
            group: the group that a new study belongs to.
            retry: hand runs out again that failed before this time, in ms since the epoch
                (`--retry-failed`); None: none.
        Raises:
            StudyInUse: another process runs the study.
            UserError: the study there has another config, space or data set; the folder is not
                writable, or it is that of a group.
        """
        try:
            if is_group(directory):
                raise UserError(
                    f"{directory.name!r} is a comparison of settings in {directory.parent}; "
                    "choose another --study name"
                )
            directory.mkdir(parents=True, exist_ok=True)
            lock = locked(directory, manifest.name)  # nothing is written before
            try:
                (directory / "trials").mkdir(exist_ok=True)
                remove_partials(directory)
                moved = adopt(directory)
                commit = manifest.commit
                manifest = manifest.reconcile_with(directory / "study.json")
                study = cls(
                    directory,
                    experiment,
                    manifest,
                    trials=trials,
                    repeats=repeats,
                    lock=lock,
                    retry=retry,
                )
                study.observers += observers or []
                if not study._state.described:
                    study._describe(group)
                study._note_opening(moved, commit)
                write_holder(directory)
            except BaseException:
                lock.release()
                raise
        except OSError as error:
            raise UserError(
                f"cannot write to {error.filename or directory}: {error.strerror}; "
                "choose another place with --storage"
            ) from None
        return study

    # -- the event log

    def emit(self, event: str, **fields: Any) -> None:
        """Append to the event log, then tell the observers (console, MLflow). Any thread may call
        it."""
        with self._emitting:
            written = self.log.append(event, **fields)
            apply_event(self._state, written)
            for observer in self.observers:
                observer({"event": event, **fields})

    def summarize(self, metrics: dict[str, float], **tags: str) -> None:
        """Record metrics and tags of the whole study (baseline, verdict)."""
        self.emit("summary", metrics=metrics, tags=tags)

    def _note_opening(self, moved: str, commit: str | None) -> None:
        """Note what is new about folder and code.

        Args:
            moved: as of `adopt`.
            commit: of the code that continues.
        """
        if moved:
            self.notes.append(moved)
        known = self._state.tags.get(COMMITS) or self.manifest.commit
        continued = continued_by(known, commit)
        if continued is not None:
            note, commits = continued
            self.notes.append(note)
            self.summarize({}, **{COMMITS: commits})

    def _describe(self, group: Group | None) -> None:
        """Write the first event, in front of what there is where it was lost."""
        about = first_event(self.manifest, self.experiment.name, group)
        runs = self._state.runs.values()
        if not runs:
            self.emit("study", **about)
            return
        started = min(run.started for run in runs)
        apply_event(self._state, self.log.put_first(started, "study", **about))
        self.notes.append("events.jsonl lacked its first event: MLflow shows the study anew")

    def _emit_for(self, event: str, work: Work, **fields: Any) -> None:
        if work.id.repeat is not None:
            fields["repeat"] = work.id.repeat
        self.emit(event, trial=work.id.trial, **fields)

    # -- what there is to do

    def _reconcile(self) -> None:
        """Finish what a kill may have cut short: enqueue the first configurations, tell Optuna the
        ends that only the event log has, remove files of the last run that ended. What is missing
        beyond that is written back."""
        self._database.enqueue([self._default(), *enqueued(self.manifest.warm_start)])
        self._mend()

        for number in self._database.running():
            self._database.reopen(number)
            work_id = WorkId(number)
            outcome = self._state.outcome(work_id)
            if outcome is None:
                self._planner.interrupted.append(work_id)
            else:
                self._database.tell(number, outcome)

        restore_configs(self.directory, self._state)
        self.files.begin()

    def _mend(self) -> None:
        """Write back what either record lacks and the other one has, with a note."""
        state = self._state
        manifest = self.manifest
        space = self.experiment.space
        log = self.log.path
        self.notes += mend_journal(log, state, self._database, manifest, space)
        self.notes += mend_log(state, self._database.frozen(), manifest, self.emit)

    def _default(self) -> dict[str, Any]:
        """The default: searched parameter -> value."""
        base = self.manifest.base
        searched = asked_for(self.experiment.space, self.manifest.preset, base, self.pins)
        return {name: base[name] for name in searched}

    def next_work(self) -> Work | Literal["wait"] | None:
        """The next fit to do; "wait" while running trials decide what is next; None when all is
        done."""
        if self.stopping:
            return None
        if self._failing is not None and not self._planner.running:
            raise TrialsFailAlike(self._failing)
        if self._failing is not None or self._put_back.rests:
            return "wait"
        if self._early.are_enough and self._silent():
            return "wait"
        step = self._planner.next()
        if step is None:
            # The last trials: nobody will tell any more who is to blame.
            self._record_failures(self._early.take_all())
            step = self._planner.next()
        if step is None or step == "wait":
            return step
        if step == "new trial" or step.kind == "trial":
            work = self._begin_trial(None if step == "new trial" else step)
        elif step.kind == "repeat":
            work = self._repeat(step)
        else:
            work = self._work(step, self.base.seed, self.manifest.base)
        self._planner.start(work.id)
        return work

    def _begin_trial(self, interrupted: WorkId | None) -> Work:
        """Begin a new trial, or an interrupted one again.

        The latter keeps the parameters that it has; the others are drawn now.
        """
        with self._database.one_write():
            if interrupted is None or interrupted.trial is None:
                self._take_enqueued()
                self._take_warm_turn()
                self._fresh.prepare_next()
                trial = self._database.ask()
            else:
                trial = self._database.trial(interrupted.trial)
            self.experiment.space(Pinned(trial, self.pins), self.manifest.preset)
            work_id = WorkId(trial.number)
            config = {**self.manifest.base, **trial.params}
            work = self._work(work_id, self.base.seed, config)
            checkpoint = Path(work.directory) / BEST
            trial.set_user_attr("checkpoint", str(checkpoint.relative_to(self.directory)))
        return work

    def _take_enqueued(self) -> None:
        """Make the next trial one of somebody's own configurations, unless a trial has had it."""
        while self._queue.rest() and not self._database.is_waiting():
            given = self._queue.next()
            params = self._completed(given)
            if params is not None and params not in self._database.tried():
                self._database.enqueue_next(params, own=True)

    def _completed(self, given: dict[str, Any]) -> dict[str, Any] | None:
        """All searched parameters of a configuration; None, on record, where the space does not
        admit it."""
        manifest = self.manifest
        try:
            return own_configuration(
                self.experiment.space, manifest.preset, manifest.base, self.pins, given
            )
        except UserError as error:
            if self._state.tags.get(REFUSED) != str(error):
                self.summarize({}, **{REFUSED: str(error)})
            return None

    def enqueue(self, configurations: Sequence[dict[str, Any]]) -> None:
        """Let configurations be tried before all that the search draws from now on, once each.

        Args:
            configurations: searched parameter -> value; the others are those of the default.
        """
        enqueue(self.directory, configurations)

    def waiting(self) -> int:
        """Number of somebody's own configurations that no trial has had yet."""
        tried = self._database.tried()
        left = [self._completed(given) for given in self._queue.rest()]
        return sum(params is not None and params not in tried for params in left)

    @property
    def is_exhausted(self) -> bool:
        """True where all configurations of the space have been tried."""
        return self._fresh.is_exhausted() and not self.waiting()

    def _take_warm_turn(self) -> None:
        """Enqueue a configuration of the earlier study where it is one's turn."""
        if self._database.is_waiting():
            return
        point = next_point(self.manifest.warm_start, self._database.frozen())
        if point is not None:
            self._database.enqueue_next(point)

    def _repeat(self, work_id: WorkId) -> Work:
        assert work_id.trial is not None
        assert work_id.repeat is not None
        seed = work_id.repeat
        parameters = self._database.frozen()[work_id.trial].params
        return self._work(work_id, seed, {**self.manifest.base, **parameters, "seed": seed})

    def _work(self, work_id: WorkId, seed: int, config: dict[str, Any]) -> Work:
        return Work(work_id, seed, config, str(work_id.folder(self.directory)))

    def repeat_seeds(self) -> list[int]:
        """Seeds of the repeats. No search has used them: selection does not leak into the claim."""
        if self.manifest.rules["seeds"] == 1:
            return [self.base.seed + 1000 + k for k in range(self.repeat_count)]
        identity = f"{self.manifest.identity} {self.manifest.seed}"
        return [derived_seed(identity, "repeat", k) for k in range(self.repeat_count)]

    # -- what has happened

    def started(self, work: Work) -> None:
        """Record that a process has begun the work, or resumed it after the loss of another."""
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
        """True for a trial whose configuration somebody named."""
        if work.kind != "trial":
            return False
        return OWN in self._database.frozen()[_trial_number(work)].user_attrs

    def reported(
        self, work: Work, epoch: int, metrics: dict[str, float], node: str | None = None
    ) -> bool:
        """Record an epoch, unless it is on record already. False: stop this trial now.

        Args:
            node: the machine that it comes from, where there may be several.
        Raises:
            TrialsFailAlike: trials of another machine failed in a row, and this one works.
        """
        if self.is_new_epoch(work, epoch):
            self._put_back.note_report(node)
            if work.kind == "trial":
                self._early.note_report(node)
                self._record_failures(self._early.take(node))
            # Before the report: after a kill between the two the artifact is on record twice, not
            # never.
            if epoch == 1 and work.kind == "trial":
                if not self.manifest.function:  # which may report something else at every epoch
                    check_measured(metrics, self._objectives)
                self._emit_architecture(work)
            self._emit_for("report", work, epoch=epoch, metrics=metrics)
            if work.kind == "trial":
                self._end_if_alike()
        if work.kind != "trial":
            return True
        number = _trial_number(work)
        length = metrics.get(LENGTH)
        epochs = None if length is None else int(length)
        stop = self._database.report(number, epoch, metrics[self.objective], epochs)
        # The default takes its places on the rungs, but always runs to the end.
        return number == 0 or not stop

    def is_new_epoch(self, work: Work, epoch: int) -> bool:
        """True where no epoch so late is on record. A run that resumes reports its last again."""
        return epoch > (self._state.last_epoch(work.id) or 0)

    def _emit_architecture(self, work: Work) -> None:
        path = Path(work.directory) / ARCHITECTURE
        if path.exists():
            number = _trial_number(work)
            self.emit("artifact", trial=number, path=f"trials/{number:04d}/{ARCHITECTURE}", to="")

    def _emit_class_results(self, work: Work) -> None:
        path = Path(work.directory) / CLASS_RESULTS
        if path.exists():
            number = _trial_number(work)
            self.emit("artifact", trial=number, path=f"trials/{number:04d}/{CLASS_RESULTS}", to="")

    def ended(self, work: Work, outcome: Outcome, node: str | None = None) -> None:
        """Record the end of a run. A second end of the same run is ignored.

        Args:
            node: the machine that it ran on, where there may be several.
        Raises:
            TrialsFailAlike: trials fail in a row before they report anything.
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
        """Hold the failure, or end the run where it is the last of too many. Those that failed for
        the first time then stay open: the next start tries them once more."""
        if self._early.differs(outcome, node):
            self._record_failures(self._early.take(node))
        self._planner.end(work.id)
        self._early.add(work, outcome, node)
        self._end_if_alike()

    def _end_if_alike(self) -> None:
        """End the run where enough trials failed alike, and none runs that may still work.

        Raises:
            TrialsFailAlike: so it is.
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
        message = told(len(held), outcome, node)
        if node is None or not self._planner.running:
            raise TrialsFailAlike(message)
        self._failing = message  # what runs on other machines comes to its end

    def _left_out(self, node: str, count: int, why: str) -> bool:
        """Let a machine get no trials any more, on record, and hand out again what has failed
        there; False where that is impossible.

        Args:
            count: trials that failed there.
            why: what happened to them.
        """
        if not self.leave_out(node):
            return False
        for work, _ in reversed(self._early.leave_out(node)):
            self._planner.hand_out_again(work.id)

        line = told_left_out(node, count, why)
        self._put_back.tell(line)
        known = self._state.tags.get(LEFT_OUT)
        self.summarize({}, **{LEFT_OUT: line if known is None else f"{known}; {line}"})
        return True

    def _silent(self) -> bool:
        """True where a trial runs that has not reported yet: it may still work."""
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
                self._emit_class_results(work)
                outcome = with_objectives(self._state.run(work.id), outcome, self._objectives)
            self._emit_for("end", work, **outcome.to_event())
        if work.kind == "trial":
            self._database.tell(_trial_number(work), outcome)
        self._planner.end(work.id)
        self.files.ended(work.id)

    def _record_baseline(self, outcome: Outcome) -> None:
        if outcome.state == "COMPLETE":
            self.summarize(outcome.metrics)
            return
        # A baseline that fails is no reason to lose the study.
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
        """Record that no process works on it any more, although it has not ended: a trial is the
        next to be handed out, now or at the next start."""
        self._planner.requeue(work.id)

    def put_back(self, work: Work, failure: StorageFailed, node: str | None = None) -> None:
        """Record that a run's process could not write the study's folder: it is the next to be
        handed out, after a pause where the disk is a shared one.

        Args:
            node: the machine of that process, where there may be several.
        Raises:
            StudyEnds: nothing is gained by waiting.
        """
        if not self.stopping and node not in self._early.left_out:
            self._put_back.add(failure, node)
        self.requeue(work)

    def await_disk(self) -> None:
        """Wait as long as no work is handed out after a failure of the disk: for a search in one
        thread, which has nothing else to do."""
        while self._put_back.rests and not self.stopping:
            time.sleep(_BREATH_S)

    def close(self) -> None:
        """Give log, journal and lock back."""
        self.log.close()
        self._database.close()
        self._lock.release()


def _trial_number(work: Work) -> int:
    assert work.id.trial is not None
    return work.id.trial
