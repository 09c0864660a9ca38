"""Description of an exported model: everything besides its weights that prediction needs."""

from collections.abc import Mapping
from typing import Any

from trainables.served import served_as, served_config


def describe_model(trainable: type, flat: Mapping[str, Any], data: Any) -> dict[str, Any]:
    """Collect everything besides the weights that `Served` needs of a trial, as JSON.

    Args:
        trainable: class that was trained.
        flat: the trial's flat config.
        data: the data set that the model was trained on.
    Raises:
        UserError: models of this class cannot predict outside their study.
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
    """Range of values that was mapped to 0 to 255, for data of more than 8 bits."""
    levels = getattr(data, "levels", None)
    return None if levels is None else [levels.low, levels.high]
