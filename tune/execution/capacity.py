"""The capacity of a cluster: how many trials run at a time on its current machines or, on the head
of a cluster that grows, on all machines that it may start."""

import math
import os
import time
from pathlib import Path
from typing import Any

import ray
import yaml

from trainables.errors import UserError
from tune.execution.kuberay import cluster_of_kubernetes, on_kubernetes
from tune.execution.worker_group import WorkerGroup

# `ray up` leaves the cluster file here on the head, with the resources of each kind of machine
# filled in; the autoscaler reads it too.
_CLUSTER_FILE = Path("~/ray_bootstrap_config.yaml")
_REFRESH_S = 5.0
_PARTS = 10_000  # Ray counts resources in ten-thousandths


class ConcurrencyLimit:
    """Number of concurrent trials: `concurrent`, or the cluster's capacity.

    The capacity is read every few seconds, because machines come and go. Trials that wait for a
    machine make an autoscaler start one. If the limit were what is running now, none would ever
    start.
    """

    def __init__(self, group: WorkerGroup, concurrent: int | None):
        self.group = group
        self.concurrent = concurrent
        self._unused = 0
        self._looked_up_at = -math.inf
        self._capacity = 1

    def __call__(self) -> int:
        if self.concurrent is not None and not self._unused:
            return self.concurrent
        if time.monotonic() - self._looked_up_at > _REFRESH_S:
            self._capacity = _capacity(self.group, self._unused)
            self._looked_up_at = time.monotonic()
        if self.concurrent is not None:
            return min(self.concurrent, self._capacity)
        return self._capacity

    def leave_out(self, workers: int) -> None:
        """Stop counting a machine with space for this many workers. A group of workers that waits
        for its place gives up, so there must not be more groups than the other machines can
        hold."""
        self._unused += workers
        self._looked_up_at = -math.inf


def workers_on(resources: dict[str, float], group: WorkerGroup) -> int:
    """Number of workers of this group that fit on a machine with these resources."""
    workers = _times(resources.get("CPU", 0.0), group.cpus)
    if group.gpus:
        workers = min(workers, _times(resources.get("GPU", 0.0), group.gpus))
    return workers


def _capacity(group: WorkerGroup, unused: int) -> int:
    """Number of such groups that the cluster can run at a time, at least 1.

    Args:
        unused: workers that would fit on machines that get none.
    """
    resources = cluster_resources()
    if group.gpus:
        workers = _times(resources["GPU"], group.gpus)
    else:
        workers = _times(resources["CPU"], group.cpus)
    return max(1, (workers - unused) // group.workers)


def on_a_cluster() -> bool:
    """True if RAY_ADDRESS names a cluster; otherwise Ray is started for this study only."""
    return bool(os.environ.get("RAY_ADDRESS"))


def gpus_of_a_worker(asked: float | None, device: str = "auto") -> float:
    """Return the GPUs of each worker: as requested; by default one, if the cluster has or may start
    any and trials train on it.

    Args:
        device: `train.device`.
    Raises:
        UserError: trials are to train on a GPU and get none, or get some and do not use them.
    """
    found = 0.0 if device in ("cpu", "mps") else cluster_resources()["GPU"]
    gpus = min(1.0, found) if asked is None else asked
    if device == "cuda" and not gpus:
        raise UserError(
            "train.device=cuda, but no trial gets a GPU: Ray has none, or --gpus-per-worker is 0; "
            "use train.device=auto"
        )
    if device in ("cpu", "mps") and gpus:
        raise UserError(
            f"--gpus-per-worker {gpus:g} with train.device={device}, which uses none of them: "
            "leave one of the two out"
        )
    return gpus


def refuse_on_this_machine(workers: int, threads: float, gpus: float | None) -> None:
    """Refuse a trial that this machine cannot run, before Ray is started. The size of a cluster is
    not known before that.

    Args:
        gpus: requested GPUs of each worker.
    Raises:
        UserError: see `refuse_what_never_fits`.
    """
    if on_a_cluster():
        return
    resources = cluster_resources() if ray.is_initialized() else machine_resources()
    if gpus is None:
        gpus = 1.0 if resources["GPU"] else 0.0
    _refuse(WorkerGroup(workers, threads, gpus), resources)


def refuse_what_never_fits(group: WorkerGroup) -> None:
    """Refuse a trial that the cluster cannot run, before any starts.

    A cluster at RAY_ADDRESS may grow in ways that are not known here, so a single worker waits
    there for its machine.

    Raises:
        UserError: one trial needs more than the machine or the cluster can have.
    """
    _refuse(group, cluster_resources())


def _refuse(group: WorkerGroup, resources: dict[str, float]) -> None:
    """Refuse a trial that needs more than these CPUs and GPUs."""
    for name, each, option in (
        ("CPU", group.cpus, "--set train.threads"),
        ("GPU", group.gpus, "--gpus-per-worker"),
    ):
        available = resources[name]
        needed = each * group.workers
        if needed <= available:
            continue
        if group.workers > 1:
            raise UserError(
                f"--workers {group.workers} need {needed:g} {name}s, and Ray has {available:g}; "
                f"use --workers {_times(available, each) or 1}, or a larger cluster"
            )
        if not on_a_cluster():
            raise UserError(
                f"a trial needs {each:g} {name}s ({option}), and this machine has {available:g}; "
                "ask for less, or use a cluster"
            )


def _times(available: float, each: float) -> int:
    """Number of times that `each` fits. A share belongs to a single GPU, so 1.5 GPUs hold as many
    shares as 1. It is computed in ten-thousandths, as Ray counts: in floats 1 // 0.2 is 4."""
    if each < 1:
        shares = _PARTS // round(each * _PARTS)
        return int(available) * shares
    return int(available // each)


def cluster_resources() -> dict[str, float]:
    """CPUs and GPUs of the cluster now, or at its largest if that is more."""
    now: dict[str, float] = ray.cluster_resources()
    largest: dict[str, float] = {}
    config = _cluster_config()
    if config is not None:
        largest = at_its_largest(config)
    return {name: max(now.get(name, 0.0), largest.get(name, 0.0)) for name in ("CPU", "GPU")}


def _cluster_config() -> dict[str, Any] | None:
    """The file of a cluster that grows; None if Ray does not grow."""
    if not on_a_cluster():  # Ray was started for this study only
        return None

    if on_kubernetes():
        return cluster_of_kubernetes()

    path = _CLUSTER_FILE.expanduser()
    if not path.exists():
        return None
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    return config


def machine_resources() -> dict[str, float]:
    """CPUs and GPUs that Ray will find on this machine, by Ray's own count."""
    from ray._private.accelerators import get_accelerator_manager_for_resource
    from ray._private.utils import get_num_cpus

    cpus = float(get_num_cpus())
    manager = get_accelerator_manager_for_resource("GPU")
    if manager is None:
        return {"CPU": cpus, "GPU": 0.0}
    gpus = manager.get_current_node_num_accelerators()
    visible = manager.get_current_process_visible_accelerator_ids()
    if visible is not None:
        gpus = min(gpus, len(visible))
    return {"CPU": cpus, "GPU": float(gpus)}


def at_its_largest(config: dict[str, Any]) -> dict[str, float]:
    """CPUs and GPUs of all worker nodes that a cluster file allows at a time. Each resource is
    counted as if the nodes were chosen for it."""
    node_types = config["available_node_types"]
    workers = [spec for name, spec in node_types.items() if name != config["head_node_type"]]
    return {name: _largest_sum(workers, name, config["max_workers"]) for name in ("CPU", "GPU")}


def _largest_sum(node_types: list[dict[str, Any]], resource: str, max_workers: int) -> float:
    """Largest amount of a resource that `max_workers` nodes can have."""
    remaining = max_workers
    total = 0.0
    for spec in sorted(node_types, key=lambda spec: -spec["resources"].get(resource, 0)):
        count = min(spec.get("max_workers", max_workers), remaining)
        remaining -= count
        total += count * spec["resources"].get(resource, 0)
    return total
