"""Backbones without their classification head, their stages, and the file a trained one is exported
to."""

import json
import pickle
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trainables.config import Annotated, Field, config
from trainables.errors import UserError
from trainables.files import atomic_file

FC_UNITS = 1000
"""Outputs of the classification layer `fc` of ImageNet's networks."""
_REMEDY = "give a backbone exported by a trial, or a state_dict"


_RESNETS = ("resnet18", "resnet50", "resnet101")
_VGGS = ("vgg16", "vgg16_bn", "vgg19")


@config
class BackboneConfig:
    """A network whose output is its last representation before a classification head."""

    name: Literal[
        "tiny",
        "cnn",
        "conv4",
        "resnet12",
        "resnet18",
        "resnet50",
        "resnet101",
        "vgg16",
        "vgg16_bn",
        "vgg19",
        "convnext_base",
    ] = "tiny"
    """tiny: 3 residual blocks, for 28-32 px images on a CPU; cnn: 2 convolutions (the reports');
    conv4: the 4 blocks of few-shot learning (Snell et al. 2017, section 3.1); resnet12: its
    residual successor (Lee et al. 2019, section 4.2); the others are torchvision's (He et al. 2016;
    Simonyan & Zisserman 2015; Liu et al. 2022)."""
    width: Annotated[int, Field(ge=8, le=256)] = 32
    """tiny, cnn, conv4, resnet12: channels of the first block, in [8, 256]. The others have 2 and 4
    times as many (tiny), twice (cnn), 2.5, 5 and 10 times (resnet12), or the same (conv4). conv4
    and resnet12 have 64 in the literature."""
    pool: Annotated[int, Field(ge=1, le=8)] = 4
    """tiny, cnn, conv4, resnet12: side of the grid to which the last map is averaged, in [1, 8]. 1
    is a global average, which loses the layout."""
    small_stem: bool = False
    """tiny and ResNets: 3x3 stem of stride 1 and no max-pool (He et al. 2016, section 4.2), for
    images up to 64 px. False: torchvision's 7x7 stem of stride 2 with max-pool; in tiny a 3x3 stem
    of stride 2, 4 times as fast as stride 1."""
    zero_init_residual: bool = False
    """tiny and ResNets: start every residual branch at zero (Goyal et al. 2017, section 5.1)."""

    def __post_init__(self) -> None:
        residual = self.name == "tiny" or self.name in _RESNETS
        if not residual and (self.small_stem or self.zero_init_residual):
            raise ValueError(
                f"small_stem and zero_init_residual are for tiny and the ResNets, but name={self.name!r}; leave them out"
            )


class TinyResNet(nn.Module):
    """ResNet of 3 basic blocks: widths w, 2w, 4w, strides 1, 2, 2, after a 3x3 stem. Modules bear
    the names of torchvision's ResNet.

    Args:
        width: channels w of stem and first block.
        pool: side of the grid to which the last map is averaged. Letters and digits differ by
            layout: a grid keeps it, as Conv-4 of few-shot learning does by flattening its last map.
        stem_stride: 2 halves the image first: at 28 px the last map is 4x4. 1 leaves it 7x7 at 4
            times the cost.
        in_channels: channels of the images.
    """

    def __init__(self, width: int, pool: int = 4, stem_stride: int = 2, in_channels: int = 3):
        super().__init__()
        self.feature_dim = 4 * width * pool**2
        self.conv1 = nn.Conv2d(in_channels, width, 3, stem_stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _basic_block(width, width, stride=1)
        self.layer2 = _basic_block(width, 2 * width, stride=2)
        self.layer3 = _basic_block(2 * width, 4 * width, stride=2)
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


class ConvBlocks(nn.Module):
    """Blocks of a 3x3 convolution, ReLU and max-pool that halves; the last map is averaged to a
    grid and flattened.

    Args:
        channels: of each block's output.
        norm: BatchNorm before each ReLU.
    """

    def __init__(self, channels: tuple[int, ...], pool: int, norm: bool, in_channels: int = 3):
        super().__init__()
        self.feature_dim = channels[-1] * pool**2
        self.blocks = nn.Sequential()
        for number, (inputs, outputs) in enumerate(
            zip((in_channels, *channels), channels, strict=False), 1
        ):
            layers = [
                nn.Conv2d(inputs, outputs, 3, padding=1),
                *([nn.BatchNorm2d(outputs)] if norm else []),
                nn.ReLU(inplace=True),
            ]
            self.blocks.add_module(f"block{number}", nn.Sequential(*layers, nn.MaxPool2d(2)))
        self.pool = nn.AdaptiveAvgPool2d(pool)

    def forward(
        self,
        images: Tensor,  # (B, C, H, W)
    ) -> Tensor:  # (B, channels[-1] pool^2)
        return self.pool(self.blocks(images)).flatten(1)


class ResNet12(nn.Module):
    """The residual network of few-shot learning (Lee et al. 2019, section 4.2): 4 blocks of three
    3x3 convolutions with BatchNorm and LeakyReLU .1, a 1x1 shortcut and a max-pool that halves, of
    w, 2.5 w, 5 w and 10 w channels. Without the paper's DropBlock.

    Args:
        width: channels w of the first block.
        pool: side of the grid to which the last map is averaged; 1 is the paper's global average.
    """

    def __init__(self, width: int, pool: int = 1, in_channels: int = 3):
        super().__init__()
        channels = (width, 5 * width // 2, 5 * width, 10 * width)
        self.feature_dim = channels[-1] * pool**2
        self.blocks = nn.Sequential()
        for number, (inputs, outputs) in enumerate(
            zip((in_channels, *channels), channels, strict=False), 1
        ):
            self.blocks.add_module(f"block{number}", ResNet12Block(inputs, outputs))
        self.pool = nn.AdaptiveAvgPool2d(pool)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(
                    module.weight, 0.1, mode="fan_out", nonlinearity="leaky_relu"
                )

    def forward(
        self,
        images: Tensor,  # (B, C, H, W)
    ) -> Tensor:  # (B, 10 width pool^2)
        return self.pool(self.blocks(images)).flatten(1)


class ResNet12Block(nn.Module):
    """(B, inputs, H, W) -> (B, outputs, H // 2, W // 2)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (inputs, outputs, outputs):
            layers += [
                nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.LeakyReLU(0.1, inplace=True),
            ]
        self.branch = nn.Sequential(*layers[:-1])
        self.shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        )
        self.activation = nn.LeakyReLU(0.1, inplace=True)
        self.halve = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.halve(self.activation(self.branch(x) + self.shortcut(x)))


def build_backbone(cfg: BackboneConfig, in_channels: int = 3) -> nn.Module:
    """Randomly initialised backbone, (B, in_channels, H, W) images -> (B, D) features; D is its
    attribute `feature_dim`.

    Features: averaged last map of ResNets and, normalised, of ConvNeXt; second hidden layer of VGG;
    last map on a grid of the small ones.

    Raises:
        UserError: torchvision's VGG or ConvNeXt with other than 3 channels.
    """
    if cfg.name == "tiny":
        return _tiny(cfg, in_channels)
    if cfg.name == "cnn":
        return ConvBlocks((cfg.width, 2 * cfg.width), cfg.pool, norm=False, in_channels=in_channels)
    if cfg.name == "conv4":
        return ConvBlocks((cfg.width,) * 4, cfg.pool, norm=True, in_channels=in_channels)
    if cfg.name == "resnet12":
        return ResNet12(cfg.width, cfg.pool, in_channels)
    if cfg.name in _RESNETS:
        return _resnet(cfg, in_channels)
    if in_channels != 3:
        raise UserError(
            f"backbone.name={cfg.name} takes images of 3 channels, not {in_channels}; use a ResNet"
        )
    net = _torchvision(cfg.name)
    net.feature_dim = net.classifier[-1].in_features
    net.classifier[-1] = nn.Identity()
    return net


def head_prefix(name: str) -> str:
    """What the keys of the classification head begin with in torchvision's state_dict of this
    network."""
    return (
        "classifier.6." if name in _VGGS else "classifier.2." if name == "convnext_base" else "fc."
    )


def stages(backbone: Any) -> dict[str, list[nn.Module]]:
    """The parts of a backbone in the order of the data, stem first; every parameter and buffer is
    in exactly one.

    ResNets: stem, layer1 to layer4 (tiny: to layer3). VGG: block1 to block5, each up to its
    max-pool, then the hidden layers fc6 and fc7. ConvNeXt: stem, stage1 to stage4, each with the
    downsampling before it; the last norm belongs to stage4. The others: block1, block2, ...

    Raises:
        TypeError: not a network of `build_backbone`.
    """
    if hasattr(backbone, "layer1"):
        layers = [
            name for name in ("layer1", "layer2", "layer3", "layer4") if hasattr(backbone, name)
        ]
        return {"stem": [backbone.conv1, backbone.bn1]} | {
            name: [getattr(backbone, name)] for name in layers
        }
    if isinstance(backbone, ConvBlocks | ResNet12):
        return {name: [block] for name, block in backbone.blocks.named_children()}
    if not hasattr(backbone, "features"):
        raise TypeError(
            f"a {type(backbone).__name__} has no known stages; give a network of build_backbone"
        )
    parts, hidden = list(backbone.features), list(backbone.classifier)
    if isinstance(parts[0], nn.Conv2d):  # VGG
        ends = [i + 1 for i, part in enumerate(parts) if isinstance(part, nn.MaxPool2d)]
        blocks = {
            f"block{n}": parts[a:b]
            for n, (a, b) in enumerate(zip([0, *ends], ends, strict=False), 1)
        }
        return blocks | {"fc6": hidden[:3], "fc7": hidden[3:]}
    return {
        "stem": parts[:1],
        "stage1": parts[1:2],
        "stage2": parts[2:4],
        "stage3": parts[4:6],
        "stage4": [*parts[6:], *hidden],
    }


def _tiny(cfg: BackboneConfig, in_channels: int) -> TinyResNet:
    tiny = TinyResNet(
        cfg.width, cfg.pool, stem_stride=1 if cfg.small_stem else 2, in_channels=in_channels
    )
    if cfg.zero_init_residual:
        for block in (tiny.layer1, tiny.layer2, tiny.layer3):
            nn.init.zeros_(block.bn2.weight)
    return tiny


def _resnet(cfg: BackboneConfig, in_channels: int) -> nn.Module:
    net = _torchvision(cfg.name, zero_init_residual=cfg.zero_init_residual)
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


def _torchvision(name: str, **options: Any) -> Any:
    # Here: torch._dynamo comes with it, seconds that a process which builds no network (a driver)
    # need not wait.
    from torchvision.models import get_model

    return get_model(name, weights=None, **options)


def _basic_block(channels: int, out_channels: int, stride: int) -> Any:
    from torchvision.models.resnet import BasicBlock  # here, as in `_torchvision`

    if stride == 1:
        return BasicBlock(channels, out_channels)
    shortcut = nn.Sequential(
        nn.Conv2d(channels, out_channels, 1, stride=stride, bias=False),
        nn.BatchNorm2d(out_channels),
    )
    return BasicBlock(channels, out_channels, stride=stride, downsample=shortcut)


def _init_conv(conv: nn.Conv2d) -> None:
    # as torchvision's ResNet does
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")


def save_backbone(
    path: Path, backbone: nn.Module, meta: dict[str, Any], head: nn.Module | None = None
) -> None:
    """Write {"state_dict": weights on the CPU, without a head `fc`, "meta": `meta`}; `path` holds
    the old file or all of the new one.

    Args:
        meta: anything JSON can hold: the config, the trial it comes from, its metrics.
        head: written beside the backbone, as "head", for who trained it; `load_backbone_state`
            leaves it alone.
    """
    path = Path(path)
    state = {key: value for key, value in _on_cpu(backbone).items() if not key.startswith("fc.")}
    payload = {"state_dict": state, "meta": json.loads(json.dumps(meta))} | (
        {} if head is None else {"head": _on_cpu(head)}
    )
    with atomic_file(path) as file:
        torch.save(payload, file)


def _on_cpu(module: nn.Module) -> dict[str, Tensor]:
    return {
        key: value.detach().to("cpu", copy=True).contiguous()
        for key, value in module.state_dict().items()
    }


def load_backbone_state(path: Path) -> dict[str, Tensor]:
    """The weights that `save_backbone` wrote, or a plain state_dict such as torchvision's, on the
    CPU and without a head `fc`.

    Only tensors and plain values are unpickled. Load it with `strict=True`: a head is neither in
    the state nor in the backbone.

    Raises:
        UserError: no such file, or not a state_dict.
    """
    payload = _read(path)
    state = payload.get("state_dict", payload)
    if (
        not isinstance(state, dict)
        or not state
        or not all(isinstance(value, Tensor) for value in state.values())
    ):
        raise UserError(f"backbone file {str(path)!r} holds no state_dict; {_REMEDY}")
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


def load_backbone_meta(path: Path) -> dict[str, Any]:
    """The `meta` that `save_backbone` wrote; {} for a plain state_dict. Raises UserError as
    `load_backbone_state` does."""
    return dict(_read(path).get("meta", {}))


def load_head_state(path: Path) -> dict[str, Tensor]:
    """The `head` that `save_backbone` wrote.

    Raises:
        UserError: none in the file, or as `load_backbone_state` does.
    """
    head = _read(path).get("head")
    if not isinstance(head, dict):
        raise UserError(
            f"backbone file {str(path)!r} holds no classification head; give one exported by a classification trial"
        )
    return head


def load_fc_state(path: Path, name: str) -> dict[str, Tensor] | None:
    """`weight` (1000, D) and `bias` (1000,) of ImageNet's classification layer, where a state_dict
    of torchvision's network `name` has it.

    Raises:
        UserError: as `load_backbone_state` does.
    """
    payload, prefix = _read(path), head_prefix(name)
    state = payload.get("state_dict", payload)
    layer = {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
    }
    return layer if layer.keys() == {"weight", "bias"} and len(layer["bias"]) == FC_UNITS else None


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
        raise UserError(
            f"backbone file {str(path)!r} holds a {type(payload).__name__}, no state_dict; {_REMEDY}"
        )
    return payload
