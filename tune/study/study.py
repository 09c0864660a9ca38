"""The durable study. The event log is the record, Optuna's storage is the database of trials, and
everything else is a worker.

    study = Study.open(...)                 # creates it, or resumes it after any kind of end
    while (work := study.next_work()) ...   # interrupted trials, new trials, then repeats
        study.started(work); study.reported(work, epoch, metrics); study.ended(work, outcome)

The order within every call: first the event log (appended and fsynced), then Optuna. `open` brings
Optuna up to the log.

    work.py             names of runs, what is handed out, how it ended
    log_state.py        what has happened, by the event log
    trials.py           what has happened, by Optuna
    known.py            answers from both
    recording.py        what happens, written to both
    planner.py          what runs next
    configurations.py   with which configuration
"""

import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from trainables.config import build
from trainables.errors import UserError
from trainables.files import BEST, remove_partials
from tune.experiments import Experiment
from tune.search.space import Pinned
from tune.study.configurations import REFUSED, Configurations
from tune.study.copied import adopt
from tune.study.disk import Patience
from tune.study.early_failures import EarlyFailures, TrialsFailAlike
from tune.study.events import EventLog
from tune.study.group import Group, is_group
from tune.study.kept_files import KeptFiles
from tune.study.lock import locked, write_holder
from tune.study.log_state import apply_event, read_state, usual_epoch_s
from tune.study.lost_manifest import check_lost_manifest
from tune.study.manifest import Manifest
from tune.study.mending import (
    JOURNAL,
    mend_journal,
    mend_log,
    reopen_in_journal,
    retry_failed,
)
from tune.study.objectives import measured, objectives_of
from tune.study.opening import COMMITS, check_objective, continued_by, first_event
from tune.study.planner import Planner
from tune.study.recording import Observer, Recording
from tune.study.requeues import Requeues
from tune.study.rules import derived_seed
from tune.study.run_configs import restore_configs
from tune.study.trials import TrialDatabase
from tune.study.work import Work, WorkId


class Study(Recording):
    """One durable study, open for running; see the module's docstring.

    A lock keeps other processes out.

    Attributes:
        hung_after: see `Work`; applies to the runs that are handed out from now on.
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
        self.seed: int = build(experiment.config, manifest.base).seed
        self.pins = manifest.pins
        self.observers = []
        self.stopping = False
        self.hung_after = 0.0
        self._emitting = threading.Lock()
        self._together = None
        self._lock = lock
        # A dropped study releases its lock at once, because nothing that it holds refers to it.
        this = weakref.proxy(self)

        events = directory / "events.jsonl"
        self._objectives = objectives_of(manifest)
        self._state = read_state(events, keeps_history=len(self._objectives) > 1)
        check_objective(directory, self._state.objective, manifest)
        begun = self._state.trials.values()
        self._early = EarlyFailures(has_reported=any(run.epochs for run in begun))
        self.log = EventLog(events)
        self.notes: list[str] = []
        if retry is not None:
            self.notes.append(retry_failed(self._state, manifest.objective, retry, self.emit))
        self._database = self._open_database()
        self._configurations = self._choose_configurations()

        self._disk = Patience(directory)
        self._disk.is_over = lambda: bool(this.stopping)
        self.log.patience = self._disk
        self._database.be_patient(self._disk)
        self._requeues = Requeues(directory)
        self._requeues.leave_out = lambda node, count, why: this._left_out(node, count, why)
        self.leave_out = lambda node: False
        self._failing = None

        self._planner = self._plan_work()
        self.files = self._keep_files()
        self._reconcile()

    def _open_database(self) -> TrialDatabase:
        """Open Optuna's journal, after reopening in it the trials that are tried again."""
        journal = self.directory / JOURNAL
        reopen_in_journal(journal, self._state)
        epochs = 0 if self.manifest.function else int(self.manifest.base["train.epochs"])
        return TrialDatabase(journal, self.manifest, epochs)

    def _choose_configurations(self) -> Configurations:
        this = weakref.proxy(self)
        return Configurations(
            self.directory,
            self.experiment.space,
            self.manifest,
            self._database,
            note_refusal=lambda reason: this._note_refusal(reason),
        )

    def _plan_work(self) -> Planner:
        return Planner(
            self._state,
            self._database,
            objective=self.manifest.objective,
            trials=self.trials,
            seeds=self.repeat_seeds(),
            repeats=self.repeat_rule,
            is_exhausted=self._configurations.are_exhausted,
            function=self.manifest.function,
            objectives=self._objectives,
        )

    def _keep_files(self) -> KeptFiles:
        this = weakref.proxy(self)
        return KeptFiles(
            self.directory,
            self._state,
            self.repeat_rule,
            self.manifest.keep,
            arrays=not self.manifest.function,
            points=lambda numbers: this._front(numbers),
        )

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
            repeats: number of repeats of each leader.
            observers: called with every event after it has been written.
            group: the group that a new study belongs to.
            retry: hand out again the runs that failed before this time, in ms since the epoch
                (`--retry-failed`); None: hand out none again.
        Raises:
            StudyInUse: another process runs the study.
            UserError: the study there has another config, space or data set; the folder is not
                writable, or it belongs to a group.
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
                moved = adopt(directory) or check_lost_manifest(directory, manifest)
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
                if not study._state.objective:
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

    def _note_opening(self, moved: str, commit: str | None) -> None:
        """Note what has changed about the folder and the code.

        Args:
            moved: result of `adopt` or of `check_lost_manifest`.
            commit: commit of the code that continues.
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
        """Write the first event; if it was lost, write it in front of the others."""
        about = first_event(self.manifest, self.experiment.name, group)
        runs = self._state.runs.values()
        if not runs:
            self.emit("study", **about)
            return
        started = min(run.started for run in runs)
        apply_event(self._state, self.log.put_first(started, "study", **about))
        self.notes.append(
            "events.jsonl lacked its first event: MLflow shows the study as a new one"
        )

    # -- what there is to do

    def _reconcile(self) -> None:
        """Finish what a kill may have cut short: enqueue the first configurations, tell Optuna
        about ends that only the event log has, remove files of the last ended run. Then write back
        anything else that is missing."""
        self._configurations.enqueue_first()
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
        """Write back what only one of the two records has, with a note."""
        state = self._state
        manifest = self.manifest
        space = self.experiment.space
        log = self.log.path
        self.notes += mend_journal(log, state, self._database, manifest, space)
        self.notes += mend_log(state, self._database.frozen(), manifest, self.emit)

    def next_work(self, trial_first: bool = False) -> Work | Literal["wait"] | None:
        """Return the next work; "wait" while running trials decide what is next; None when all is
        done.

        Args:
            trial_first: begin a new study with its first trial, so that it need not wait for the
                untrained baseline.
        """
        if self.stopping:
            return None
        if self._failing is not None and not self._planner.running:
            raise TrialsFailAlike(self._failing)
        if self._failing is not None or self._requeues.rests:
            return "wait"
        if self._early.are_enough and self._silent():
            return "wait"

        step = self._planner.next(trial_first)
        if step is None:
            # These were the last trials: nothing will show any more what is to blame.
            self._record_failures(self._early.take_all())
            step = self._planner.next()
        if step is None or step == "wait":
            return step

        if step == "new trial" or step.kind == "trial":
            work = self._begin_trial(None if step == "new trial" else step)
        elif step.kind == "repeat":
            work = self._repeat(step)
        else:
            work = self._work(step, self.seed, self.manifest.base)
        self._planner.start(work.id)
        return work

    def _begin_trial(self, interrupted: WorkId | None) -> Work:
        """Begin a new trial, or an interrupted one again.

        An interrupted trial keeps the parameters that it has; all others are drawn now.
        """
        with self._database.one_write():
            if interrupted is None or interrupted.trial is None:
                self._configurations.prepare_next()
                trial = self._database.ask()
            else:
                trial = self._database.trial(interrupted.trial)
            self.experiment.space(Pinned(trial, self.pins), self.manifest.preset)
            work_id = WorkId(trial.number)
            config = {**self.manifest.base, **trial.params}
            work = self._work(work_id, self.seed, config)
            checkpoint = Path(work.directory) / BEST
            trial.set_user_attr("checkpoint", str(checkpoint.relative_to(self.directory)))
        return work

    def enqueue(self, configurations: Sequence[dict[str, Any]]) -> None:
        """Let configurations be tried once each, before all that the search draws from now on.

        Args:
            configurations: searched parameter -> value; missing parameters keep their default.
        """
        self._configurations.name(configurations)

    def waiting(self) -> int:
        """Number of the user's configurations that no trial has had yet."""
        return self._configurations.waiting()

    @property
    def is_exhausted(self) -> bool:
        """True if all configurations of the space have been tried."""
        return self._configurations.are_exhausted()

    def _note_refusal(self, reason: str) -> None:
        """Record why one of the user's configurations is not tried."""
        if self._state.tags.get(REFUSED) != reason:
            self.summarize({}, **{REFUSED: reason})

    def _repeat(self, work_id: WorkId) -> Work:
        assert work_id.trial is not None
        assert work_id.repeat is not None
        seed = work_id.repeat
        parameters = self._database.frozen()[work_id.trial].params
        return self._work(work_id, seed, {**self.manifest.base, **parameters, "seed": seed})

    def _work(self, work_id: WorkId, seed: int, config: dict[str, Any]) -> Work:
        return Work(
            work_id,
            seed,
            config,
            str(work_id.folder(self.directory)),
            measure=measured(self._objectives) if work_id.kind == "trial" else [],
            hung_after=self.hung_after,
            usual_epoch_s=usual_epoch_s(self._state) if self.hung_after else 0.0,
        )

    def repeat_seeds(self) -> list[int]:
        """Seeds of the repeats. No search has used them, so selection does not leak into the
        claim."""
        if self.manifest.rules["seeds"] == 1:
            return [self.seed + 1000 + k for k in range(self.repeat_count)]
        identity = f"{self.manifest.identity} {self.manifest.seed}"
        return [derived_seed(identity, "repeat", k) for k in range(self.repeat_count)]

    def close(self) -> None:
        """Close log and journal, and release the lock."""
        self.log.close()
        self._database.close()
        self._lock.release()
