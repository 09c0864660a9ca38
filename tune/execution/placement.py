"""The machines on which a trial may run, as Ray is asked for them.

Every process of a trial unpickles a `Request` before anything else, so this imports no torch.
"""

from collections.abc import Sequence
from typing import Any

from ray.tune import PlacementGroupFactory

WITHOUT = "without"
"""Key of a Tune config: ids of machines that the trial must not run on."""
_NODE_ID = "ray.io/node-id"


class Request:
    """Makes the resource request of a one-worker trial from its Tune config.

    Args:
        cpus: processors, in (0, ...).
        gpus: a share of a GPU, or a whole number.
    """

    def __init__(self, cpus: float, gpus: float):
        self._bundle = {"CPU": cpus, "GPU": gpus}
        self._plain = PlacementGroupFactory([self._bundle])

    def __call__(self, config: dict[str, Any]) -> PlacementGroupFactory:
        without = config.get(WITHOUT)
        if not without:
            return self._plain
        return PlacementGroupFactory([self._bundle], bundle_label_selector=[others_than(without)])


def others_than(nodes: Sequence[str]) -> dict[str, str]:
    """Return the label selector for all machines but these; Ray labels machines with their ids."""
    return {_NODE_ID: f"!in({','.join(nodes)})"} if nodes else {}
