"""`--batch-trials N`: run up to N trials at a time in this process. The steps of those that train
heads on cached features are done as one batched operation (`trainables/engine/together.py`).

Each trial runs `trial.run` in a thread of its own, so it has its own events, checkpoints, end and
resume. The driver lets the threads take turns:

1. The driver trains all trials that wait for steps.
2. These finish their epochs side by side, each in its own folder; mostly they wait for the disk.
3. One after the other, in the order in which they began, trials report and continue to the steps of
   their next epochs, or end. Their reports reach the disk in one write, and their ends in another.

New trials begin when all have ended. By then most have been stopped early, and the rest run to
their ends quickly. If others took the free places at once, the best trial would wait for each of
them. Also, the sampler proposes nothing before it knows all results. The first batch is a third of
the others: it holds the default, and the sampler learns from it for all that follow.

So neither the work of a trial nor what the study knows when it is asked depends on how threads are
scheduled.
"""

import math
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trainables.base import Metrics, RunConfig, Runtime
from trainables.engine.checkpoint import TrainingState, save
from trainables.engine.fit import checkpoint_overdue, train_epoch
from trainables.engine.together import Member, advance, member_of
from tune.execution.runtimes import LocalRuntime
from tune.execution.trial import run
from tune.experiments import Experiment
from tune.study.disk import StorageFailed
from tune.study.study import Study
from tune.study.work import Outcome, Work

UNSAVED_S = 1.0
"""A kill costs a trial of a batch at most about this much of its own training, in seconds."""


class _BrokenOff(BaseException):
    """The driver ends, and the trial's thread with it; to the study this is a kill."""


class BatchRuntime(LocalRuntime):
    """The runtime of a trial whose epochs the driver trains."""

    def __init__(self, trial: "RunningTrial", study: Study):
        self._trial = trial
        self._study = study
        super().__init__(Path(trial.work.directory), self._reported)

    def _reported(self, epoch: int, metrics: Metrics) -> bool:
        self._trial.wait_for_driver()
        if self._study.stopping:
            return False
        continues = self._study.reported(self._trial.work, epoch, metrics)
        return continues and not self._study.stopping

    def train_epoch(
        self,
        state: TrainingState,
        config: RunConfig,
        runtime: Runtime,
        epoch_end: int,
        total_steps: int,
    ) -> None:
        """Let the driver train the epoch; train it alone if the trial cannot be batched."""
        member = member_of(state, config, runtime, epoch_end, total_steps)
        if member is None:
            train_epoch(state, config, runtime, epoch_end, total_steps)
            return

        while member.steps_left:
            self._wait_for_driver(member)
            if member.error is not None:
                raise member.error
            if member.steps_left and checkpoint_overdue(state, config):
                save(state, runtime)

    def saves_epoch(self, state: TrainingState) -> bool:
        """Most trials are stopped early, and a stopped trial needs no files. So a trial writes none
        before it has trained for a second. A repeat does: it is judged even if it diverges."""
        if self._trial.work.kind != "trial" or not state.batched:
            return True
        seconds = time.perf_counter() - state.epoch_started
        return state.unsaved_seconds + seconds > UNSAVED_S

    def _wait_for_driver(self, member: Member) -> None:
        """Wait for some steps. The epoch's clock counts only the trial's share of them, not what
        other trials do meanwhile."""
        began = time.perf_counter()
        self._trial.wait_for_driver(member)
        waited = time.perf_counter() - began
        member.state.epoch_started += waited - member.share_s


class RunningTrial:
    """A piece of work in a thread of its own, which runs when the driver lets it."""

    def __init__(self, study: Study, experiment: Experiment, work: Work):
        self.work = work
        self.waiting: Member | None = None
        """The epoch that the trial wants to train; None while it runs, before a report, and after
        its end."""
        self.outcome: Outcome | None = None
        self.error: BaseException | None = None
        """An error that is not the trial's own, such as one of the storage."""

        self._runtime = BatchRuntime(self, study)
        self._experiment = experiment
        self._driver = threading.Semaphore(0)
        self._own = threading.Semaphore(0)
        self._broken_off = False
        self._thread = threading.Thread(target=self._run, name=f"trial {work.id}", daemon=True)
        self._thread.start()

    @property
    def has_ended(self) -> bool:
        return self.outcome is not None or self.error is not None

    def proceed(self) -> None:
        """Let the trial run until it wants to train an epoch or to report, or ends.

        Raises:
            Any error that is not the trial's own.
        """
        if not self.has_ended:
            self.resume()
            self.pause()
        if self.error is not None:
            raise self.error

    def resume(self) -> None:
        """Let the trial run beside the driver."""
        self.waiting = None
        self._own.release()

    def pause(self) -> None:
        """Wait until the trial waits for the driver, or has ended."""
        self._driver.acquire()

    def wait_for_driver(self, member: Member | None = None) -> None:
        """Called by the trial: wait for steps of an epoch, or for its turn to report."""
        self.waiting = member
        self._driver.release()
        self._own.acquire()
        if self._broken_off:
            raise _BrokenOff

    def break_off(self) -> None:
        """End the thread at the point where it waits."""
        if not self.has_ended:
            self._broken_off = True
            self._own.release()
            self._thread.join()

    def _run(self) -> None:
        self._own.acquire()
        try:
            if not self._broken_off:
                self.outcome = run(self._experiment, self.work, self._runtime)
        except BaseException as error:
            self.error = error
        finally:
            self._driver.release()


def idle_gpus(base: Mapping[str, Any]) -> int:
    """Number of GPUs that a batched study leaves idle, because it trains on only one of them."""
    if base["train.device"] == "cpu":
        return 0
    return max(0, torch.cuda.device_count() - 1)


def search_in_batches(study: Study, experiment: Experiment, width: int) -> None:
    """Run the study to its end, or until `study.stopping`, with up to `width` trials at a time.

    Raises:
        UserError: the study's folder cannot be written any more.
    """
    threads = int(study.manifest.base["train.threads"])
    running: list[RunningTrial] = []
    places = math.ceil(width / 3)
    try:
        while True:
            if not running:
                _begin_trials(study, experiment, places, running)
                places = width
            if not running:
                return

            torch.set_num_threads(threads)
            waiting = [trial for trial in running if trial.waiting is not None]
            if waiting:
                advance([trial.waiting for trial in waiting if trial.waiting is not None])
            for trial in waiting:
                trial.resume()
            for trial in waiting:
                trial.pause()

            with study.together():
                for trial in list(running):
                    if trial.waiting is None:  # otherwise its epoch has more steps
                        _proceed(study, trial, running)
            with study.together():
                _end_trials(study, running)
    finally:
        for trial in running:
            trial.break_off()


def _begin_trials(
    study: Study, experiment: Experiment, width: int, running: list[RunningTrial]
) -> None:
    """Hand out work until `width` trials run; each continues to its first epoch."""
    while len(running) < width:
        if not running:
            study.await_disk()
        work = study.next_work()
        if work is None or work == "wait":
            return

        study.started(work)
        trial = RunningTrial(study, experiment, work)
        running.append(trial)
        _proceed(study, trial, running)
        _end_trials(study, running)


def _proceed(study: Study, trial: RunningTrial, running: list[RunningTrial]) -> None:
    """Let a trial run. One that could not write the study's folder is handed out again."""
    try:
        trial.proceed()
    except StorageFailed as failure:
        running.remove(trial)
        study.requeue_after_failure(trial.work, failure)


def _end_trials(study: Study, running: list[RunningTrial]) -> None:
    """Record the trials that have ended, and forget them."""
    for trial in [trial for trial in running if trial.outcome is not None]:
        running.remove(trial)
        _end(study, trial)


def _end(study: Study, trial: RunningTrial) -> None:
    outcome = trial.outcome
    assert outcome is not None
    stopped_by_the_pruner = outcome.state == "PRUNED" and outcome.reason is None
    if study.stopping:
        study.requeue(trial.work)
    elif stopped_by_the_pruner:
        study.ended(trial.work, study.pruned(trial.work))
    else:
        study.ended(trial.work, outcome)
