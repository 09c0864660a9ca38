"""Machines of a cluster that get no more trials, because every trial fails there.

Ray labels each machine with its id, and a placement group may ask for machines with other labels. A
trial's request is made when the trial is handed out. Trials that were already waiting for a process
may still reach such a machine once, and are handed out again.
"""

import ray

from tune.execution.capacity import ConcurrencyLimit, workers_on
from tune.execution.worker_group import WorkerGroup


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
