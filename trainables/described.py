"""The description of an exported model: what it must know of its trial besides its weights."""

from collections.abc import Mapping
from typing import Any

from trainables.served import served_as, served_config


def describe_model(trainable: type, flat: Mapping[str, Any], data: Any) -> dict[str, Any]:
    """Collect what `Served` must know of a trial besides its weights, as JSON.

    Args:
        trainable: class that was trained.
        flat: the trial's flat config.
        data: the data set that it was trained on.
    Raises:
        UserError: no model of this class can predict outside of its study.
    """
    kind = served_as(trainable)
    return {
        "kind": kind,
        "config": served_config(kind, flat),
        "classes": list(data.classes),
        "colors": [list(color) for color in data.colors],
        "labelled": data.gallery is not None,
        "levels": _levels(data),
    }


def _levels(data: Any) -> list[float] | None:
    """Range of values that became 0 to 255, of data of more than 8 bits."""
    levels = getattr(data, "levels", None)
    return None if levels is None else [levels.low, levels.high]
