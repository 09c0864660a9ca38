"""Studies from their opening to their verdict, with everything that watches them: console, MLflow,
pictures, Ctrl-C, the time budget."""

import contextlib
import shlex
import signal
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from trainables.errors import UserError
from trainables.files import BEST
from tune.backbones.resolve import lineage_tags
from tune.cli.console import Console
from tune.cli.options import Options
from tune.cli.prepare import Prepared
from tune.formatting import assignments
from tune.object_store import s3
from tune.object_store.study_sync import StudyCopy, opened
from tune.reports.plot_worker import Pictures
from tune.reports.verdict import claim, doubts, judge_study
from tune.study.events import StorageFailed
from tune.study.group import Group
from tune.study.manifest import resume_command
from tune.study.study import Study
from tune.study.warm_start import beginning, worth
from tune.tracking.tracker import Tracker

DONE, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
BROKEN_OFF = "broken off"
DRAIN_S = 60.0  # the end waits for pictures, and then for MLflow, at most so long


class Stop:
    """Ctrl-C, SIGTERM and the time budget, for one study after another.

    Attributes:
        reason: why to stop, as it is told; "" while nothing is to stop.
    """

    def __init__(self, budget_s: float | None):
        self.reason = ""
        self._study: Study | None = None
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)
        if budget_s is not None:
            self._deadline = time.monotonic() + budget_s
            threading.Thread(target=self._wait, name="time budget", daemon=True).start()

    @property
    def code(self) -> int:
        """Exit code."""
        return DONE if self.reason == "time budget spent" else INTERRUPTED

    def watch(self, study: Study) -> None:
        """From now on it is this study that is stopped."""
        self._study = study
        if self.reason:
            study.stopping = True

    def now(self, reason: str) -> None:
        """The first reason stays."""
        self.reason = self.reason or reason
        if self._study is not None:
            self._study.stopping = True

    def _on_signal(self, number: int, frame: Any) -> None:
        """The first ends the run in order, the second at once."""
        self.now("interrupted")
        print("\nstopping; the state is safe (Ctrl-C again to leave at once)", file=sys.stderr)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _wait(self) -> None:
        time.sleep(max(0.0, self._deadline - time.monotonic()))
        self.now("time budget spent")


class Session:
    """Studies that run one after another, and one wait at the end for what they leave behind:
    pictures, and MLflow.

    Use as a context manager around the runs: meanwhile the pictures of one study are drawn while
    the next one searches.

    Args:
        budget_s: time for all of them; None: no limit.
    """

    def __init__(self, options: Options, budget_s: float | None):
        self.options, self.stop = options, Stop(budget_s)
        self._pictures = Pictures()
        self._studies: list[Study] = []
        self._trackers: list[Tracker] = []
        self._copies: list[StudyCopy] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.stop.now(BROKEN_OFF)
        if kind is None or issubclass(kind, UserError):  # a second Ctrl-C means at once
            self._close()

    def track(self, folder: Path, copy: StudyCopy | None = None) -> None:
        """Replay the event log of this folder into MLflow until the session ends; of one with a
        copy, what that has."""
        self._trackers.append(Tracker(folder))
        if copy is not None:
            self._trackers[-1].known = copy.known
        self._trackers[-1].start()

    def run(self, prepared: Prepared, group: Group | None = None) -> int:
        """Open the study, or go on with it, to its end or until `stop`; returns the exit code.

        Raises:
            UserError: the study cannot be opened, or what it runs on is not there or not enough.
        """
        options = self.options
        with opened(prepared.directory, _tell, self.stop.now) as copy:
            study = Study.open(
                prepared.directory,
                prepared.experiment,
                prepared.manifest,
                trials=options.trials,
                repeats=options.repeats,
                group=group,
            )
            if copy is not None:
                copy.start(*_weights(prepared))
        self._studies.append(study)
        console = _console(study, prepared, options)
        study.observers.append(console.on_event)
        if copy is not None:
            self._copies.append(copy)
            study.observers.append(copy.on_event)
            console.line(
                f"record and checkpoints are copied to {s3.address(study.directory)} from {study.directory}"
            )
        self.track(study.directory, copy)
        self._pictures.watch(study)
        if prepared.start:
            study.summarize({}, **lineage_tags(study.manifest.base))
        self.stop.watch(study)
        try:
            with console:
                _search(study, prepared, options)
            if study.stopping:
                study.emit("finish", state="INTERRUPTED")
            else:
                _conclude(study, console)
        except (StorageFailed, OSError) as error:
            self.stop.now(BROKEN_OFF)
            return _broken_off(study, error)
        if study.stopping:
            ended = f"{study.finished()} of {options.trials} trials ended"
            console.line(
                f"{self.stop.reason}: {ended}, nothing is lost. Resume with: {resume_command()}"
            )
            return self.stop.code
        return DONE if study.best_number() is not None else FAILED

    def say_where(self, code: int) -> None:
        """The last line of a run that came to its end."""
        if code in (DONE, FAILED) and self.stop.reason != BROKEN_OFF:
            storage = shlex.quote(self.options.storage)
            make = "make ui" if storage == "runs" else f"make ui STORAGE={storage}"
            print(
                f"compare the trials in MLflow: {make}    (or: python -m tune.ui --storage {storage})"
            )

    def _close(self) -> None:
        undrawn = self._pictures.close(DRAIN_S, lambda: bool(self.stop.reason))
        if undrawn and not self.stop.reason:
            print(
                f"not all pictures are drawn yet ({undrawn} to go, by trial): the same command draws them"
            )
        for copy in self._copies:
            if not copy.close(DRAIN_S):
                behind = f"{s3.address(copy.folder)} is behind; the record is safe in {copy.folder}"
                print(f"{behind}: the same command on this machine brings it up")
        for tracker in self._trackers:
            tracker.last_call()
        deadline = time.monotonic() + DRAIN_S
        if [
            tracker for tracker in self._trackers if not tracker.close(deadline - time.monotonic())
        ]:
            print(
                "MLflow is behind; the record is safe in the study's folder: `python tune/report.py sync` fills MLflow in"
            )
        for study in self._studies:
            study.close()


def _console(study: Study, prepared: Prepared, options: Options) -> Console:
    """The console of this run, told what earlier ones have done."""
    # A live table would draw over the prompt of a debugger.
    interactive = False if options.local else None
    console = Console(
        study.objective, study.base.train.epochs, options.trials, interactive=interactive
    )
    why = " (there are no labels for kNN)" if study.objective == "val/rankme" else ""
    searched = f"searched by {study.objective}{why}, preset {study.manifest.preset}"
    console.line(f"study {study.manifest.name}: {prepared.data.summary()}; {searched}")
    for line in filter(
        None, (prepared.start, *prepared.notes, *beginning(study.manifest.warm_start))
    ):
        console.line(line)
    for t in study.frozen_trials():
        if t.state.is_finished() or t.intermediate_values:
            best = (
                t.value
                if t.value is not None
                else max(t.intermediate_values.values(), default=None)
            )
            state = t.state.name.lower() if t.state.is_finished() else "running"
            console.know(
                t.number,
                state,
                max(t.intermediate_values, default=0),
                best,
                t.user_attrs.get("reason", ""),
            )
    return console


def _search(study: Study, prepared: Prepared, options: Options) -> None:
    if options.local:
        from tune.execution.local import search_locally

        search_locally(study, prepared.experiment)
    else:
        from tune.execution.ray_tune import search

        search(
            study,
            prepared.experiment,
            concurrent=options.concurrent,
            gpus_per_worker=options.gpus_per_worker,
            workers=options.workers,
        )


def _tell(line: str) -> None:
    print(f"vistune: {line}", file=sys.stderr, flush=True)


def _weights(prepared: Prepared) -> list[Path]:
    """What trials on other machines fetch, of the storage's own files."""
    path = Path(prepared.manifest.base.get("init.file") or ".")
    return [path] if path.is_file() and s3.address(path) is not None else []


def _broken_off(study: Study, error: StorageFailed | OSError) -> int:
    """The study's folder cannot be written: nothing more is, its trials stay open, and the same
    command goes on."""
    from tune.execution.trial import storage_failure

    message = error if isinstance(error, StorageFailed) else storage_failure(error, study.directory)
    if message is None:
        raise error
    print(f"vistune: {message}", file=sys.stderr)
    return FAILED


def _conclude(study: Study, console: Console) -> None:
    """Say what was found, and write it down."""
    found = judge_study(study)
    number = study.best_number()
    if number is not None:
        with contextlib.suppress(UserError):  # MLflow then lacks the file, and says so
            s3.present(study.directory / "trials" / f"{number:04d}" / BEST)
        study.emit("artifact", trial=number, path=f"trials/{number:04d}/best.pt", to="backbone")
        best = study.frozen_trials()[number]
        console.line(
            f"best trial {number}: {study.objective} {best.value:.4f} with {assignments(best.params)}"
        )
    if number is not None:
        said = claim(study, found)
        console.line(said)
        study.summarize({} if found is None else found.metrics(), verdict=said)
    if (sentence := worth(study)) is not None:
        console.line(sentence)
        study.summarize({}, warm_start=sentence)
    for doubt in doubts(study):
        console.line(f"note: {doubt}")
    study.emit("finish", state="FINISHED")
