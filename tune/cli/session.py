"""Run studies from opening to verdict, with everything that accompanies them: console, MLflow and
other records, pictures, object storage."""

import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from trainables.errors import UserError
from tune.backbones.resolve import lineage_tags
from tune.backbones.seen import seen_tags
from tune.cli.caller import Caller
from tune.cli.clock import Clock
from tune.cli.conclusion import conclude, say_exhausted, say_waiting
from tune.cli.console import Console
from tune.cli.held_weights import hold_backbone, pin_for_others
from tune.cli.options import Options
from tune.cli.prepare import Prepared
from tune.cli.replays import Replays
from tune.cli.searching import check_machine, search, with_batches
from tune.cli.stop import BROKEN_OFF, DONE, FAILED, Ended, Stop
from tune.cli.study_console import console_of
from tune.command_line import command
from tune.experiment_file import OwnExperiment
from tune.object_store import s3
from tune.object_store.study_sync import StudyCopy, opened
from tune.reports.draw_behind import claimed, draw_behind
from tune.reports.drawing_claim import DrawingClaim
from tune.reports.plot_worker import Pictures
from tune.reports.undrawn import DATA, data_is_drawn, still_wanted
from tune.study.disk import StudyEnds, storage_failure
from tune.study.group import Group
from tune.study.study import Study
from tune.tracking.logs import replay_into
from tune.tracking.replay import Replay
from tune.tracking.tracker import Tracker

DRAIN_S = 60.0
"""The end of a run waits this long for MLflow and other records. A study in a bucket also waits for
its pictures, because nobody would upload them later."""
PICTURES_S = 3.0
"""Any other run waits this long for its last pictures, at about a second per trial. A background
process would first spend several seconds on imports."""


class Session:
    """Runs studies one after another, with a single wait for MLflow at the end.

    Use it as a context manager around the runs. The pictures of one study are drawn while the next
    one searches; those still missing at the end are drawn by a background process.

    Args:
        budget_s: time for all studies; None: no limit.

    Attributes:
        problem: reason why a study's folder cannot be written; "" if it can.
        clock: tracks the progress of all studies.
    """

    def __init__(self, options: Options, budget_s: float | None, caller: Caller):
        self.options = options
        self.caller = caller
        self.problem = ""
        self._began = int(time.time() * 1000)
        self.clock = Clock(budget_s)
        self.stop = Stop(budget_s, signals=caller.is_command)
        self._pictures = Pictures(options.pictures)
        self._studies: list[Study] = []
        self._replays = Replays(self._say_beside, batched=options.batch_trials is not None)
        self._console: Console | None = None
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

        # After a second Ctrl-C, a command exits at once and its process ends.
        if kind is None or issubclass(kind, UserError) or not self.caller.is_command:
            self._close()

    def track(self, folder: Path, copy: StudyCopy | None = None) -> None:
        """Replay the event log of this folder into MLflow until the session ends. If the study has
        a copy, replay only the uploaded part."""
        self._add(Tracker(folder), copy)

    def _add(self, replay: Replay, copy: StudyCopy | None) -> None:
        if copy is not None:
            replay.known = copy.known
        self._replays.add(replay)

    def _say_beside(self, line: str) -> None:
        """Print a line from a thread other than the search's."""
        if self._console is not None:
            self._console.line(line)

    def run(self, prepared: Prepared, group: Group | None = None) -> int:
        """Create or resume the study, run it to its end or until `stop`, and return the exit code.

        Raises:
            UserError: the study cannot be opened, or resources or services are missing.
        """
        options = with_batches(prepared, self.options)
        check_machine(prepared, options)
        study, copy = self._open(prepared, group)
        study.enqueue(prepared.own)
        study.hung_after = self.options.hung_after or 0.0
        console = self._watch(study, prepared, options)
        if copy is not None:
            self._follow_copy(study, copy, console)

        self._record(study, copy)
        self._tidy(study, prepared.data)
        tags = lineage_tags(study.manifest.base) | seen_tags(study.manifest)
        if tags:
            study.summarize({}, **tags)
        self.stop.watch(study)

        try:
            self._search(study, prepared, options, console)
        except (StudyEnds, OSError) as error:
            interrupted = self.stop.reason
            self.stop.now(BROKEN_OFF)
            code = self._report_end(study, error)
            return self.stop.code if interrupted else code

        if study.stopping:
            ended = f"{study.finished()} of {self.options.trial_count} trials ended"
            line = f"{self.stop.reason}: {ended}, nothing is lost. {self.caller.how_to_resume}"
            console.line(line)
            self.caller.say_again(line)
            return self.stop.code

        return DONE if study.best_number() is not None else FAILED

    def _watch(self, study: Study, prepared: Prepared, options: Options) -> Console:
        """Connect clock, console and records to the study's events."""
        one_process = 1 if options.local else None
        self.clock.begin(study, options.batch_trials or one_process)
        console = console_of(study, prepared, options, self.caller, self.clock)
        self._console = console
        study.observers.append(console.on_event)
        study.observers.append(self._replays.on_event)
        for note in study.notes:
            console.line(f"note: {note}")
        return console

    def _record(self, study: Study, copy: StudyCopy | None) -> None:
        """Replay the study's event log into MLflow and the destinations of `--log`."""
        self.track(study.directory, copy)
        for name in dict.fromkeys(self.options.log or ()):
            self._add(replay_into(name, study.directory), copy)

    def _tidy(self, study: Study, data: Any) -> None:
        """Keep the files that pictures and other studies need, and remove the rest."""
        _sample_data(study, data)
        if study.manifest.keep == "best":
            pin_for_others(study.directory)
        wanted = still_wanted(
            study.directory, study.manifest, study.completed, self.options.pictures
        )
        study.files.tidy(draws_all=wanted == "all")
        self._pictures.watch(study)

    def _search(self, study: Study, prepared: Prepared, options: Options, console: Console) -> None:
        """Search to the end or until `stop`, and record how it ended."""
        with console:
            search(study, prepared, options, self.caller, self.stop)
        self.clock.end()
        say_exhausted(study, self.options.trial_count, console)
        say_waiting(study, console)

        if study.stopping:
            study.emit("finish", state="INTERRUPTED")
        else:
            conclude(study, console)

    def _report_end(self, study: Study, error: StudyEnds | OSError) -> int:
        """Report that a folder is not writable, or that all trials fail. Trials stay open, and the
        same command resumes."""
        failure: BaseException | None = error
        if not isinstance(error, StudyEnds):
            failure = storage_failure(error, study.directory)
        if failure is None:
            raise error

        self.problem = str(failure)
        if self.caller.is_command:
            self.caller.warn(self.problem)
        return FAILED

    @property
    def _storage(self) -> Path:
        return Path(self.options.storage).expanduser().resolve()

    def ended(self, code: int) -> Ended:
        """Say where to find the trials if the run came to its end, and return how the run ended."""
        if code in (DONE, FAILED) and self.stop.reason != BROKEN_OFF:
            shows = command("ui", storage=self._storage)
            self.caller.say(f"compare the trials in MLflow: {shows}")

        single = self._studies[0].directory if len(self._studies) == 1 else None
        return Ended(code, single, self.problem)

    def _open(self, prepared: Prepared, group: Group | None) -> tuple[Study, StudyCopy | None]:
        hold_backbone(prepared)
        with opened(prepared.directory, self.caller.warn, self.stop.now) as copy:
            study = Study.open(
                prepared.directory,
                prepared.experiment,
                prepared.manifest,
                trials=self.options.trial_count,
                repeats=prepared.manifest.repeats or 0,
                group=group,
                retry=self._began if self.options.retry_failed else None,
            )
            if isinstance(prepared.experiment, OwnExperiment):
                prepared.experiment.code.keep_in(prepared.directory)
            if copy is not None:
                copy.start(*_weights(prepared))

        self._studies.append(study)
        return study, copy

    def _follow_copy(self, study: Study, copy: StudyCopy, console: Console) -> None:
        self._copies.append(copy)
        study.observers.append(copy.on_event)
        console.line(
            f"record and checkpoints are copied to {s3.address(study.directory)} "
            f"from {study.directory}"
        )

    def _close(self) -> None:
        """Finish everything that accompanies the studies, and report what is not finished."""
        patience_s = DRAIN_S if self._copies else PICTURES_S
        undrawn = self._pictures.close(patience_s, lambda: bool(self.stop.reason))
        is_complete = not self.stop.reason or self.stop.code == DONE  # budget: a regular end
        claims: list[DrawingClaim] = []
        if undrawn and is_complete and not self._copies:
            # A start that follows at once must make the later claims.
            claims = claimed([study.directory for study in self._studies])
        try:
            self._drain()
        finally:
            for study in self._studies:
                study.close()

        if undrawn and is_complete:
            self._draw_behind(undrawn, claims)

    def _draw_behind(self, undrawn: int, claims: list[DrawingClaim]) -> None:
        """Start a separate process that draws missing pictures; no process may be running the
        studies.

        A program is not kept waiting either, because a caller in a loop wants the next study.
        """
        pid = draw_behind(claims, self.options.pictures)
        if pid is None:
            self.caller.say(
                f"not all pictures are drawn yet ({undrawn} to go, by trial): "
                "the same command draws them"
            )
        else:
            self.caller.say(
                f"pictures are drawn in the background ({undrawn} to go, process {pid})"
            )

    def _drain(self) -> None:
        for copy in self._copies:
            if not copy.close(DRAIN_S):
                self.caller.say(
                    f"{s3.address(copy.folder)} is behind; the record is safe in {copy.folder}: "
                    "the same command on this machine brings it up to date"
                )

        for title in self._replays.close(DRAIN_S):
            self.caller.say(
                f"{title} is behind; the record is safe in the study's folder: "
                f"`{command('report', 'sync', storage=self._storage)}` brings {title} up to date"
            )


def _sample_data(study: Study, data: Any) -> None:
    """Write sample images for a picture of the data, if that is not drawn yet."""
    from trainables.data import DataSet
    from trainables.plots.data_sample import write_data_sample

    if isinstance(data, DataSet) and not data_is_drawn(study.directory):
        write_data_sample(data, study.directory / DATA)


def _weights(prepared: Prepared) -> list[Path]:
    """List the storage's own files that trials on other machines download."""
    path = Path(prepared.manifest.base.get("init.file") or ".")
    in_store = path.is_file() and s3.address(path) is not None
    return [path] if in_store else []
