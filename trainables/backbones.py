"""Backbones without their classification head, and the file a trained one is exported to."""

import json
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models import resnet18, resnet50
from torchvision.models.resnet import BasicBlock

from trainables.config import Annotated, Field, config
from trainables.errors import UserError

_REMEDY = "give a backbone exported by a trial, or a state_dict"


@config
class BackboneConfig:
    """A residual network whose output is its averaged last feature map."""

    name: Literal["tiny", "resnet18", "resnet50"] = "tiny"
    """tiny: 3 basic blocks, for 28-32 px images on a CPU; resnet18, resnet50: torchvision's (He et al. 2016)."""
    width: Annotated[int, Field(ge=8, le=256)] = 32
    """tiny only: channels of the first block, in [8, 256]; the others have 2 and 4 times as many."""
    pool: Annotated[int, Field(ge=1, le=8)] = 4
    """tiny only: side of the pooled last map, in [1, 8]; D = 4 width pool^2. 1 is a global average, which loses the layout."""
    small_stem: bool = False
    """3x3 stem of stride 1 and no max-pool (He et al. 2016, section 4.2), for images up to 64 px.
    False: torchvision's 7x7 stem of stride 2 with max-pool; in tiny a 3x3 stem of stride 2, 4 times as fast as stride 1."""
    zero_init_residual: bool = False
    """Start every residual branch at zero (Goyal et al. 2017, section 5.1)."""


class TinyResNet(nn.Module):
    """ResNet of 3 basic blocks: widths w, 2w, 4w, strides 1, 2, 2, after a 3x3 stem. Modules bear the names of torchvision's ResNet.

    Args:
        width: channels w of stem and first block.
        pool: side of the grid to which the last map is averaged. Letters and digits differ by layout: a grid keeps it, as Conv-4 of
            few-shot learning does by flattening its last map.
        stem_stride: 2 halves the image first: at 28 px the last map is 4x4. 1 leaves it 7x7 at 4 times the cost.
        in_channels: channels of the images.
    """

    def __init__(self, width: int, pool: int = 4, stem_stride: int = 2, in_channels: int = 3):
        super().__init__()
        self.feature_dim = 4 * width * pool**2
        self.conv1 = nn.Conv2d(in_channels, width, 3, stem_stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = BasicBlock(width, width)
        self.layer2 = _halving_block(width, 2 * width)
        self.layer3 = _halving_block(2 * width, 4 * width)
        self.avgpool = nn.AdaptiveAvgPool2d(pool)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _init_conv(module)

    def forward(
        self,
        images: Tensor,  # (B, C, H, W)
    ) -> Tensor:  # (B, 4 width pool^2)
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.avgpool(x).flatten(1)


def build_backbone(cfg: BackboneConfig, in_channels: int = 3) -> nn.Module:
    """Randomly initialised backbone, (B, in_channels, H, W) images -> (B, D) pooled features; D is its attribute `feature_dim`."""
    if cfg.name == "tiny":
        tiny = TinyResNet(cfg.width, cfg.pool, stem_stride=1 if cfg.small_stem else 2, in_channels=in_channels)
        if cfg.zero_init_residual:
            for block in (tiny.layer1, tiny.layer2, tiny.layer3):
                nn.init.zeros_(block.bn2.weight)
        return tiny
    net = {"resnet18": resnet18, "resnet50": resnet50}[cfg.name](weights=None, zero_init_residual=cfg.zero_init_residual)
    net.feature_dim = net.fc.in_features
    net.fc = nn.Identity()
    if cfg.small_stem:
        net.conv1 = nn.Conv2d(in_channels, 64, 3, stride=1, padding=1, bias=False)
        net.maxpool = nn.Identity()
        _init_conv(net.conv1)
    elif in_channels != 3:
        net.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        _init_conv(net.conv1)
    return net


def _halving_block(channels: int, out_channels: int) -> BasicBlock:
    shortcut = nn.Sequential(nn.Conv2d(channels, out_channels, 1, stride=2, bias=False), nn.BatchNorm2d(out_channels))
    return BasicBlock(channels, out_channels, stride=2, downsample=shortcut)


def _init_conv(conv: nn.Conv2d) -> None:
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's ResNet does


def save_backbone(path: Path, backbone: nn.Module, meta: dict[str, Any]) -> None:
    """Write {"state_dict": weights on the CPU, without a head `fc`, "meta": `meta`}; `path` holds the old file or all of the new one.

    Args:
        meta: anything JSON can hold: the config, the trial it comes from, its metrics.
    """
    path = Path(path)
    state = {
        key: value.detach().to("cpu", copy=True).contiguous() for key, value in backbone.state_dict().items() if not key.startswith("fc.")
    }
    payload = {"state_dict": state, "meta": json.loads(json.dumps(meta))}
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            torch.save(payload, file)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load_backbone_state(path: Path) -> dict[str, Tensor]:
    """The weights that `save_backbone` wrote, or a plain state_dict such as torchvision's, on the CPU and without a head `fc`.

    Only tensors and plain values are unpickled. Load it with `strict=True`: a head is neither in the state nor in the backbone.

    Raises:
        UserError: no such file, or not a state_dict.
    """
    payload = _read(path)
    state = payload.get("state_dict", payload)
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"backbone file {str(path)!r} holds no state_dict; {_REMEDY}")
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


def load_backbone_meta(path: Path) -> dict[str, Any]:
    """The `meta` that `save_backbone` wrote; {} for a plain state_dict. Raises UserError as `load_backbone_state` does."""
    return dict(_read(path).get("meta", {}))


def _read(path: Path) -> dict[str, Any]:
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"no backbone file {str(path)!r}; {_REMEDY}") from None
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
        raise UserError(f"backbone file {str(path)!r} cannot be read as weights saved by torch.save; {_REMEDY}") from None
    if not isinstance(payload, dict):
        raise UserError(f"backbone file {str(path)!r} holds a {type(payload).__name__}, no state_dict; {_REMEDY}")
    return payload
