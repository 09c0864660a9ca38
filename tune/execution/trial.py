"""One piece of work, in whatever process it runs: flat config -> trainable -> `fit` -> outcome.
Never raises for a trial's own failure."""

import contextlib
import errno
import functools
import math
import os
import shutil
import traceback
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from trainables.backbone.summary import write_architecture
from trainables.base import Runtime, Trainable
from trainables.config import build
from trainables.engine import distributed
from trainables.engine.allocator import keep_freed_memory
from trainables.engine.checkpoint import load_checkpoint
from trainables.engine.fit import Fitted, fit
from trainables.engine.watchdog import watching
from trainables.errors import StartAgain, TrialFailed, UserError
from trainables.files import BEST, LAST, content_hash
from tune.experiments import Experiment
from tune.object_store import s3
from tune.object_store.trial_sync import TrialCopy, copied
from tune.study.events import StorageFailed
from tune.study.work import Outcome, State, Work

BASELINE_SEEDS = 3
DIVERGED = ("nan", "collapse")


def storage_failure(error: BaseException, place: Path) -> StorageFailed | None:
    """What to say where `error` comes from a disk that is full, read-only or failing (torch wraps
    such an error); else None."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EROFS,
            errno.EIO,
        ):
            return StorageFailed.at(cause.filename or place, cause.strerror or str(cause))
        cause = cause.__cause__ or cause.__context__
    # a torch.save to a path says "iostream error" and no more
    if shutil.disk_usage(place).free == 0:
        return StorageFailed.at(place, os.strerror(errno.ENOSPC))
    return None


def run(
    experiment: Experiment, work: Work, runtime: Runtime, patience_s: float | None = None
) -> Outcome:
    """Do the work and say how it ended. What stops a process (SystemExit, KeyboardInterrupt) passes
    through.

    Args:
        patience_s: a fit that gets no further for so long ends this process.
    Raises:
        StorageFailed: the disk is full, read-only or failing.
        StartAgain, or an error of an exchange: the group of workers is to be started again.
    """
    try:
        # A process that outlived a killed driver may still be writing here: wait until it is gone.
        Path(work.directory).mkdir(parents=True, exist_ok=True)
        with (
            FileLock(Path(work.directory) / ".lock")
            if runtime.rank == 0
            else contextlib.nullcontext()
        ):
            # the other workers read nothing before rank 0 has the folder
            distributed.broadcast(None)
            if work.kind == "baseline":
                return _baseline(experiment, work, runtime)
            with copied(Path(work.directory), work.config, runtime) as copy:
                outcome = _fit(experiment, work, runtime, copy, patience_s)
                if copy is not None:
                    copy.complete = outcome.state == "COMPLETE"
                return outcome
    except s3.Refused as error:
        raise StorageFailed(str(error)) from error
    except StartAgain:
        raise
    except TrialFailed as failure:
        # Divergence and collapse are the configuration's fault, which the sampler is to learn;
        # memory and data are not.
        state: State = "PRUNED" if failure.reason in DIVERGED else "FAIL"
        return Outcome(state, reason=failure.reason, error=failure.message or None)
    except Exception as error:
        if runtime.world_size > 1 and distributed.lost_peer(error):
            raise
        if (lost := storage_failure(error, Path(work.directory))) is not None:
            raise lost from error
        return Outcome("FAIL", reason=type(error).__name__, error=traceback.format_exc())


def _fit(
    experiment: Experiment,
    work: Work,
    runtime: Runtime,
    copy: TrialCopy | None,
    patience_s: float | None,
) -> Outcome:
    trainable = _build(experiment, work.config, runtime)
    if work.kind == "trial" and runtime.rank == 0:
        write_architecture(trainable, runtime.directory)
    with watching(patience_s, runtime.directory / f"hung-{runtime.rank}.txt"):
        fitted, reason = _fitted(trainable, work, runtime)
    name = trainable.objective
    metrics = {f"best/{name}": fitted.best, "best/epoch": float(fitted.best_epoch)}
    if work.kind == "repeat":
        if copy is not None:
            copy.share(BEST)
        trainable.load_export(runtime.directory / BEST)
        metrics |= trainable.test()
    elif not fitted.stopped and runtime.rank == 0:
        trainable.load_export(runtime.directory / BEST)
        with distributed.no_collectives():
            trainable.snapshot_best(runtime.directory, fitted.best_epoch)
    return Outcome("PRUNED" if fitted.stopped else "COMPLETE", fitted.best, reason, metrics)


def _fitted(trainable: Trainable, work: Work, runtime: Runtime) -> tuple[Fitted, str | None]:
    """`fit`. A repeat that diverges is judged by its best epoch, as its user would keep that:
    evidence without it would flatter."""
    try:
        return fit(trainable, trainable.config, runtime), None
    except TrialFailed as failure:
        saved = (
            load_checkpoint(runtime.directory / LAST)
            if work.kind == "repeat" and failure.reason in DIVERGED
            else None
        )
        if saved is None or not saved["history"]:
            raise
        progress = saved["progress"]
        return Fitted(
            saved["history"], progress["best_epoch"], progress["best"], stopped=False
        ), failure.reason


def _baseline(experiment: Experiment, work: Work, runtime: Runtime) -> Outcome:
    """Val and test metrics of the untrained network with calibrated BatchNorm: mean over seeds, and
    the sample standard deviation."""
    runs = []
    for seed in range(work.seed, work.seed + BASELINE_SEEDS):
        trainable = _build(experiment, {**work.config, "seed": seed}, runtime)
        trainable.calibrate()
        runs.append(trainable.validate() | trainable.test())
    metrics = {}
    for name in runs[0]:
        values = [run[name] for run in runs]
        mean = sum(values) / len(values)
        metrics[f"baseline/{name}"] = mean
        metrics[f"baseline_std/{name}"] = math.sqrt(
            sum((v - mean) ** 2 for v in values) / (len(values) - 1)
        )
    return Outcome("COMPLETE", metrics=metrics)


def _build(experiment: Experiment, flat: dict[str, Any], runtime: Runtime) -> Trainable:
    _bring_backbone(flat)
    config: Any = build(experiment.config, flat)
    torch.set_num_threads(config.train.threads)
    keep_freed_memory()
    data = _dataset(experiment.trainable, config.data)
    torch.manual_seed(config.seed)
    return experiment.trainable(config, data).to(runtime.device)


def _bring_backbone(flat: dict[str, Any]) -> None:
    """The file of weights that the trial starts from, where it is one of an object store."""
    path = Path(flat.get("init.file") or ".")
    if s3.address(path) is not None and not (
        path.is_file() and content_hash(path) == flat["init.sha256"]
    ):
        with s3.needed(path):
            s3.download(path)


@functools.lru_cache(maxsize=2)
def _dataset(trainable: type[Trainable], data_config: Any) -> Any:
    """The data set, kept by a warm process from trial to trial."""
    try:
        return trainable.load_data(data_config)
    except UserError as error:
        raise TrialFailed("data", str(error)) from error
