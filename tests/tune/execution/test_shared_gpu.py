"""`--concurrent auto`, against GPUs modelled by Amdahl's law and with real trials on this machine's
cores."""

import math
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import ray
import torch

from tests import REPO
from tests.commands import Call
from trainables.config import build, flatten
from tune.execution.capacity import workers_on
from tune.execution.shared_gpu import MOST, Together, choose_together, share_of_gpu
from tune.execution.trials_together import (
    computing_share,
    measure_on_ray,
    share_gpus,
    side_by_side,
)
from tune.execution.worker_group import WorkerGroup
from tune.experiments import EXPERIMENTS


def amdahl(share: float, memory: float = 0.0) -> Callable[[int], Together]:
    """A GPU that one trial keeps busy for this share of the time. `count` trials take min(count, 1
    / share) times as many steps."""

    def measure(count: int) -> Together:
        speed = min(count, 1 / share)
        return Together(100 * speed, memory=count * memory, busy=min(1.0, count * share))

    return measure


@pytest.mark.parametrize(
    ("share", "chosen"),
    [
        (1.0, 1),  # one trial uses it all the time
        (0.95, 1),
        (0.6, 2),  # two do 1.67 times as much work
        (0.48, 2),  # two use 96 % of the time
        (0.25, 4),
        (0.2, 8),  # four use 80 % of the time, eight do a quarter more work
        (0.05, 8),
    ],
)
def test_trials_are_added_while_all_together_get_more_done(share: float, chosen: int) -> None:
    assert choose_together(amdahl(share)).count == chosen


@pytest.mark.parametrize(("memory", "chosen"), [(0.5, 1), (0.46, 1), (0.3, 2), (0.2, 4), (0.1, 8)])
def test_no_more_than_memory_holds(memory: float, chosen: int) -> None:
    choice = choose_together(amdahl(0.01, memory))
    assert choice.count == chosen
    assert max(choice.measured) * memory <= 0.9


def test_without_nvml_speed_alone_decides() -> None:
    speeds = {1: 100.0, 2: 190.0, 4: 200.0}
    choice = choose_together(lambda count: Together(speeds[count]))
    assert choice.count == 2
    assert choice.describe() == (
        "--concurrent auto: 2 trials at a time on each GPU, because 4 get 1.05 times as much done "
        "(steps/s of all: 1: 100, 2: 190, 4: 200)"
    )


@pytest.mark.parametrize("most", [1, 2, 3, 6, 8])
def test_no_more_than_have_a_core(most: int) -> None:
    seen = []

    def measure(count: int) -> Together:
        seen.append(count)
        return Together(float(count))

    assert choose_together(measure, most).count == most
    assert seen == sorted({1, *(2**n for n in range(1, 1 + int(math.log2(most)))), most})


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "4 do not fit into its memory"),
        (OSError("no such folder"), "4 cannot be timed: no such folder"),
    ],
)
def test_as_many_as_could_be_timed_share_the_gpu(error: Exception, why: str) -> None:
    """Two have trained side by side, so a failure of four does not leave the GPU to one."""

    def measure(count: int) -> Together:
        if count > 2:
            raise error
        return Together(float(count))

    choice = choose_together(measure)
    assert (choice.count, choice.why) == (2, why)


@pytest.mark.parametrize("count", range(1, MOST + 1))
def test_as_many_shares_fit_on_a_gpu_as_were_measured(count: int) -> None:
    group = WorkerGroup(1, 1.0, share_of_gpu(count))
    assert workers_on({"CPU": 16.0, "GPU": 1.0}, group) == count


def test_nvml_is_asked_about_the_gpu_of_this_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's first GPU may be NVML's second."""
    busy = {"GPU-aa": 10, "GPU-bb": 80}
    nvml = "ray._private.thirdparty.pynvml"
    monkeypatch.setattr(f"{nvml}.nvmlInit", lambda: None)
    monkeypatch.setattr(f"{nvml}.nvmlShutdown", lambda: None)
    monkeypatch.setattr(f"{nvml}.nvmlDeviceGetHandleByUUID", lambda identity: identity)
    monkeypatch.setattr(
        f"{nvml}.nvmlDeviceGetUtilizationRates", lambda handle: SimpleNamespace(gpu=busy[handle])
    )
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="bb")
    )
    assert computing_share(torch.device("cuda")) == 0.8


def test_without_a_gpu_nothing_is_timed() -> None:
    said: list[str] = []
    group = WorkerGroup(1, 1.0, 0.0)
    resources = {"CPU": 2.0, "GPU": 0.0}
    assert share_gpus(EXPERIMENTS["ssl"], {}, group, resources, said.append) == group
    assert said == ["--concurrent auto: no GPU; as many trials at a time as have processor cores"]


def test_a_trial_that_cannot_be_timed_has_the_gpu_for_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its data may be missing, for example. The trials themselves say more."""

    def fail(*given: object) -> Callable[[int], Together]:
        def measure(count: int) -> Together:
            raise OSError("no such folder")

        return measure

    monkeypatch.setattr("tune.execution.trials_together.measure_on_ray", fail)
    said: list[str] = []
    group = WorkerGroup(1, 1.0, 1.0)
    resources = {"CPU": 16.0, "GPU": 1.0}
    assert share_gpus(EXPERIMENTS["ssl"], {}, group, resources, said.append) == group
    assert said == [
        "--concurrent auto: 1 trial at a time on each GPU, because trials cannot be timed: "
        "no such folder"
    ]


def test_the_command_plans_with_auto(call: Call) -> None:
    planned = call("toy", "--plan", "--concurrent", "auto")
    assert planned.code == 0, planned.err
    refused = call("toy", "--plan", "--concurrent", "auto", "--local")
    assert refused.code == 2
    assert "--concurrent auto with --local" in refused.err


class Placed:
    """An actor that tells which GPUs Ray has given it."""

    def gpus(self) -> list[int]:
        return ray.get_gpu_ids()


@pytest.mark.heavy
def test_trials_side_by_side_share_one_gpu_of_several() -> None:
    """Six, because a sixth that is rounded up is more than a sixth."""
    ray.init(num_cpus=12, num_gpus=2, include_dashboard=False)  # Ray counts GPUs, and uses none
    try:
        actor = ray.remote(Placed)
        with side_by_side(actor, WorkerGroup(1, 1.0, 1.0), 6) as actors:
            found = ray.get([one.gpus.remote() for one in actors], timeout=60)
    finally:
        ray.shutdown()
    assert len({tuple(gpus) for gpus in found}) == 1
    assert len(found[0]) == 1


@pytest.mark.heavy
def test_more_than_a_machine_has_processors_for_are_not_awaited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tune.execution.trials_together._PLACE_S", 1.0)
    ray.init(num_cpus=2, num_gpus=1, include_dashboard=False)
    try:
        with (
            pytest.raises(RuntimeError, match="no machine has 4 free processors for its GPU"),
            side_by_side(ray.remote(Placed), WorkerGroup(1, 1.0, 1.0), 4),
        ):
            pass
    finally:
        ray.shutdown()


@pytest.mark.heavy
def test_real_trials_are_timed_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, with a core each, two trials do more work than one, and at most twice as much."""
    from tune.execution.ray_session import ray_session

    monkeypatch.setattr("tune.execution.trials_together._SECONDS", 1.0)
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    experiment = EXPERIMENTS["pretrain"]
    preset = experiment.presets["tiny"] | {"data.name": "digits"}
    flat = flatten(build(experiment.config, preset))
    with ray_session():
        measure = measure_on_ray(experiment, flat, WorkerGroup(1, 1.0, 0.0))
        alone = measure(1)
        # Other load on these cores may slow a measurement, so the best of three counts.
        together = max((measure(2) for _ in range(3)), key=lambda found: found.steps_per_s)
        deadline = time.monotonic() + 20  # until Ray has noticed that they have ended
        while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)

    assert alone.memory is None
    assert alone.busy is None
    assert alone.steps_per_s > 0
    assert together.steps_per_s < 3 * alone.steps_per_s
    assert together.steps_per_s > 0.8 * alone.steps_per_s
