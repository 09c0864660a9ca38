"""Machines of a cluster that get no more trials, because every trial fails there.

Ray labels each machine with its id, and a placement group may ask for machines with other labels. A
trial's request is made when the trial is handed out. Trials that were already waiting for a process
may still reach such a machine once, and are handed out again.
"""

from typing import Any

import ray
from ray.tune import PlacementGroupFactory

from tune.execution.capacity import ConcurrencyLimit, workers_on
from tune.execution.worker_group import WorkerGroup, others_than

WITHOUT = "without"
"""Key of a Tune config: ids of machines that the trial must not run on."""


class LeftOut:
    """The machines that are left out.

    Args:
        group: resources that a trial needs.
        limit: number of concurrent trials; it shrinks when a machine is left out.

    Attributes:
        ids: ids of the machines, as Ray names them.
    """

    def __init__(self, group: WorkerGroup, limit: ConcurrencyLimit):
        self.ids: list[str] = []
        self._group = group
        self._limit = limit

    def add(self, address: str) -> bool:
        """Leave a machine out; False if the others have no capacity for a trial."""
        ids = []
        here = 0
        elsewhere = 0
        for node in ray.nodes():
            if not node["Alive"] or node["NodeID"] in self.ids:
                continue
            workers = workers_on(node["Resources"], self._group)
            if node["NodeManagerAddress"] == address:
                ids.append(node["NodeID"])
                here += workers
            else:
                elsewhere += workers

        if not ids or elsewhere < self._group.workers:
            return False
        self.ids += ids
        if self._group.workers > 1:  # one worker waits for its place without giving up
            self._limit.leave_out(here)
        return True


class Request:
    """Makes the resource request of a one-worker trial from its Tune config.

    Args:
        group: resources that a trial needs.
    """

    def __init__(self, group: WorkerGroup):
        self._bundle = {"CPU": group.cpus, "GPU": group.gpus}
        self._plain = PlacementGroupFactory([self._bundle])

    def __call__(self, config: dict[str, Any]) -> PlacementGroupFactory:
        without = config.get(WITHOUT)
        if not without:
            return self._plain
        return PlacementGroupFactory([self._bundle], bundle_label_selector=[others_than(without)])
