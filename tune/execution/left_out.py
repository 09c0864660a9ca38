"""Machines of a cluster that get no trials any more, as every trial fails there.

Ray gives each machine a label with its id, and a placement group may ask for machines whose labels
are others. A trial's request is made when it is handed out; those that were waiting for a process
before may still come to such a machine once, and are handed out again.
"""

from typing import Any

import ray
from ray.tune import PlacementGroupFactory

from tune.execution.worker_group import WorkerGroup

WITHOUT = "without"
"""Key of a Tune config: ids of the machines that the trial must not run on."""
_NODE_ID = "ray.io/node-id"


class LeftOut:
    """The machines, of trials of one worker; those of several are placed by Ray Train.

    Args:
        group: what a trial needs.

    Attributes:
        ids: those of the machines, as Ray names them.
    """

    def __init__(self, group: WorkerGroup):
        self.ids: list[str] = []
        self._group = group

    def add(self, address: str) -> bool:
        """Leave a machine out; False where no other one would be there for a trial."""
        if self._group.workers > 1:
            return False

        theirs = []
        others = 0
        for node in ray.nodes():
            if not node["Alive"] or node["NodeID"] in self.ids:
                continue
            if node["NodeManagerAddress"] == address:
                theirs.append(node["NodeID"])
            elif self._is_enough(node["Resources"]):
                others += 1

        if not theirs or not others:
            return False
        self.ids += theirs
        return True

    def _is_enough(self, resources: dict[str, float]) -> bool:
        """True for what a machine has where a trial fits."""
        cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
        return cpus >= self._group.cpus and gpus >= self._group.gpus


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
        others = f"!in({','.join(without)})"
        return PlacementGroupFactory([self._bundle], bundle_label_selector=[{_NODE_ID: others}])
