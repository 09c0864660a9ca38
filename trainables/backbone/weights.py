"""Loading of trained weights into a backbone, with checks that all tensors matched and that some
changed. So a run never starts from random weights unnoticed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainables.backbone.export import load_backbone_meta, load_weights
from trainables.backbone.networks import BackboneConfig, head_prefix
from trainables.errors import UserError
from trainables.files import content_hash

# Most keys named in a message.
_SHOWN = 3
# Backbones whose features depend on `width`.
_WITH_WIDTH = ("tiny", "cnn", "conv4", "resnet12")


@dataclass(frozen=True)
class Loaded:
    """Result of loading."""

    matched: int
    """Number of the backbone's tensors that came from the file: all of them."""
    changed: int
    """Number of tensors whose values changed."""
    ignored: tuple[str, ...]
    """Keys of a classification head in the file, which a backbone does not have."""

    names: str = ""
    """Changes to the file's names, such as `prefix module. taken off`; "" for none."""

    def __str__(self) -> str:
        clauses = [f"{self.matched} of {self.matched} tensors matched", f"{self.changed} changed"]
        if self.ignored:
            clauses.append(f"{len(self.ignored)} of a head left out")
        if self.names:
            clauses.append(self.names)
        return ", ".join(clauses)


def load_backbone(
    backbone: nn.Module, config: BackboneConfig, path: Path, sha256: str = ""
) -> Loaded:
    """Replace all weights and statistics of `backbone` (built from `config`) with those of a file.

    Args:
        path: written by `save_backbone` or another tool, with or without a head; see
            `find_weights`.
        sha256: SHA-256 that the file's content must have, see `content_hash`; "" accepts any.
    Raises:
        UserError: the file is unreadable or differs from `sha256`; a tensor is missing, left over
            or of another shape; weights are not finite; or loading changes nothing.
    """
    found = load_weights(path, backbone)
    _check_architecture(config, load_backbone_meta(path).get("backbone", {}), path)
    _check_content(path, sha256)

    own = backbone.state_dict()
    prefix = head_prefix(config.name)
    ignored = [key for key in found.state if key not in own and key.startswith(prefix)]
    given = {key: value for key, value in found.state.items() if key not in ignored}
    _add_counters(own, given)

    misfit = f"backbone file {path} does not fit backbone.name={config.name}"
    if str(found):
        misfit += f" ({found})"
    _check_keys_and_shapes(own, given, misfit)
    _check_kinds(given, misfit)
    _check_finite(own, given, misfit)
    changed = 0
    for key, value in own.items():
        if not torch.equal(value.cpu(), given[key].to("cpu", value.dtype)):
            changed += 1
    if not changed:
        raise UserError(
            f"backbone file {path} leaves every weight as it was: "
            "it contains an untrained network; give a trained one"
        )

    backbone.load_state_dict(given, strict=True)
    return Loaded(len(own), changed, tuple(ignored), str(found))


def _check_architecture(config: BackboneConfig, trained: Mapping[str, Any], path: Path) -> None:
    """Check settings that shapes do not reveal. Another stride of the stem, for example, keeps all
    shapes but gives other features than those learned.

    `pool` may differ, because a head may use another grid of the same maps.
    """
    keys = ["name", "small_stem"]
    if config.name in _WITH_WIDTH:
        keys.append("width")
    known = [key for key in keys if key in trained]
    differing = [key for key in known if trained[key] != getattr(config, key)]
    if not differing:
        return

    was = ", ".join(f"backbone.{key}={trained[key]}" for key in differing)
    now = ", ".join(f"backbone.{key}={getattr(config, key)}" for key in differing)
    remedy = " ".join(f"--set backbone.{key}={trained[key]}" for key in differing)
    raise UserError(
        f"backbone file {path} was trained with {was}, this run has {now}; "
        f"add {remedy}, or give another file"
    )


def _check_content(path: Path, sha256: str) -> None:
    """Raise UserError if the file differs from the one for which the config was made."""
    if not sha256:
        return
    found = content_hash(path)
    if found != sha256:
        raise UserError(
            f"backbone file {path} is not the one that was chosen "
            f"(sha256 {found[:12]}, not {sha256[:12]}); restore that file"
        )


def _add_counters(own: Mapping[str, Tensor], given: dict[str, Tensor]) -> None:
    """Set BatchNorm's batch counters to 0 if an old file has none, as torch does for files from
    before version 0.4.1."""
    missing = [key for key in own if key not in given]
    if all(key.endswith(".num_batches_tracked") for key in missing):
        for key in missing:
            given[key] = torch.zeros_like(own[key])


def _check_keys_and_shapes(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor], misfit: str
) -> None:
    """Raise UserError if tensors are missing, left over or of another shape. The message counts
    each kind and names the first few."""
    common = [key for key in own if key in given]
    reshaped = [key for key in common if given[key].shape != own[key].shape]
    problems = {
        "missing": [key for key in own if key not in given],
        "left over": [key for key in given if key not in own],
        "of another shape": [
            f"{key} {tuple(given[key].shape)} for {tuple(own[key].shape)}" for key in reshaped
        ],
    }
    found = []
    for kind, keys in problems.items():
        if keys:
            found.append(f"{len(keys)} {kind} ({_few(keys)})")
    if not found:
        return

    matching = len(common) - len(reshaped)
    raise UserError(
        f"{misfit}: {matching} of {len(own)} tensors match; {'; '.join(found)}; "
        f"{_remedy(own, given, reshaped)} or give another file"
    )


def _remedy(own: Mapping[str, Tensor], given: Mapping[str, Tensor], reshaped: list[str]) -> str:
    """Name the option that makes the file fit, as far as shapes reveal it."""
    if reshaped == ["conv1.weight"]:
        kernels = [tuple(state["conv1.weight"].shape[2:]) for state in (given, own)]
        if kernels == [(3, 3), (7, 7)]:
            return "add --set backbone.small_stem=true"
        if kernels == [(7, 7), (3, 3)]:
            return "add --set backbone.small_stem=false"
    return "choose the architecture with --set backbone.name=..., backbone.width=..."


def _check_kinds(given: Mapping[str, Tensor], misfit: str) -> None:
    """Raise UserError if a tensor does not contain plain numbers, as in a quantized network."""
    for key, value in given.items():
        kinds = {
            "quantized": value.is_quantized,
            "complex": value.is_complex(),
            "sparse": value.layout != torch.strided,
            "empty (on torch's meta device)": value.is_meta,
        }
        found = [kind for kind, applies in kinds.items() if applies]
        if found:
            raise UserError(
                f"{misfit}: {key} is {found[0]}; save the weights as plain numbers, or give "
                "another file"
            )


def _check_finite(own: Mapping[str, Tensor], given: Mapping[str, Tensor], misfit: str) -> None:
    """Raise UserError if a tensor contains NaN or infinity."""
    for key, value in own.items():
        if value.is_floating_point() and not given[key].isfinite().all():
            raise UserError(f"{misfit}: {key} has values that are not finite; give another file")


def _few(keys: list[str]) -> str:
    """The first few names, for a message on one line."""
    shown = ", ".join(keys[:_SHOWN])
    return f"{shown}, ..." if len(keys) > _SHOWN else shown
