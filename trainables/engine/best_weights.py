"""The weights of a trial's best epoch until they are written to `best.pt`."""

from pathlib import Path
from typing import Any

from torch import Tensor

from trainables.base import Trainable


class BestWeights:
    """The weights that a trainable has now, or a copy of them.

    Args:
        meta: epoch and value, written into the file.
    """

    def __init__(self, trainable: Trainable[Any, Any], meta: dict[str, Any]):
        self._trainable = trainable
        self._meta = meta
        self._copy: dict[str, Tensor] | None = None

    def copy(self) -> None:
        """Keep the weights in memory, because training continues before they are exported."""
        self._copy = _copied(self._trainable)

    def export(self, path: Path) -> None:
        """Write the weights. The trainable keeps those that it has."""
        if self._copy is None:
            self._trainable.export(path, self._meta)
            return

        current = _copied(self._trainable)
        self._trainable.load_changing_state(self._copy)
        self._trainable.export(path, self._meta)
        self._trainable.load_changing_state(current)


def _copied(trainable: Trainable[Any, Any]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in trainable.changing_state().items()}
