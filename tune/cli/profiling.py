"""Measure the cost of a configuration with a few steps and one validation."""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch

from trainables.base import CompileMode, Trainable
from trainables.engine import checkpoint
from trainables.engine.allocator import keep_freed_memory
from trainables.engine.compilation import evaluating
from trainables.files import BEST, LAST
from tune.cli.device_plan import chosen, compilation
from tune.execution.runtimes import LocalRuntime
from tune.execution.timed_steps import TimedSteps
from tune.execution.trial import settle
from tune.experiments import Experiment

_STEPS = 3  # timed, after one warm-up step


@dataclass(frozen=True)
class Cost:
    """Measured cost of trial 0's config."""

    step_s: float
    """Seconds per training step."""
    validation_s: float
    """Seconds per validation."""
    epoch_s: float
    """Seconds per epoch: its steps and one validation."""
    steps: int
    """Number of steps of a complete trial."""
    checkpoint_mb: float
    export_mb: float
    parameters: int
    """Number of trainable parameters."""
    setup_seconds: float
    """Seconds of computation that is done once and kept for other trials; 0 if there is none."""
    gpu: bool
    numerics: tuple[str, ...] = ()
    """Lines about the device and its numerics."""


def profile(experiment: Experiment, config: Any, data: Any) -> Cost:
    """Measure a few training steps, a validation, a checkpoint and an export of `config`."""
    with tempfile.TemporaryDirectory(prefix="vistune-plan-") as scratch:
        runtime = LocalRuntime(Path(scratch), lambda epoch, metrics: True)
        torch.set_num_threads(config.train.threads)
        keep_freed_memory()
        some = experiment.trainable.profiled_data(config, data)
        config, some = settle(config, some, runtime)
        numerics = chosen(config, some, runtime.device)

        kind = experiment.trainable
        cost = _measured(kind, config, some, data, runtime)
        if cost.gpu and not config.train.compile:
            for mode in get_args(CompileMode):
                # A second network and its optimizer state will replace the first.
                torch.cuda.empty_cache()
                runtime.directory = Path(scratch) / mode
                line = compilation(kind, config, some, runtime, mode, cost.step_s, cost.steps)
                numerics += (line,)
        return replace(cost, numerics=numerics)


def _measured(
    kind: type[Trainable[Any, Any]], config: Any, some: Any, data: Any, runtime: LocalRuntime
) -> Cost:
    """Measure the cost with a network that is freed afterwards.

    Args:
        some: the part of the data on which it trains.
        data: all of the data.
    """
    steps = TimedSteps(kind, config, some, runtime, images=len(data.train))
    steps.seconds(1)
    step_s = steps.seconds(_STEPS) / _STEPS
    trainable = steps.trainable
    validation_s = _timed_validation(trainable)

    checkpoint.save(steps.state, runtime)
    trainable.export(runtime.directory / BEST, {})
    return Cost(
        step_s=step_s,
        validation_s=validation_s,
        epoch_s=steps.epoch_steps * step_s + validation_s,
        steps=steps.total_steps,
        checkpoint_mb=_megabytes(runtime.directory / LAST),
        export_mb=_megabytes(runtime.directory / BEST),
        parameters=sum(p.numel() for p in trainable.parameters() if p.requires_grad),
        setup_seconds=trainable.setup_seconds(data),
        gpu=runtime.device.type == "cuda",
    )


def _timed_validation(trainable: Trainable[Any, Any]) -> float:
    """Measure the seconds of a validation, without computing features that are kept for other
    trials."""
    trainable.costs()  # discard the costs of the steps
    trainable.preload()
    started = time.perf_counter()
    with evaluating(trainable.config.train):
        trainable.validate()
    elapsed = time.perf_counter() - started
    return elapsed - trainable.costs().get("time/features_s", 0.0)


def _megabytes(path: Path) -> float:
    return path.stat().st_size / 1e6
