"""Let trials train side by side on one GPU for a few seconds, as Ray runs them, to see how many of
them share it well (`shared_gpu.py`)."""

import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import torch

from trainables.config import build
from trainables.engine.allocator import keep_freed_memory
from trainables.errors import first_line
from tune.execution.runtimes import LocalRuntime
from tune.execution.shared_gpu import MOST, Choice, Together, choose_together
from tune.execution.timed_steps import TimedSteps
from tune.execution.trial import bring_backbone, settle
from tune.execution.worker_group import WorkerGroup
from tune.experiments import Experiment

_SECONDS = 4.0
_LOOK_S = 0.1
"""NVML's own figure is a mean over about this time."""


class Stepper:
    """A trial of a config, in a process of its own, that trains for as long as it is told to."""

    def __init__(self, experiment: Experiment, flat: dict[str, Any]):
        bring_backbone(flat)
        config: Any = build(experiment.config, flat)
        torch.set_num_threads(config.train.threads)
        keep_freed_memory()
        data = experiment.trainable.load_data(config.data)
        some = experiment.trainable.profiled_data(config, data)
        self._scratch = tempfile.TemporaryDirectory(prefix="vistune-auto-")
        runtime = LocalRuntime(Path(self._scratch.name), lambda epoch, metrics: True)
        config, some = settle(config, some, runtime)

        self._device = runtime.device
        self._steps = TimedSteps(experiment.trainable, config, some, runtime)
        self._steps.seconds(1)
        self._steps.trainable.validate()  # this may need more memory than a step

    def ready(self) -> None:
        """Return once it has taken a step."""

    def train(self, seconds: float) -> Together:
        """Train for `seconds`; return its own steps, and the use of the whole device meanwhile."""
        busy = _Busy(self._device)
        began = time.perf_counter()
        steps = 0
        with busy:
            while time.perf_counter() - began < seconds:
                self._steps.seconds(1)
                steps += 1
        speed = steps / (time.perf_counter() - began)
        return Together(speed, _memory_taken(self._device), busy.mean)


class _Busy:
    """Watches, in a thread, how busy a device is while a block runs.

    Attributes:
        mean: part of the time in which it computed; None if it is not known, as on a CPU or without
            NVML.
    """

    def __init__(self, device: torch.device):
        self.mean: float | None = None
        self._device = device
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="busy", daemon=True)

    def __enter__(self) -> None:
        if self._device.type == "cuda":
            self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _look(self) -> None:
        seen = []
        while not self._ended.wait(_LOOK_S):
            try:
                seen.append(torch.cuda.utilization(self._device) / 100)
            except Exception:  # of many types: NVML or its package may be missing
                return
            self.mean = sum(seen) / len(seen)


def _memory_taken(device: torch.device) -> float | None:
    """Part of a device's memory that is in use, by any process; None on a CPU."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return 1 - free / total


def measure_on_ray(
    experiment: Experiment, flat: Mapping[str, Any], group: WorkerGroup
) -> Callable[[int], Together]:
    """Return a function that lets a number of trials of a config train side by side.

    Args:
        flat: the flat config.
        group: resources of one trial; all share its GPU.
    """
    actor: Any = ray.remote(Stepper)

    def measure(count: int) -> Together:
        shared = actor.options(num_cpus=group.cpus, num_gpus=group.gpus / count)
        actors = [shared.remote(experiment, dict(flat)) for _ in range(count)]
        try:
            ray.get([one.ready.remote() for one in actors])
            found = ray.get([one.train.remote(_SECONDS) for one in actors])
        finally:
            for one in actors:
                ray.kill(one)
        return _all_together(found)

    return measure


def _all_together(found: list[Together]) -> Together:
    """Return the sum of the trials' steps, and the most that one of them saw of the device."""
    memory = [one.memory for one in found if one.memory is not None]
    busy = [one.busy for one in found if one.busy is not None]
    return Together(
        steps_per_s=sum(one.steps_per_s for one in found),
        memory=max(memory, default=None),
        busy=max(busy, default=None),
    )


def share_gpus(
    experiment: Experiment,
    flat: Mapping[str, Any],
    group: WorkerGroup,
    resources: Mapping[str, float],
    say: Callable[[str], None],
) -> WorkerGroup:
    """Choose how many trials share a GPU (`--concurrent auto`), and say so.

    Args:
        flat: config of trial 0.
        group: a trial that has a GPU of its own.
        resources: CPUs and GPUs of the cluster.
    Returns:
        A trial with its share.
    """
    if not group.gpus:
        say("--concurrent auto: no GPU; as many trials at a time as have processor cores")
        return group
    if experiment.function is not None:
        say(
            "--concurrent auto: 1 trial at a time on each GPU, "
            "because a function's steps are not visible"
        )
        return group

    cores = resources["CPU"] / max(1.0, resources["GPU"])
    most = max(1, min(MOST, int(cores // group.cpus)))
    try:
        choice = choose_together(measure_on_ray(experiment, flat, group), most)
    except Exception as error:  # the trials themselves will say more
        choice = Choice(1, f"trials cannot be timed: {first_line(error)}", {})
    say(choice.describe())
    return replace(group, gpus=group.gpus / choice.count)
