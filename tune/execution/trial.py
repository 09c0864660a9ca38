"""One piece of work, in any process: flat config -> trainable -> `fit` -> outcome, or flat config
-> function -> outcome. A trial's own failure is an outcome, not an exception."""

import contextlib
import functools
import math
import traceback
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from trainables.backbone.summary import write_architecture
from trainables.base import Metrics, Runtime, Trainable
from trainables.config import build
from trainables.data import DataSet
from trainables.data.placement import OnDevice, on_device
from trainables.devices import settle_device
from trainables.engine import distributed
from trainables.engine.allocator import keep_freed_memory
from trainables.engine.average import outcomes_with_objective, with_objective
from trainables.engine.checkpoint import load_checkpoint
from trainables.engine.compilation import evaluating
from trainables.engine.fit import Fitted, fit
from trainables.engine.memory import is_out_of_memory
from trainables.engine.numerics import IN_BFLOAT16, settle_numerics
from trainables.engine.watchdog import watching
from trainables.errors import StartAgain, TrialFailed, UserError
from trainables.files import BEST, LAST, content_hash, remove_own_partials
from trainables.outcomes import Record
from trainables.redaction import redacted
from tune.execution.function_trial import run_function
from tune.experiments import Experiment
from tune.object_store import s3
from tune.object_store.trial_sync import TrialCopy, copied
from tune.study.disk import StorageFailed, StudyEnds, storage_failure
from tune.study.work import DIVERGED, Outcome, State, Work

BASELINE_SEEDS = 3
"""Number of untrained networks that the baseline averages."""


def run(
    experiment: Experiment, work: Work, runtime: Runtime, patience_s: float | None = None
) -> Outcome:
    """Do the work and return how it ended. SystemExit and KeyboardInterrupt are not caught.

    Args:
        patience_s: end this process after this many seconds without progress; None: never. It does
            not apply to a function, whose epochs may take hours and show no steps.
    Raises:
        StorageFailed: the study's folder cannot be written or read.
        StartAgain, or an error of a collective operation: the group of workers must be restarted.
    """
    folder = Path(work.directory)
    try:
        return _run(experiment, work, runtime, patience_s)
    except s3.Refused as error:
        raise StorageFailed(str(error)) from error
    except (StartAgain, StudyEnds):
        raise
    except TrialFailed as failure:
        state: State = "PRUNED" if failure.reason in DIVERGED else "FAIL"
        return Outcome(state, reason=failure.reason, error=failure.message or None)
    except Exception as error:
        if runtime.world_size > 1 and distributed.lost_peer(error):
            raise
        lost_storage = storage_failure(error, work.study, folder)
        if lost_storage is not None:
            raise lost_storage from error
        said = redacted(traceback.format_exc())
        return Outcome("FAIL", reason=_reason(experiment, error), error=said)


def _reason(experiment: Experiment, error: Exception) -> str:
    """Return the reason of a failed trial, in a line."""
    function = experiment.function
    if function is None:
        return type(error).__name__
    return "oom" if is_out_of_memory(error) else function.reason(error)


def _run(experiment: Experiment, work: Work, runtime: Runtime, patience_s: float | None) -> Outcome:
    folder = Path(work.directory)
    folder.mkdir(parents=True, exist_ok=True)
    with _folder_lock(folder, runtime):
        if runtime.rank == 0:
            remove_own_partials(folder)  # a function's own files stay; `fit` removes more
        # the other workers must read nothing before rank 0 has the folder
        distributed.broadcast(None)
        if work.kind == "baseline":
            return _baseline(experiment, work, runtime)
        function = experiment.function
        with copied(folder, work.config, runtime, holds_history=function is None) as copy:
            if function is not None:
                outcome = run_function(function, work, runtime)
            else:
                outcome = _fit(experiment, work, runtime, copy, patience_s)
            if copy is not None:
                copy.complete = outcome.state == "COMPLETE"
            return outcome


def _folder_lock(folder: Path, runtime: Runtime) -> contextlib.AbstractContextManager[Any]:
    """Wait until a process that outlived a killed driver has stopped writing here. Rank 0 waits for
    all workers."""
    if runtime.rank == 0:
        return FileLock(folder / ".lock")
    return contextlib.nullcontext()


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
    if trainable.config.train.bf16:
        metrics[IN_BFLOAT16] = 1.0
    tested: Record = {}
    if work.kind == "repeat":
        if copy is not None:
            copy.share(BEST)
        trainable.load_export(runtime.directory / BEST)
        with evaluating(trainable.config.train):
            metrics |= with_objective(name, trainable.test())
        outcomes = trainable.test_outcomes()
        if outcomes is not None:
            tested = outcomes_with_objective(name, outcomes).to_record()
    elif not fitted.stopped and runtime.rank == 0:
        trainable.load_export(runtime.directory / BEST)
        with distributed.no_collectives(), evaluating(trainable.config.train):
            trainable.snapshot_best(runtime.directory, fitted.best_epoch)
        metrics |= _size(trainable, runtime.directory / BEST)
        metrics |= _inference_costs(trainable, work, runtime)
    return Outcome(
        "PRUNED" if fitted.stopped else "COMPLETE",
        value=fitted.best,
        reason=reason,
        metrics=metrics,
        tested=tested,
    )


def _size(trainable: Trainable[Any, Any], export: Path) -> Metrics:
    """Size of a trained network: number of parameters, and megabytes of its exported file."""
    parameters = sum(parameter.numel() for parameter in trainable.parameters())
    return {
        "model/parameters": float(parameters),
        "model/megabytes": export.stat().st_size / 1e6,
    }


def _inference_costs(trainable: Trainable[Any, Any], work: Work, runtime: Runtime) -> Metrics:
    """Measure the costs of prediction that the study searches by, with the exported weights."""
    if not work.measure:
        return {}
    from trainables.described import describe_model
    from trainables.inference_cost import inference_costs

    about = describe_model(type(trainable), work.config, trainable.data)
    return inference_costs(about, runtime.directory / BEST, runtime.device, work.measure)


def _fitted(
    trainable: Trainable[Any, Any], work: Work, runtime: Runtime
) -> tuple[Fitted, str | None]:
    """Run `fit`. The reason is None unless a repeat diverged.

    Such a repeat is judged by its best epoch, which its user would keep. Evidence without it would
    flatter its configuration.
    """
    try:
        # Nobody draws pictures of a repeat.
        snapshots = work.kind == "trial"
        return fit(trainable, trainable.config, runtime, snapshots=snapshots), None
    except TrialFailed as failure:
        if work.kind != "repeat" or failure.reason not in DIVERGED:
            raise
        saved = load_checkpoint(runtime.directory / LAST)
        if saved is None or not saved["history"]:
            raise
        progress = saved["progress"]
        fitted = Fitted(saved["history"], progress["best_epoch"], progress["best"], stopped=False)
        return fitted, failure.reason


def _baseline(experiment: Experiment, work: Work, runtime: Runtime) -> Outcome:
    """Evaluate the untrained network, with calibrated BatchNorm, on validation and test: mean and
    sample standard deviation over seeds."""
    runs = []
    for seed in range(work.seed, work.seed + BASELINE_SEEDS):
        trainable = _build(experiment, {**work.config, "seed": seed}, runtime)
        with evaluating(trainable.config.train):
            trainable.calibrate()
            judged = trainable.validate() | trainable.test()
        runs.append(with_objective(trainable.objective, judged))

    return Outcome("COMPLETE", metrics=_over_seeds(runs))


def _over_seeds(runs: list[Metrics]) -> Metrics:
    """Mean and sample standard deviation of each metric.

    A metric that some runs lack is averaged over the others. An example is the IoU of a class that
    no mask contains and that only one of the random networks predicts.
    """
    names = dict.fromkeys(name for run in runs for name in run)
    metrics = {}
    for name in names:
        values = [run[name] for run in runs if name in run]
        mean = sum(values) / len(values)
        metrics[f"baseline/{name}"] = mean
        if len(values) > 1:
            variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
            metrics[f"baseline_std/{name}"] = math.sqrt(variance)
    return metrics


def _build(experiment: Experiment, flat: dict[str, Any], runtime: Runtime) -> Trainable[Any, Any]:
    """Build the trainable of a flat config, on the runtime's device."""
    bring_backbone(flat)
    config: Any = build(experiment.config, flat)
    torch.set_num_threads(config.train.threads)
    keep_freed_memory()
    data = _dataset(experiment.trainable, config.data)
    config, data = settle(config, data, runtime)
    torch.manual_seed(config.seed)
    return experiment.trainable(config, data).to(runtime.device)


def settle(config: Any, data: Any, runtime: Runtime) -> tuple[Any, Any]:
    """Choose the runtime's device; return config and data in the form that the device takes.

    Raises:
        TrialFailed: `device` (the config asks for one that is missing).
    """
    try:
        runtime.device = settle_device(config.train.device, runtime.device)
    except UserError as error:
        raise TrialFailed("device", str(error)) from error

    config = settle_numerics(config, runtime.device)
    if isinstance(data, DataSet):
        wanted: OnDevice = getattr(config.data, "on_device", "auto")
        data = on_device(data, wanted, runtime.device)
    return config, data


def bring_backbone(flat: dict[str, Any]) -> None:
    """Download the weights that the trial starts from, if they are in an object store."""
    path = Path(flat.get("init.file") or ".")
    if s3.address(path) is None:
        return
    if path.is_file() and content_hash(path) == flat["init.sha256"]:
        return
    with s3.needed(path):
        s3.download(path)


@functools.lru_cache(maxsize=2)
def _dataset(trainable: type[Trainable[Any, Any]], data_config: Any) -> Any:
    """Load the data set, which a warm process keeps from trial to trial."""
    try:
        return trainable.load_data(data_config)
    except UserError as error:
        raise TrialFailed("data", str(error)) from error
