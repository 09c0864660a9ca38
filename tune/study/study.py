"""The durable study. Optuna's storage is the database of trials, the event log is the record,
everything else is a worker.

    study = Study.open(...)                 # creates it, or goes on with it after any kind of end
    while (work := study.next_work()) ...   # interrupted trials first, then new ones, then the repeats that claims rest on
        study.started(work); study.reported(work, epoch, metrics); study.ended(work, outcome)

Order within every call: the event log first (appended and fsynced), then Optuna. `open` brings
Optuna up to the log.
"""

import json
import math
import threading
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import optuna
from filelock import FileLock, Timeout
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from trainables.config import build
from trainables.errors import UserError
from trainables.files import ARCHITECTURE
from tune.experiments import Experiment
from tune.search.pruner import DurableHalving
from tune.search.sampler import SeededTPE
from tune.search.space import Pinned, asked_for
from tune.study.events import EventLog
from tune.study.group import Group, is_group
from tune.study.journal import Journal
from tune.study.manifest import Manifest
from tune.study.record import chosen, leaders

BASELINE = -1  # stands for a trial number where work is no trial
State = Literal["COMPLETE", "PRUNED", "FAIL"]
Observer = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Work:
    """One fit to do: a trial of the search, a repeat of a finished trial under another seed, or the
    untrained baseline."""

    kind: Literal["trial", "repeat", "baseline"]
    number: int
    seed: int
    config: dict[str, Any]  # flat
    directory: str

    @property
    def repeat(self) -> int | None:
        return self.seed if self.kind == "repeat" else None

    @property
    def key(self) -> tuple[int, int | None]:
        return self.number, self.repeat


@dataclass(frozen=True)
class Outcome:
    """How a piece of work ended, as the process that did it tells."""

    state: State
    value: float | None = None
    reason: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    error: str | None = None  # traceback

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Outcome":
        return cls(
            fields["state"],
            fields.get("value"),
            fields.get("reason"),
            fields.get("metrics") or {},
            fields.get("error"),
        )


class Study:
    """See the module's docstring. Not for two processes at once: a lock says so."""

    def __init__(
        self,
        directory: Path,
        experiment: Experiment,
        manifest: Manifest,
        *,
        trials: int,
        repeats: int,
    ):
        self.directory, self.experiment, self.manifest = directory, experiment, manifest
        self.trials, self.repeats = trials, repeats
        self.objective = manifest.objective
        self.base: Any = build(experiment.config, manifest.base)
        self.pins = manifest.pins
        self.observers: list[Observer] = []
        self.stopping = False
        self._emitting = threading.Lock()
        self._running: dict[tuple[int, int | None], Trial | None] = {}
        self._lock = FileLock(directory / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"study {manifest.name!r} is being run by another process; wait for it, or choose another --study name"
            ) from None
        self._load_event_log()
        self.log = EventLog(directory / "events.jsonl")
        self._journal = Journal(directory / "study.journal")
        self.optuna = optuna.create_study(
            study_name=manifest.name,
            storage=JournalStorage(self._journal),
            direction="maximize",
            load_if_exists=True,
            sampler=SeededTPE(_seed_of_draws(manifest)),
            pruner=DurableHalving(self.base.train.epochs),
        )
        self._reconcile()
        if self._outcomes:  # a kill may have come between the last end and what belongs to it
            number, repeat = next(reversed(self._outcomes))
            _clean(self._folder(number, repeat), self._outcomes[number, repeat].state)

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
    ) -> "Study":
        """Create the study in `directory`, or go on with the one that is there.

        Args:
            group: that a new study belongs to.
        Raises:
            UserError: the study there has another config, space or data set; or another process
                runs it; or the place is not writable, or that of settings which are compared.
        """
        try:
            if is_group(directory):
                raise UserError(
                    f"{directory.name!r} is a comparison of settings in {directory.parent}; choose another --study name"
                )
            (directory / "trials").mkdir(parents=True, exist_ok=True)
            manifest = manifest.reconcile_with(directory / "study.json")
            study = cls(directory, experiment, manifest, trials=trials, repeats=repeats)
        except OSError as error:
            raise UserError(
                f"cannot write to {error.filename or directory}: {error.strerror}; choose another place with --storage"
            ) from None
        study.observers += observers or []
        if not study._log_has_study:
            data = manifest.data
            study.emit(
                "study",
                name=manifest.name,
                experiment=experiment.name,
                objective=manifest.objective,
                direction="maximize",
                config=manifest.base,
                searched=sorted(manifest.space),
                data=data,
                tags={"preset": manifest.preset},
                group=None if group is None else group.event,
            )
        return study

    # -- the event log

    def _load_event_log(self) -> None:
        """What the event log knows: the last reported epoch and the outcome of every run."""
        self._epochs: dict[tuple[int, int | None], int] = {}
        self._outcomes: dict[tuple[int, int | None], Outcome] = {}
        self._attempts: dict[tuple[int, int | None], int] = {}
        self.summary: dict[str, float] = {}
        self._log_has_study = False
        path = self.directory / "events.jsonl"
        for event in EventLog.read(path)[0] if path.exists() else []:
            key: Any = (event.get("trial"), event.get("repeat"))
            if event["event"] == "report":
                self._epochs[key] = event["epoch"]
            elif event["event"] == "start":
                self._attempts[key] = event["attempt"]
            elif event["event"] == "end":
                self._outcomes[key] = Outcome.from_dict(event)
            elif event["event"] == "summary":
                self.summary |= event["metrics"]
            elif event["event"] == "study":
                self._log_has_study = True

    def emit(self, event: str, **fields: Any) -> None:
        """Append to the event log, then tell the observers (console, MLflow). Safe to call from any
        thread."""
        with self._emitting:
            self.log.append(event, **fields)
            for observer in self.observers:
                observer({"event": event, **fields})

    def _emit_for(self, event: str, work: Work, **fields: Any) -> None:
        if work.repeat is not None:
            fields["repeat"] = work.repeat
        self.emit(event, trial=work.number, **fields)

    # -- what there is to do

    def _reconcile(self) -> None:
        """Tell Optuna what the log knows and a kill kept from it; put the untuned default first,
        and what a warm start brings behind it."""
        # A waiting trial is one line of the journal, and no trial is begun before all wait: what is
        # there is the beginning of this list.
        waiting = [
            self._default(),
            *(point["params"] for point in (self.manifest.warm_start or {}).get("points", [])),
        ]
        for params in waiting[len(self.optuna.get_trials(deepcopy=False)) :]:
            self.optuna.enqueue_trial(params)
        self._interrupted = []
        for frozen in self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            trial = Trial(self.optuna, frozen._trial_id)
            if (outcome := self._outcomes.get((frozen.number, None))) is not None:
                self._tell(trial, outcome)
            else:
                self._interrupted.append(trial)

    def _default(self) -> dict[str, Any]:
        searched = asked_for(
            self.experiment.space, self.manifest.preset, self.manifest.base, self.pins
        )
        return {name: self.manifest.base[name] for name in searched}

    def next_work(self) -> Work | Literal["wait"] | None:
        """The next fit to do; "wait" while running trials decide what is next; None when all is
        done."""
        if self.stopping:
            return None
        if (
            f"baseline/{self.objective}" not in self.summary
            and (BASELINE, None) not in self._running
        ):
            self._running[BASELINE, None] = None
            return Work(
                "baseline",
                BASELINE,
                self.base.seed,
                self.manifest.base,
                str(self.directory / "baseline"),
            )
        if self._interrupted or self._created() < self.trials:
            with self._journal.together():
                return self._trial_work(
                    self._interrupted.pop(0) if self._interrupted else self.optuna.ask()
                )
        return self._next_repeat()

    def _created(self) -> int:
        return sum(t.state != TrialState.WAITING for t in self.optuna.get_trials(deepcopy=False))

    def _trial_work(self, trial: Trial) -> Work:
        # Also for an interrupted trial: what it has been given is handed out again, what the kill
        # kept from it is drawn now.
        self.experiment.space(Pinned(trial, self.pins), self.manifest.preset)
        work = self._work(
            "trial", trial.number, self.base.seed, {**self.manifest.base, **trial.params}
        )
        trial.set_user_attr(
            "checkpoint", str((Path(work.directory) / "best.pt").relative_to(self.directory))
        )
        self._running[work.key] = trial
        return work

    def _next_repeat(self) -> Work | Literal["wait"] | None:
        """Trial 0's repeats fill the time until the last trial ends; then those of the best
        trials."""
        searching = any(repeat is None and number != BASELINE for number, repeat in self._running)
        numbers = [0] if searching else list(dict.fromkeys([0, *self.leaders()]))
        for number in numbers:
            if self._outcome_state(number) != "COMPLETE":
                continue
            for seed in self.repeat_seeds():
                if (number, seed) not in self._outcomes and (number, seed) not in self._running:
                    self._running[number, seed] = None
                    frozen = self.optuna.get_trials(deepcopy=False)[number]
                    return self._work(
                        "repeat",
                        number,
                        seed,
                        {**self.manifest.base, **frozen.params, "seed": seed},
                    )
        return "wait" if self._running else None

    def repeat_seeds(self) -> list[int]:
        """Seeds that no search has used: selection does not leak into the claim."""
        return [self.base.seed + 1000 + k for k in range(self.repeats)]

    def _work(
        self, kind: Literal["trial", "repeat"], number: int, seed: int, config: dict[str, Any]
    ) -> Work:
        return Work(
            kind,
            number,
            seed,
            config,
            str(self._folder(number, seed if kind == "repeat" else None)),
        )

    def _folder(self, number: int, repeat: int | None) -> Path:
        trial = self.directory / "trials" / f"{number:04d}"
        return trial if repeat is None else trial / f"repeat-{repeat}"

    # -- what has happened

    def started(self, work: Work) -> None:
        """A process has begun the work, or taken it up again after the loss of another."""
        if work.kind == "baseline":
            return
        attempt = self._attempts[work.key] = self._attempts.get(work.key, 0) + 1
        directory = Path(work.directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text(json.dumps(work.config, indent=1) + "\n")
        self._emit_for(
            "start",
            work,
            config=work.config,
            attempt=attempt,
            resumed_epoch=self._epochs.get(work.key),
        )

    def reported(self, work: Work, epoch: int, metrics: dict[str, float]) -> bool:
        """Record an epoch; a step that is on record already is ignored. False: stop this trial
        now."""
        if epoch > self._epochs.get(work.key, 0):
            # Before the report: after a kill between the two the artifact is on record twice, not
            # never.
            if (
                epoch == 1
                and work.kind == "trial"
                and (Path(work.directory) / ARCHITECTURE).exists()
            ):
                self.emit(
                    "artifact",
                    trial=work.number,
                    path=f"trials/{work.number:04d}/{ARCHITECTURE}",
                    to="",
                )
            self._epochs[work.key] = epoch
            self._emit_for("report", work, epoch=epoch, metrics=metrics)
        trial = self._running[work.key]
        if trial is None:
            return True
        with self._journal.together():
            if epoch not in self.optuna._storage.get_trial(trial._trial_id).intermediate_values:
                trial.report(metrics[self.objective], epoch)
            # The default configuration takes its places on the rungs, but always runs to the end.
            return not trial.should_prune() or work.number == 0

    def ended(self, work: Work, outcome: Outcome) -> None:
        """Record the end of a run. A second end of the same run is ignored."""
        if work.kind == "baseline":
            self._running.pop(work.key, None)
            if outcome.state == "COMPLETE":
                self.summarize(outcome.metrics)
            else:  # no baseline is no reason to lose the study
                why = {
                    "baseline.reason": outcome.reason or "",
                    "baseline.error": outcome.error or "",
                }
                self.summarize({"baseline/" + self.objective: math.nan}, **why)
            return
        if work.key not in self._running:
            return
        trial = self._running[work.key]
        if work.key not in self._outcomes:
            self._outcomes[work.key] = outcome
            self._emit_for("end", work, **vars(outcome))
        if trial is not None:
            self._tell(trial, outcome)
        del self._running[work.key]
        _clean(Path(work.directory), outcome.state)

    def _tell(self, trial: Trial, outcome: Outcome) -> None:
        state = TrialState[outcome.state]
        with self._journal.together():
            if outcome.reason:
                trial.set_user_attr("reason", outcome.reason)
            self.optuna.tell(trial, outcome.value if state == TrialState.COMPLETE else None, state)

    def pruned(self, work: Work) -> Outcome:
        """The outcome of a trial that `reported` has just stopped."""
        values = self.optuna._storage.get_trial(
            self._running[work.key]._trial_id  # type: ignore[union-attr]
        ).intermediate_values
        best = max(values.values())
        return Outcome(
            "PRUNED",
            best,
            f"below its rung at epoch {max(values)}",
            {f"best/{self.objective}": best},
        )

    def requeue(self, work: Work) -> None:
        """No process works on it any more and it has not ended: it is the next to be handed out,
        now or at the next start."""
        if work.key in self._running and (trial := self._running.pop(work.key)) is not None:
            self._interrupted.insert(0, trial)

    def summarize(self, metrics: dict[str, float], **tags: str) -> None:
        """Record what is said about the whole study (baseline, verdict)."""
        self.summary |= metrics
        self.emit("summary", metrics=metrics, tags=tags)

    def close(self) -> None:
        self.log.close()
        self._journal.close()
        self._lock.release()

    # -- what is known

    def frozen_trials(self) -> list[FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False)

    def completed(self) -> dict[int, float]:
        """Completed trials -> objective."""
        done = self.optuna.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return {t.number: t.value for t in done if t.value is not None}

    def leaders(self) -> list[int]:
        """The trials that are repeated: the best, best first."""
        return leaders(self.completed(), self.experiment.top)

    def best_number(self) -> int | None:
        """The finished trial that is the study's answer: the best, or of several that were repeated
        the best on average."""
        return chosen(self.completed(), self.experiment.top, self.finals(), self.objective)

    def finished(self) -> int:
        """Trials that have ended, in whatever state."""
        return sum(t.state.is_finished() for t in self.optuna.get_trials(deepcopy=False))

    def finals(self) -> dict[tuple[int, int], dict[str, float]]:
        """(trial, seed) -> final metrics of the repeats that ran to the end."""
        done = {key: o for key, o in self._outcomes.items() if o.state == "COMPLETE"}
        seeds = set(self.repeat_seeds())
        return {
            (number, seed): o.metrics
            for (number, seed), o in done.items()
            if seed is not None and seed in seeds
        }

    def _outcome_state(self, number: int) -> str | None:
        outcome = self._outcomes.get((number, None))
        return None if outcome is None else outcome.state


def _seed_of_draws(manifest: Manifest) -> int:
    """A warm-started study draws anew: under the earlier one's seed its random trials would be that
    one's again."""
    start = manifest.warm_start
    return (
        manifest.seed if start is None else zlib.crc32(f"{manifest.seed} {start['study']}".encode())
    )


def _clean(directory: Path, state: State) -> None:
    """A finished run needs no resume state; a stopped one no export."""
    (directory / "last.pt").unlink(missing_ok=True)
    if state != "COMPLETE":
        (directory / "best.pt").unlink(missing_ok=True)
