"""Lines of `--plan` about the device: its numerics, and whether compilation would pay off."""

from dataclasses import replace
from typing import Any

import torch

from trainables.base import CompileMode, Runtime, Trainable
from trainables.data import DataSet
from trainables.data.placement import OnDevice, placement
from trainables.engine.numerics import describe_numerics
from tune.execution.timed_steps import TimedSteps
from tune.formatting import duration

_STEPS = 5  # timed, after the compiling step and one more


def chosen(config: Any, data: Any, device: torch.device) -> tuple[str, ...]:
    """Return lines about the choices that depend on the device: numerics, and where images are
    stored.

    Args:
        config: config already settled for the device.
    """
    lines = [describe_numerics(config.train, device)]
    if device.type == "cuda" and isinstance(data, DataSet):
        wanted: OnDevice = getattr(config.data, "on_device", "auto")
        on_gpu = data.train.device_images is not None
        found = replace(placement(data, wanted, device), fits=on_gpu)
        lines.append(f"input: {found.describe()} (data.on_device={wanted})")
    return tuple(lines)


def compilation(
    kind: type[Trainable[Any, Any]],
    config: Any,
    data: Any,
    runtime: Runtime,
    mode: CompileMode,
    step_s: float,
    steps: int,
) -> str:
    """Say whether torch.compile in a mode would pay off for a whole trial, by compiling and timing
    its steps.

    Args:
        step_s: seconds of an uncompiled step.
        steps: number of steps of a trial.
    """
    compiled = replace(config, train=replace(config.train, compile=True, compile_mode=mode))
    name = f"torch.compile ({mode})"
    wanted = "--set train.compile=True"
    if mode != "default":
        wanted += f" --set train.compile_mode={mode}"
    try:
        first_s, compiled_s = _time_steps(kind, compiled, data, runtime)
    except torch.OutOfMemoryError:
        return f"{name}: not measured, because memory ran out; try it with {wanted}"
    except Exception as error:  # many types, from a compiler that may not even be installed
        return f"{name}: fails here ({type(error).__name__}); leave train.compile=False"

    without = step_s * steps
    with_it = first_s + compiled_s * steps
    verdict = "leave train.compile=False"
    if with_it < without:
        verdict = wanted
    return (
        f"{name}: {compiled_s * 1e3:.0f} ms a step after {first_s:.0f} s of compilation: "
        f"{duration(with_it)} for the steps of a trial instead of {duration(without)}; {verdict}"
    )


def _time_steps(
    kind: type[Trainable[Any, Any]], config: Any, data: Any, runtime: Runtime
) -> tuple[float, float]:
    """Return the seconds of the first two steps, which include compilation, and of one later
    step."""
    timed = TimedSteps(kind, config, data, runtime)
    return timed.seconds(2), timed.seconds(_STEPS) / _STEPS
