"""Machines of a cluster that get no trials any more, as every trial fails there.

Ray gives each machine a label with its id, and a placement group may ask for machines whose labels
are others. A trial's request is made when it is handed out; those that were waiting for a process
before may still come to such a machine once, and are handed out again.
"""

from typing import Any

import ray
from ray.tune import PlacementGroupFactory

from tune.execution.capacity import ConcurrencyLimit, workers_on
from tune.execution.worker_group import WorkerGroup, others_than

WITHOUT = "without"
"""Key of a Tune config: ids of the machines that the trial must not run on."""


class LeftOut:
    """The machines.

    Args:
        group: what a trial needs.
        limit: of trials at a time, which becomes smaller with every machine that is left out.

    Attributes:
        ids: those of the machines, as Ray names them.
    """

    def __init__(self, group: WorkerGroup, limit: ConcurrencyLimit):
        self.ids: list[str] = []
        self._group = group
        self._limit = limit

    def add(self, address: str) -> bool:
        """Leave a machine out; False where the other ones have no place for a trial."""
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
    """Makes the request for the resources of a trial of one worker from its Tune config.

    Args:
        group: what a trial needs.
    """

    def __init__(self, group: WorkerGroup):
        self._bundle = {"CPU": group.cpus, "GPU": group.gpus}
        self._plain = PlacementGroupFactory([self._bundle])

    def __call__(self, config: dict[str, Any]) -> PlacementGroupFactory:
        without = config.get(WITHOUT)
        if not without:
            return self._plain
        return PlacementGroupFactory([self._bundle], bundle_label_selector=[others_than(without)])
