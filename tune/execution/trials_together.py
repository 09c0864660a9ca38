"""Let trials train side by side on one GPU for a few seconds, as Ray runs them, to see how many of
them share it well (`shared_gpu.py`)."""

import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import torch
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from trainables.config import build
from trainables.devices import limit_memory
from trainables.engine.allocator import keep_freed_memory
from trainables.engine.compilation import evaluating
from trainables.errors import first_line
from tune.execution.runtimes import LocalRuntime
from tune.execution.shared_gpu import MOST, Choice, Together, choose_together, share_of_gpu
from tune.execution.timed_steps import TimedSteps
from tune.execution.trial import bring_backbone, settle
from tune.execution.worker_group import WorkerGroup
from tune.experiments import Experiment

_SECONDS = 4.0
_BURST, _BURST_S = 10, 0.5
"""Steps, and at most about as many seconds, between two moments at which the CPU waits for the GPU:
a trial waits every ten steps, and a GPU that is waited for more often seems less busy."""
_LOOK_S = 0.1
"""NVML's own figure is a mean over about this time."""
_PLACE_S = 60.0
"""Time in which Ray must find a machine for trials side by side. It has just found one for a trial
alone."""


class Stepper:
    """A trial of a config, in a process of its own, that trains for as long as it is told to.

    Args:
        share: its share of the GPU, and of the GPU's memory.
    Raises:
        torch.OutOfMemoryError: a batch fits into the GPU, but not into this share of it.
    """

    def __init__(self, experiment: Experiment, flat: dict[str, Any], share: float = 1.0):
        limit_memory(share)
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
        with evaluating(config.train):
            self._steps.trainable.validate()  # this may need more memory than a step
        micro_batch = self._steps.state.batches.reduced_micro_batch
        if share < 1 and micro_batch:
            raise torch.OutOfMemoryError(
                f"out of memory: {share:g} of the GPU holds {micro_batch} images of a batch"
            )

    def ready(self) -> None:
        """Return once it has taken a step."""

    def train(self, seconds: float) -> Together:
        """Train for `seconds`; return its own steps, and the use of the whole device meanwhile."""
        burst = max(1, min(_BURST, int(_BURST_S / self._steps.seconds(1))))
        busy = _Busy(self._device)
        began = time.perf_counter()
        steps = 0
        with busy:
            while time.perf_counter() - began < seconds:
                self._steps.seconds(burst)
                steps += burst
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
                seen.append(computing_share(self._device))
            except Exception:  # of many types: NVML may be missing, or not know it of a part
                return
            self.mean = sum(seen) / len(seen)


def computing_share(device: torch.device) -> float:
    """Part of the last moments in which a GPU computed, in [0, 1].

    NVML is asked by the GPU's identity, because it numbers GPUs by their slot, and CUDA those that
    are visible by their speed. Ray brings NVML's Python package with it.

    Raises:
        Exception: NVML is missing, or does not know, as of a part of a GPU (MIG).
    """
    from ray._private.thirdparty import pynvml

    pynvml.nvmlInit()
    try:
        identity = torch.cuda.get_device_properties(device).uuid
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{identity}")
        return float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100
    finally:
        pynvml.nvmlShutdown()


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
    stepper: Any = ray.remote(Stepper)

    def measure(count: int) -> Together:
        share = share_of_gpu(count) if group.gpus else 1.0
        with side_by_side(stepper, group, count, experiment, dict(flat), share) as actors:
            ray.get([one.ready.remote() for one in actors])
            found = ray.get([one.train.remote(_SECONDS) for one in actors])
        return _all_together(found)

    return measure


@contextlib.contextmanager
def side_by_side(
    actor: Any, group: WorkerGroup, count: int, *arguments: Any
) -> Iterator[list[Any]]:
    """Provide `count` actors that share one GPU of one machine, each with the processors of a
    trial.

    Without a placement group, Ray would give them GPUs of several machines if there are any.

    Args:
        actor: a class of actors.
        group: resources of one trial that has the GPU for itself.
        arguments: of the actor's constructor.
    Raises:
        RuntimeError: no machine has as many free processors beside a GPU.
    """
    bundle = {"CPU": group.cpus * count}
    if group.gpus:
        bundle["GPU"] = group.gpus
    place = placement_group([bundle])
    try:
        # A cluster may have to start a machine for the first trial.
        if count > 1 and not place.wait(_PLACE_S):
            raise RuntimeError(f"no machine has {bundle['CPU']:g} free processors for its GPU")
        placed = actor.options(
            num_cpus=group.cpus,
            num_gpus=group.gpus * share_of_gpu(count),
            scheduling_strategy=PlacementGroupSchedulingStrategy(place, 0),
        )
        actors = [placed.remote(*arguments) for _ in range(count)]
        try:
            yield actors
        finally:
            for one in actors:
                ray.kill(one)
    finally:
        remove_placement_group(place)


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
    return replace(group, gpus=group.gpus * share_of_gpu(choice.count))
