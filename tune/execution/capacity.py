"""How many trials a cluster holds: with the machines that it has or, on the head of one that grows,
with all that it may start."""

import math
import os
import time
from pathlib import Path
from typing import Any

import ray
import yaml

from trainables.errors import UserError
from tune.execution.worker_group import WorkerGroup

# `ray up` leaves the cluster file here on the head, with the resources of each kind of machine
# filled in; the autoscaler reads it too.
_CLUSTER_FILE = Path("~/ray_bootstrap_config.yaml")
_LOOK_S = 5.0
_PARTS = 10_000


class ConcurrencyLimit:
    """Trials at a time: `concurrent`, or what the cluster holds. Asked for often, so looked up
    every few seconds, as machines come and go.

    Trials that wait for a machine are what makes an autoscaler start one: with a limit of what runs
    already, none would ever be started."""

    def __init__(self, group: WorkerGroup, concurrent: int | None):
        self.group, self.concurrent = group, concurrent
        self._looked_at, self._trials = -math.inf, 1

    def __call__(self) -> int:
        if self.concurrent is None and time.monotonic() - self._looked_at > _LOOK_S:
            have, group = cluster_resources(), self.group
            fits = (
                _times(have["GPU"], group.gpus) if group.gpus else _times(have["CPU"], group.cpus)
            )
            self._looked_at, self._trials = time.monotonic(), max(1, fits // group.workers)
        return self.concurrent or self._trials


def on_a_cluster() -> bool:
    """Whether RAY_ADDRESS names one; else Ray is started for this study alone."""
    return bool(os.environ.get("RAY_ADDRESS"))


def gpus_of_a_worker(asked: float | None) -> float:
    """What was asked for; else one where the cluster has or may start any."""
    if asked is not None:
        return asked
    return 1.0 if cluster_resources()["GPU"] else 0.0


def refuse_what_never_fits(group: WorkerGroup) -> None:
    """Before any trial. A cluster of RAY_ADDRESS may grow in ways that nobody here knows of: there
    a single worker waits for its machine.

    Raises:
        UserError: one trial needs more than the machine or the cluster can have.
    """
    have = cluster_resources()
    for name, each, option in (
        ("CPU", group.cpus, "--set train.threads"),
        ("GPU", group.gpus, "--gpus-per-worker"),
    ):
        if group.workers > 1 and each * group.workers > have[name]:
            raise UserError(
                f"--workers {group.workers} need {each * group.workers:g} {name}s, and Ray has {have[name]:g}; "
                f"use --workers {_times(have[name], each) or 1}, or a larger cluster"
            )
        if group.workers == 1 and each > have[name] and not on_a_cluster():
            raise UserError(
                f"a trial needs {each:g} {name}s ({option}), and this machine has {have[name]:g}; ask for less, or use a cluster"
            )


def _times(have: float, each: float) -> int:
    """How often `each` is in `have`. A share is one of a single GPU. Ray counts in ten-thousandths;
    in floats 1 // 0.2 is 4."""
    return int(have) * (_PARTS // round(each * _PARTS)) if each < 1 else int(have // each)


def cluster_resources() -> dict[str, float]:
    """CPUs and GPUs of the cluster now, or at its largest if that is more."""
    now, largest = ray.cluster_resources(), {}
    path = _CLUSTER_FILE.expanduser()
    # a Ray that was started for this study alone does not grow
    if on_a_cluster() and path.exists():
        largest = at_its_largest(yaml.safe_load(path.read_text()))
    return {name: max(now.get(name, 0.0), largest.get(name, 0.0)) for name in ("CPU", "GPU")}


def at_its_largest(config: dict[str, Any]) -> dict[str, float]:
    """CPUs and GPUs of all workers that a cluster file allows at a time, each counted for
    itself."""
    workers = [
        t for name, t in config["available_node_types"].items() if name != config["head_node_type"]
    ]
    sums = {}
    for resource in ("CPU", "GPU"):
        left, total = config["max_workers"], 0.0
        for node_type in sorted(workers, key=lambda t: -t["resources"].get(resource, 0)):
            count = min(node_type.get("max_workers", config["max_workers"]), left)
            left, total = left - count, total + count * node_type["resources"].get(resource, 0)
        sums[resource] = total
    return sums
