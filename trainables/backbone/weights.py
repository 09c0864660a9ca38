"""Trained weights into a backbone, with proof: which tensors matched, and that they changed. Never
a silent random start."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainables.backbone.export import load_backbone_meta, load_backbone_state
from trainables.backbone.networks import BackboneConfig, head_prefix
from trainables.errors import UserError
from trainables.files import content_hash

_SHOWN = 3  # keys in a message


@dataclass(frozen=True)
class Loaded:
    """What loading did."""

    matched: int
    """Tensors of the backbone that came from the file: all of them."""
    changed: int
    """Tensors whose values are others than before."""
    ignored: tuple[str, ...]
    """Keys of a classification head in the file, which a backbone has no place for."""

    def __str__(self) -> str:
        head = f", {len(self.ignored)} of a head left out" if self.ignored else ""
        return f"{self.matched} of {self.matched} tensors matched, {self.changed} changed{head}"


def load_backbone(
    backbone: nn.Module, config: BackboneConfig, path: Path, sha256: str = ""
) -> Loaded:
    """Replace every weight and statistic of `backbone` (built from `config`) by those of a file.

    Args:
        path: written by `save_backbone`, or a plain state_dict such as torchvision's, with or
            without its head.
        sha256: of the file's content, as `content_hash` gives it; "" is not compared.
    Raises:
        UserError: not readable, another content than `sha256`, a tensor that is missing, left over
            or of another shape, weights that are not finite, or a file that changes nothing.
    """
    state = load_backbone_state(path)
    _check_architecture(config, load_backbone_meta(path).get("backbone", {}), path)
    if sha256 and (found := content_hash(path)) != sha256:
        raise UserError(
            f"backbone file {path} is not the one that was chosen (sha256 {found[:12]}, not {sha256[:12]}); restore that file"
        )
    prefix = head_prefix(config.name)
    own = backbone.state_dict()
    given = {key: value for key, value in state.items() if key in own or not key.startswith(prefix)}
    _check(own, given, f"backbone file {path} does not fit backbone.name={config.name}")
    changed = sum(not torch.equal(value.cpu(), given[key].cpu()) for key, value in own.items())
    if not changed:
        raise UserError(
            f"backbone file {path} leaves every weight as it was: it holds an untrained network; give a trained one"
        )
    backbone.load_state_dict(given, strict=True)
    return Loaded(len(own), changed, tuple(key for key in state if key not in given))


def _check_architecture(config: BackboneConfig, trained: Mapping[str, Any], path: Path) -> None:
    """The stride of a stem leaves every shape as it is, and the features others than were learned.
    `pool` belongs to the reader: a head may look at another grid of the same maps."""
    keys = (
        ("name", "small_stem", "width")
        if config.name in ("tiny", "cnn", "conv4", "resnet12")
        else ("name", "small_stem")
    )
    differing = [key for key in keys if key in trained and trained[key] != getattr(config, key)]
    if differing:
        was, now = (
            ", ".join(f"backbone.{key}={value(key)}" for key in differing)
            for value in (trained.get, lambda k: getattr(config, k))
        )
        remedy = " ".join(f"--set backbone.{key}={trained[key]}" for key in differing)
        raise UserError(
            f"backbone file {path} was trained with {was}, this run has {now}; add {remedy}, or give another file"
        )


def _check(own: Mapping[str, Tensor], given: Mapping[str, Tensor], what: str) -> None:
    matching = [key for key in own if key in given and given[key].shape == own[key].shape]
    shapes = [
        f"{k} {tuple(given[k].shape)} for {tuple(own[k].shape)}"
        for k in own
        if k in given and given[k].shape != own[k].shape
    ]
    problems = {
        "missing": [key for key in own if key not in given],
        "left over": [key for key in given if key not in own],
        "of another shape": shapes,
    }
    found = [f"{len(keys)} {kind} ({_few(keys)})" for kind, keys in problems.items() if keys]
    if found:
        remedy = "choose the architecture with --set backbone.name=..., backbone.width=... or give another file"
        raise UserError(
            f"{what}: {len(matching)} of {len(own)} tensors match; {'; '.join(found)}; {remedy}"
        )
    broken = [
        key for key in own if own[key].is_floating_point() and not given[key].isfinite().all()
    ]
    if broken:
        raise UserError(f"{what}: {broken[0]} holds values that are not finite; give another file")


def _few(keys: list[str]) -> str:
    return ", ".join(keys[:_SHOWN]) + (", ..." if len(keys) > _SHOWN else "")
