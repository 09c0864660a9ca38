"""The file to which a trained backbone is exported."""

import argparse
import functools
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainables.backbone.checkpoints import FoundWeights, find_weights
from trainables.backbone.networks import FC_UNITS, head_prefix
from trainables.backbone.timm_networks import in_timms_form
from trainables.data.seen import SeenRecord
from trainables.errors import UserError
from trainables.files import atomic_file
from trainables.packages import install

# Types that tools store beside weights and that cannot run code: options (DINO), NumPy numbers.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
    np.dtypes.Int64DType,
]
_SAFETENSORS = ".safetensors"
_KEPT_BYTES = 16 << 20  # largest file whose content stays in memory
_REMEDY = "give a backbone exported by a trial, or a state_dict"


def save_backbone(
    path: Path,
    backbone: nn.Module,
    meta: dict[str, Any],
    head: nn.Module | None = None,
    seen: SeenRecord | None = None,
) -> None:
    """Write {"state_dict": weights on the CPU, without a head `fc`, "meta": `meta`, ...}. After a
    kill, `path` holds the old file or the complete new one.

    Args:
        meta: anything that JSON can hold: the config, the trial it comes from, its metrics.
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
    """Read the weights that `save_backbone` wrote, onto the CPU and without a head `fc`.

    Only tensors and plain values are unpickled. Load the state with `strict=True`, because neither
    it nor the backbone has a head.

    Raises:
        UserError: the file does not exist, or is not a state_dict.
    """
    payload = _read(path)
    state = payload.get("state_dict", payload)
    if not _is_state_dict(state):
        raise UserError(f"backbone file {str(path)!r} contains no state_dict; {_REMEDY}")
    return _without_fc(state)


def load_weights(path: Path, backbone: nn.Module) -> FoundWeights:
    """Read the weights of `backbone`, and of a head if there is one, from a file of any tool; see
    `find_weights`.

    Only tensors and plain values are unpickled.

    Raises:
        UserError: the file does not exist, or contains no named tensors.
    """
    found = find_weights(_read(path), backbone)
    if found is None:
        raise UserError(f"backbone file {str(path)!r} contains no state_dict; {_REMEDY}")
    if hasattr(backbone, "timm_name"):
        return replace(found, state=in_timms_form(found.state, backbone))
    return found


def load_backbone_meta(path: Path) -> dict[str, Any]:
    """Read the `meta` that `save_backbone` wrote; {} for a plain state_dict.

    Raises:
        UserError: as in `load_backbone_state`.
    """
    meta = _read(path).get("meta")
    return dict(meta) if isinstance(meta, dict) else {}


def load_seen(path: Path) -> SeenRecord:
    """Read the record of what a backbone was trained on. A file without one gives an incomplete
    record without trainings.

    Raises:
        UserError: the record cannot be read; or as in `load_backbone_state`.
    """
    payload = _read(path).get("seen")
    if not isinstance(payload, dict):
        return SeenRecord(complete=False)
    return SeenRecord.from_payload(payload)


def load_head_state(path: Path) -> dict[str, Tensor]:
    """Read the `head` that `save_backbone` wrote.

    Raises:
        UserError: the file has no head; or as in `load_backbone_state`.
    """
    head = _read(path).get("head")
    if not isinstance(head, dict):
        raise UserError(
            f"backbone file {str(path)!r} contains no classification head; "
            "give one exported by a classification trial"
        )
    return head


def load_fc_state(path: Path, backbone: nn.Module, name: str) -> dict[str, Tensor] | None:
    """Read `weight` (1000, D) and `bias` (1000,) of ImageNet's classification layer from a file
    with weights of `backbone`, torchvision's network `name`; None if the file has no such layer.

    Raises:
        UserError: as in `load_backbone_state`.
    """
    state = load_weights(path, backbone).state
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


def _read(path: Path) -> Mapping[str, Any]:
    """Read a weights file. The result is shared, so callers must not change it.

    Unpickling even a small file takes longer than some trials on cached features. So a process,
    which runs many trials, keeps the last files in memory.
    """
    try:
        about = path.stat()
    except OSError:
        return _read_anew(path)  # reports what is wrong
    if about.st_size > _KEPT_BYTES:
        return _read_anew(path)
    return _read_once(path, (about.st_ino, about.st_size, about.st_mtime_ns))


@functools.lru_cache(maxsize=2)
def _read_once(path: Path, version: tuple[int, ...]) -> Mapping[str, Any]:
    return _read_anew(path)


def _read_anew(path: Path) -> dict[str, Any]:
    if path.suffix == _SAFETENSORS and path.is_file():
        return _read_safetensors(path)
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            payload = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"no backbone file {str(path)!r}; {_REMEDY}") from None
    except Exception:  # torch has no specific error: KeyError, ValueError, IndexError, ...
        raise UserError(_unreadable(path)) from None

    if not isinstance(payload, dict):
        found = type(payload).__name__
        raise UserError(
            f"backbone file {str(path)!r} contains a {found}, not a state_dict; {_REMEDY}"
        )
    return payload


def _read_safetensors(path: Path) -> dict[str, Any]:
    """Read the tensors of a safetensors file, the format in which timm publishes weights."""
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(
            f"backbone file {str(path)!r} needs the package safetensors: {install('safetensors')}"
        ) from None

    try:
        return dict(load_file(path))
    except Exception:  # the package's own error, or OSError
        raise UserError(
            f"backbone file {str(path)!r} cannot be read as safetensors; {_REMEDY}"
        ) from None


def _unreadable(path: Path) -> str:
    """Explain why `torch.load` reads no weights from a file, with the remedy."""
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            classes = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # not a torch.save file at all
        classes = []
    if not classes:
        return (
            f"backbone file {str(path)!r} cannot be read as weights saved by torch.save; {_REMEDY}"
        )

    more = ", ..." if len(classes) > 1 else ""
    return (
        f"backbone file {str(path)!r} contains more than weights ({min(classes)}{more}), which "
        "could run code and is not read; where it comes from, save its state_dict alone: "
        "torch.save(checkpoint['state_dict'], file)"
    )
