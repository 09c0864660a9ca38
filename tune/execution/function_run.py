"""The `run` that a function is given: its folder, its epochs, its checkpoints and its reports.

    last.pt        {"model", ..., "vistune"}, the last run.save(); the trial resumes from it
    best.pt        the save of the best epoch so far
    .history.json  what has been reported, epoch by epoch
    .next.pt       a save whose epoch has not been reported yet

A save counts once its epoch has been reported: it waits in `.next.pt`, and replaces `last.pt` after
the study has the report on disk. So a trial that was killed at any moment repeats only the epoch
whose report the study may lack.
"""

import hashlib
import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainables.base import Metrics, Runtime
from trainables.engine import distributed
from trainables.errors import TrialFailed
from trainables.files import BEST, HISTORY, LAST
from trainables.outcomes import ImageOutcomes
from tune.execution.function_files import OURS, Saves, saved_epoch
from tune.execution.function_history import History, Report
from tune.execution.function_outcomes import outcomes_per_image
from tune.execution.silence import Silence
from tune.function import LENGTH, Function
from tune.study.work import Work

NO_REPORT = "no report"
"""Reason of a trial that ended without the objective."""


class TrialStopped(BaseException):
    """The study has stopped this trial. It ends the function at `run.report`; `except Exception`
    does not catch it."""


class FunctionRun:
    """One trial, or one repeat of a trial, as its function sees it.

    With several workers (`--workers N`) each of them calls the function, with `torch.distributed`
    set up. All must call `load`, `epochs`, `save` and `report` in the same order. Only what rank 0
    saves and reports counts.

    Attributes:
        directory: folder of the trial's files, a `Path`; it stays after the trial has ended.
        device: the `torch.device` to train on.
        rank: number of this worker, in [0, world_size).
        world_size: workers of this trial.
        seed: seed of this run, the same for all workers. Python, NumPy and torch are already seeded
            with it. `epochs` seeds them again at the start of each epoch, from the seed and the
            epoch.
        threads: CPU threads of this worker.
        wants_test: True if `test` counts, as in repeats. During the search it is ignored.
    """

    def __init__(self, function: Function, work: Work, runtime: Runtime):
        self.directory = runtime.directory
        self.device = runtime.device
        self.rank = runtime.rank
        self.world_size = runtime.world_size
        self.seed = work.seed
        self.threads = int(work.config["train.threads"])
        self.wants_test = work.kind == "repeat"

        self._function = function
        self._runtime = runtime
        # A script has its own checkpoints.
        own = getattr(function.call, "resumes_itself", False)
        self._saved_epoch = None if own else distributed.broadcast(saved_epoch(self.directory))
        self._has_loaded = False
        self._length: int | None = None
        self._epoch = 0
        self._reports = 0
        self._stopped = False
        self._began = time.perf_counter()

        known = math.inf if own else self._saved_epoch
        is_first = self.rank == 0
        self._history = History(
            self.directory / HISTORY, function.objective, known, writes=is_first
        )
        self.silence = Silence(work)
        for report in self._history:
            self.silence.note_epoch(report.metrics.get("time/epoch_s", 0.0))
        self.tested: Metrics = {}
        self.outcomes: ImageOutcomes | None = None
        self.is_reporting = False
        self._saves = Saves(self.directory, self.device, writes=is_first)
        self._saves.drop()
        _seed_all(self.seed)

    # -- what a function calls

    @property
    def resume_from(self) -> Path | None:
        """Path of the checkpoint of the last `save`; None at the first start. Reading this property
        counts as `load`: `epochs` then continues after the checkpoint."""
        self._note_loaded()
        return self.directory / LAST if self._saved_epoch is not None else None

    def load(self) -> dict[str, Any] | None:
        """Return what the last `save` was given, on `device`; None at the first start."""
        self._note_loaded()
        if self._saved_epoch is None:
            return None
        return self._saves.read(LAST)

    def load_best(self) -> dict[str, Any] | None:
        """Return what `save` was given in the best epoch with a save; None if there is none."""
        if not (self.directory / BEST).exists():
            return None
        return self._saves.read(BEST)

    def epochs(self, count: int) -> Iterator[int]:
        """Yield epochs from 0 to `count - 1`; after a kill, from the first one without a `save`.

        This tells the study the length of the trial, and so the epochs at which trials are
        compared. If the function never calls `load`, it begins anew.

        Raises:
            ValueError: `count` is not a number of epochs, or there was such a loop or a report
                already.
        """
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"run.epochs({count!r}) must be given a number of epochs, from 1")
        if self._length is not None or self._reports:
            raise ValueError("run.epochs is for one loop, which has all calls of run.report in it")

        self._length = count
        distributed.wait_for_all()  # all have loaded the files that may now be replaced
        for epoch in range(self._resumed_epoch(), count):
            self._epoch = epoch + 1
            self._saves.is_staged = False
            self._began = time.perf_counter()
            self.silence.heard()
            _seed_all(self.seed, self._epoch)
            yield epoch
            if self._saves.is_staged:
                self._keep_save()
        distributed.wait_for_all()  # the best save is there for all workers

    def report(self, **metrics: float) -> None:
        """Report an epoch: the objective, and anything else to record.

        Args:
            metrics: name -> number. `loss=...` is `val/loss`; a name with a slash, as in
                `**{"train/loss": ...}`, stays as it is.
        Raises:
            TrialStopped: the study has stopped the trial.
            ValueError: the objective is missing, or the epoch has been reported already.
        """
        self._leave_if_stopped()
        self._count_report()
        self._record(metrics)

    def save(self, **parts: Any) -> None:
        """Write a checkpoint: tensors, numbers, strings, and lists and dictionaries of them, such
        as `model=model.state_dict()`. It replaces the last one once the epoch has been both saved
        and reported; without `epochs`, at once.

        Raises:
            ValueError: `torch.load(..., weights_only=True)` cannot read a part back, or a name is
                reserved.
        """
        self._leave_if_stopped()
        if OURS in parts:
            raise ValueError(f"run.save({OURS}=...) is a name of vistune's own; give another")

        self._saves.stage(parts, self._epoch)
        self.silence.heard()
        reported = self._history.last_epoch == self._epoch
        if self._saves.is_staged and (self._length is None or reported):
            self._keep_save()

    def test(
        self,
        *,
        per_image: Sequence[float] | Mapping[str, Sequence[float]] | None = None,
        groups: Sequence[Any] | None = None,
        **metrics: float,
    ) -> None:
        """Report the metrics of the test split, after training. They are kept only for repeats,
        where they give the study its verdict; a search must not see them.

        Args:
            per_image: the objective's score in [0, 1] for each test image, in the same order in
                every run; or metric -> scores. With it the verdict also covers another draw of test
                images.
            groups: label of each test image; images with the same label belong together, such as
                those of one patient.
            metrics: name -> number; the objective must be among them.
        Raises:
            ValueError: the objective is missing, or a metric is not the mean of its scores.
        """
        found = self._function.named("test", metrics)
        outcomes = None
        if per_image is not None:
            scores = per_image
            if not isinstance(scores, Mapping):
                scores = {self._function.given_name: scores}
            outcomes = outcomes_per_image(found, scores, groups)
        if self.wants_test:
            self.tested = found
            self.outcomes = outcomes

    # -- for a script, which counts its epochs and resumes by itself

    def begin_anew(self) -> None:
        """Forget the reports of an earlier start: training begins at its first epoch."""
        self._history.forget()

    def report_epoch(self, epoch: int, length: int | None, metrics: Mapping[str, Any]) -> None:
        """Report an epoch by its number, from 1; an epoch may be reported again.

        Args:
            length: number of epochs of the trial, if it is known.
        Raises:
            TrialStopped: the study has stopped the trial.
            ValueError: the objective is missing.
        """
        self._leave_if_stopped()
        self._length = length
        self._epoch = epoch
        self._history.forget(epoch)
        self._record(metrics)

    # -- for the caller of the function

    @property
    def best(self) -> Report | None:
        """The report with the best objective, the first of equal ones; None before the first
        report."""
        return self._history.best

    def report_again(self) -> None:
        """Send the reports up to the checkpoint again: a record that was restored from an object
        store may lack them."""
        for report in self._history:
            self._send(report.epoch, report.metrics)

    def remove_stage(self) -> None:
        """Remove a save that never counted."""
        self._saves.drop()

    # -- inside

    def _note_loaded(self) -> None:
        """Note that the function continues from its checkpoint."""
        if not self._has_loaded and not self._reports:
            self._has_loaded = True
            self._epoch = self._saved_epoch or 0

    def _resumed_epoch(self) -> int:
        """Number of epochs that are done; 0 if the function has not loaded them."""
        if not self._has_loaded:
            self._history.forget()
        return self._epoch

    def _count_report(self) -> None:
        """Determine the number of the epoch that is being reported."""
        if self._length is None:
            if not self._has_loaded and not self._reports:
                self._history.forget()
            self._epoch += 1
        elif self._history.last_epoch == self._epoch:
            raise ValueError(
                f"run.report was called twice in epoch {self._epoch - 1} of run.epochs: "
                "give all metrics of an epoch in one call"
            )
        self._reports += 1

    def _record(self, metrics: Mapping[str, Any]) -> None:
        """Record the current epoch."""
        found = self._costs()
        if self.rank == 0:
            found |= self._checked_metrics(metrics)
        found = distributed.broadcast(found)
        self._history.add(Report(self._epoch, found, self._saves.is_staged))
        self._send(self._epoch, found)
        if self._saves.is_staged:
            self._keep_save()

    def _checked_metrics(self, metrics: Mapping[str, Any]) -> Metrics:
        """Return the metrics of a report under their full names.

        Raises:
            TrialFailed: `nan` (the objective is not a number).
        """
        found = self._function.named("val", metrics)
        if math.isnan(found[self._function.objective]):
            given = self._function.given_name
            raise TrialFailed("nan", f"{given} is nan after epoch {self._epoch}")
        return found

    def _costs(self) -> Metrics:
        """Return time, length and processors, which are recorded beside the function's metrics."""
        now = time.perf_counter()
        costs = {"time/epoch_s": now - self._began}
        self.silence.note_epoch(now - self._began)
        self._began = now
        if self._length is not None:
            costs[LENGTH] = float(self._length)
        if self.world_size > 1:
            costs["time/workers"] = float(self.world_size)
        if self.device.type == "cuda":
            costs["time/gpus"] = float(self.world_size)
        return costs

    def _send(self, epoch: int, metrics: Metrics) -> None:
        self.is_reporting = True
        with self.silence.ours():
            answer = self.rank > 0 or self._runtime.report(epoch, metrics)
            continues = distributed.broadcast(answer)
        self.is_reporting = False
        if not continues:
            self._stopped = True
        self._leave_if_stopped()

    def _leave_if_stopped(self) -> None:
        if self._stopped:
            raise TrialStopped

    def _keep_save(self) -> None:
        """Make the staged save count, also as the best one if its epoch is the best."""
        self._saves.keep(is_best=self._history.note_saved(self._epoch))


def _seed_all(seed: int, epoch: int | None = None) -> None:
    """Seed Python, NumPy and torch."""
    if epoch is not None:
        digest = hashlib.sha256(f"{seed} epoch {epoch}".encode()).digest()
        seed = int.from_bytes(digest[:4], "big")
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the generator that existing code draws from
    torch.manual_seed(seed)
