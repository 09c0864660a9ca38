"""The file that a trained backbone is exported to."""

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainables.backbone.networks import FC_UNITS, head_prefix
from trainables.data.seen import SeenRecord
from trainables.errors import UserError
from trainables.files import atomic_file

_REMEDY = "give a backbone exported by a trial, or a state_dict"


def save_backbone(
    path: Path,
    backbone: nn.Module,
    meta: dict[str, Any],
    head: nn.Module | None = None,
    seen: SeenRecord | None = None,
) -> None:
    """Write {"state_dict": weights on the CPU, without a head `fc`, "meta": `meta`, ...}; after a
    kill `path` holds the old file or all of the new one.

    Args:
        meta: anything JSON can hold: the config, the trial it comes from, its metrics.
        head: written beside the backbone, as "head", for the trainable that trained it;
            `load_backbone_state` ignores it.
        seen: everything that the backbone has been trained on, written as "seen"; None: unknown.
    """
    payload: dict[str, Any] = {
        "state_dict": _without_fc(_on_cpu(backbone)),
        "meta": json.loads(json.dumps(meta)),
    }
    if head is not None:
        payload["head"] = _on_cpu(head)
    if seen is not None:
        payload["seen"] = seen.to_payload()

    with atomic_file(path) as file:
        torch.save(payload, file)


def load_backbone_state(path: Path) -> dict[str, Tensor]:
    """Read the weights that `save_backbone` wrote, or a plain state_dict such as torchvision's,
    onto the CPU and without a head `fc`.

    Only tensors and plain values are unpickled. Load it with `strict=True`: a head is neither in
    the state nor in the backbone.

    Raises:
        UserError: no such file, or not a state_dict.
    """
    payload = _read(path)
    state = payload.get("state_dict", payload)
    if not _is_state_dict(state):
        raise UserError(f"backbone file {str(path)!r} holds no state_dict; {_REMEDY}")
    return _without_fc(state)


def load_backbone_meta(path: Path) -> dict[str, Any]:
    """Read the `meta` that `save_backbone` wrote; {} for a plain state_dict.

    Raises:
        UserError: as `load_backbone_state` does.
    """
    return dict(_read(path).get("meta", {}))


def load_seen(path: Path) -> SeenRecord:
    """Read what a backbone has been trained on; an incomplete record without trainings for a file
    that does not say.

    Raises:
        UserError: the record cannot be read, or as `load_backbone_state` does.
    """
    payload = _read(path).get("seen")
    if not isinstance(payload, dict):
        return SeenRecord(complete=False)
    return SeenRecord.from_payload(payload)


def load_head_state(path: Path) -> dict[str, Tensor]:
    """Read the `head` that `save_backbone` wrote.

    Raises:
        UserError: none in the file, or as `load_backbone_state` does.
    """
    head = _read(path).get("head")
    if not isinstance(head, dict):
        raise UserError(
            f"backbone file {str(path)!r} holds no classification head; "
            "give one exported by a classification trial"
        )
    return head


def load_fc_state(path: Path, name: str) -> dict[str, Tensor] | None:
    """Read `weight` (1000, D) and `bias` (1000,) of ImageNet's classification layer from a
    state_dict of torchvision's network `name`; None if it has no such layer.

    Raises:
        UserError: as `load_backbone_state` does.
    """
    payload = _read(path)
    state = payload.get("state_dict", payload)
    prefix = head_prefix(name)
    layer = {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
    }
    if layer.keys() != {"weight", "bias"} or len(layer["bias"]) != FC_UNITS:
        return None
    return layer


def _on_cpu(module: nn.Module) -> dict[str, Tensor]:
    return {
        key: value.detach().to("cpu", copy=True).contiguous()
        for key, value in module.state_dict().items()
    }


def _without_fc(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


def _is_state_dict(state: Any) -> bool:
    if not isinstance(state, dict) or not state:
        return False
    return all(isinstance(value, Tensor) for value in state.values())


def _read(path: Path) -> dict[str, Any]:
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"no backbone file {str(path)!r}; {_REMEDY}") from None
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
        raise UserError(
            f"backbone file {str(path)!r} cannot be read as weights saved by torch.save; {_REMEDY}"
        ) from None

    if not isinstance(payload, dict):
        found = type(payload).__name__
        raise UserError(f"backbone file {str(path)!r} holds a {found}, no state_dict; {_REMEDY}")
    return payload
