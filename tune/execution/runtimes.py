"""Where a trial runs. `engine.fit` sees one interface and knows none of this.

| runtime      | when                     | how                                                                                        |
|--------------|--------------------------|--------------------------------------------------------------------------------------------|
| LocalRuntime | `--local`                | in this process; no Ray is imported, so `breakpoint()` stops in the terminal                |
| TuneRuntime  | a trial with one worker  | in the Tune trial's own process, which stays warm and serves many trials                    |
| TrainRuntime | a trial with N workers   | in one of N processes of Ray Train, under a Tune trial: see `workers.py`                    |
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from trainables.base import Metrics


class LocalRuntime:
    """In process: `on_report` is asked after every epoch whether to go on."""

    rank = 0
    world_size = 1

    def __init__(self, directory: Path, on_report: Callable[[int, Metrics], bool]):
        self.directory = directory
        self.device = best_device()
        self._on_report = on_report

    def report(self, epoch: int, metrics: Metrics) -> bool:
        return self._on_report(epoch, metrics)


class TuneRuntime:
    """In the process of a Ray Tune function trial. A stopped trial's thread ends inside
    `report`."""

    rank = 0
    world_size = 1

    def __init__(self, directory: Path):
        self.directory = directory
        self.device = best_device()

    def report(self, epoch: int, metrics: Metrics) -> bool:
        self.send("report", epoch=epoch, metrics=metrics)
        return True

    def send(self, kind: str, **fields: Any) -> None:
        """Hand a message to the driver and wait until it has dealt with it."""
        import ray.tune

        # One string: Tune flattens dicts, and a metric's own name has slashes in it.
        ray.tune.report({"message": json.dumps({"kind": kind, **fields})})


class TrainRuntime:
    """In a worker of Ray Train. `said` and `heard` are queues to and from the Tune trial that
    started it (`ray.util.queue.Queue`)."""

    def __init__(self, directory: Path, rank: int, world_size: int, said: Any, heard: Any):
        self.directory, self.rank, self.world_size = directory, rank, world_size
        self.device = best_device()
        self._said, self._heard = said, heard
        # Train has given this worker a GPU of those that its process sees
        if self.device.type == "cuda":
            from ray.train.torch import get_device

            self.device = get_device()
            torch.cuda.set_device(self.device)

    def report(self, epoch: int, metrics: Metrics) -> bool:
        self.send("report", epoch=epoch, metrics=metrics)
        return True

    def send(self, kind: str, **fields: Any) -> None:
        """Hand a message to the driver and wait until it has dealt with it; a stopped trial's
        process is killed meanwhile."""
        self._said.put(json.dumps({"kind": kind, **fields}))
        self._heard.get()


def best_device() -> torch.device:
    """The GPU that this process may see, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
