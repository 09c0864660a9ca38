"""The runtimes of a trial. They share one interface, which is all that `engine.fit` knows.

| runtime      | when                  | how                                                      |
|--------------|-----------------------|----------------------------------------------------------|
| LocalRuntime | `--local`             | in this process, without Ray: `breakpoint()` works       |
| TuneRuntime  | a trial of one worker | in the Tune trial's process, which stays warm            |
| TrainRuntime | a trial of N workers  | in N processes of Ray Train (`worker_group.py`)          |
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from trainables.base import Metrics
from trainables.devices import choose_device


class LocalRuntime:
    """Runs in this process. After every epoch `on_report` decides whether the trial continues."""

    rank = 0
    world_size = 1

    def __init__(self, directory: Path, on_report: Callable[[int, Metrics], bool]):
        self.directory = directory
        self.device = choose_device()
        self._on_report = on_report

    def report(self, epoch: int, metrics: Metrics) -> bool:
        return self._on_report(epoch, metrics)


class TuneRuntime:
    """Runs in the process of a Ray Tune function trial. A stopped trial's thread ends inside
    `report`."""

    rank = 0
    world_size = 1

    def __init__(self, directory: Path):
        self.directory = directory
        self.device = choose_device()

    def report(self, epoch: int, metrics: Metrics) -> bool:
        self.send("report", epoch=epoch, metrics=metrics)
        return True

    def send(self, kind: str, **fields: Any) -> None:
        """Send a message to the driver and wait until it has been handled."""
        import ray.tune

        # One string: Tune would flatten a dict, and the names of metrics contain slashes.
        ray.tune.report({"message": json.dumps({"kind": kind, **fields})})


class TrainRuntime:
    """Runs in a worker of Ray Train.

    Args:
        mailbox: mailbox of the Tune trial that started the worker (`worker_group.Mailbox`).
    """

    def __init__(self, directory: Path, rank: int, world_size: int, mailbox: Any):
        self.directory = directory
        self.rank = rank
        self.world_size = world_size
        import ray.util

        self.device = choose_device()
        self._mailbox = mailbox
        self._node = ray.util.get_node_ip_address()
        # Train assigns this worker one of the GPUs that its process sees
        if self.device.type == "cuda":
            from ray.train.torch import get_device

            self.device = get_device()
            torch.cuda.set_device(self.device)

    def report(self, epoch: int, metrics: Metrics) -> bool:
        self.send("report", epoch=epoch, metrics=metrics)
        return True

    def send(self, kind: str, **fields: Any) -> None:
        """Send a message to the driver and wait until it has been handled. If the trial is stopped,
        this process is killed meanwhile."""
        self._put(self._mailbox.send, kind, fields)

    def tell(self, kind: str, **fields: Any) -> None:
        """Send a message without waiting for a reply."""
        self._put(self._mailbox.tell, kind, fields)

    def _put(self, method: Any, kind: str, fields: Mapping[str, Any]) -> None:
        import ray

        message = {"kind": kind, "node": self._node, **fields}
        ray.get(method.remote(json.dumps(message)))
