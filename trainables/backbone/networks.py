"""Backbones without their classification head, and their stages."""

from typing import Any, cast

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError
from torch import nn

from trainables.backbone.small_networks import ConvBlocks, ResNet12, TinyResNet, init_conv
from trainables.backbone.timm_networks import (
    build_timm,
    is_timm,
    timm_head_prefix,
    timm_stages,
)
from trainables.config import Annotated, Field, config
from trainables.errors import UserError

FC_UNITS = 1000
"""Outputs of the classification layer `fc` in ImageNet networks."""

_RESNETS = ("resnet18", "resnet50", "resnet101")
_VGGS = ("vgg16", "vgg16_bn", "vgg19")
_RESNET_LAYERS = ("layer1", "layer2", "layer3", "layer4")
_SMP = "smp:"  # encoders of segmentation networks (`segmenters/smp_networks.py`), and no more
_NAMES = ("tiny", "cnn", "conv4", "resnet12", *_RESNETS, *_VGGS, "convnext_base")


def _known_name(name: str) -> str:
    """Return the name if it is known.

    Raises:
        PydanticCustomError: it is neither one of our backbones nor a timm name.
    """
    if name in _NAMES or is_timm(name) or name.startswith(_SMP):
        return name
    valid = ", ".join(repr(known) for known in _NAMES)
    raise PydanticCustomError("backbone_name", f"{valid} or 'timm:NAME'")


@config
class BackboneConfig:
    """A network whose output is its last representation before a classification head."""

    name: Annotated[str, AfterValidator(_known_name)] = "tiny"
    """tiny: 3 residual blocks, for 28-32 px images on a CPU. cnn: 2 convolutions, as in the course
    reports. conv4: the 4 blocks of few-shot learning (Snell et al. 2017, section 3.1). resnet12:
    its residual successor (Lee et al. 2019, section 4.2). resnet18, resnet50, resnet101, vgg16,
    vgg16_bn, vgg19, convnext_base: torchvision's (He et al. 2016; Simonyan & Zisserman 2015; Liu et
    al. 2022). timm:NAME: any network of timm, such as timm:vit_small_patch14_dinov2."""
    width: Annotated[int, Field(ge=8, le=256)] = 32
    """tiny, cnn, conv4, resnet12: channels of the first block, in [8, 256]. Later blocks have 2 and
    4 times as many (tiny), twice as many (cnn), 2.5, 5 and 10 times as many (resnet12), or as many
    (conv4). In the literature, conv4 and resnet12 have 64."""
    pool: Annotated[int, Field(ge=1, le=8)] = 4
    """tiny, cnn, conv4, resnet12: side of the grid to which the last map is averaged, in [1, 8]. 1
    is a global average, which discards the layout."""
    small_stem: bool = False
    """tiny and ResNets: a 3x3 stem with stride 1 and no max-pool (He et al. 2016, section 4.2), for
    images up to 64 px. False: torchvision's 7x7 stem with stride 2 and max-pool; for tiny a 3x3
    stem with stride 2, 4 times as fast as stride 1."""
    zero_init_residual: bool = False
    """tiny and ResNets: start every residual branch at zero (Goyal et al. 2017, section 5.1)."""

    def __post_init__(self) -> None:
        residual = self.name == "tiny" or self.name in _RESNETS
        if not residual and (self.small_stem or self.zero_init_residual):
            raise ValueError(
                "small_stem and zero_init_residual are for tiny and the ResNets, "
                f"but name={self.name!r}; leave them out"
            )


def build_backbone(cfg: BackboneConfig, in_channels: int = 3) -> nn.Module:
    """Build a randomly initialised backbone: images (B, in_channels, H, W) -> features (B, D).

    Its attribute `feature_dim` is D. Features are the averaged last map for ResNets and,
    normalised, for ConvNeXt; the second hidden layer for VGG; the last map averaged to a grid for
    the small networks; the input of the head for timm networks.

    Raises:
        UserError: torchvision's VGG or ConvNeXt is not given 3 channels, timm lacks the network, or
            the name is an encoder of a segmentation network.
    """
    if cfg.name.startswith(_SMP):
        raise UserError(
            f"backbone.name={cfg.name}: such networks are for segmentation alone, as model.name"
        )
    if is_timm(cfg.name):
        return build_timm(cfg.name, in_channels)
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
    return _vgg_or_convnext(cfg, in_channels)


def _tiny(cfg: BackboneConfig, in_channels: int) -> TinyResNet:
    """Build the small ResNet of the `tiny` presets."""
    stem_stride = 1 if cfg.small_stem else 2
    tiny = TinyResNet(cfg.width, cfg.pool, stem_stride, in_channels)

    if cfg.zero_init_residual:
        for block in (tiny.layer1, tiny.layer2, tiny.layer3):
            nn.init.zeros_(block.bn2.weight)
    return tiny


def _resnet(cfg: BackboneConfig, in_channels: int) -> nn.Module:
    """Build torchvision's ResNet without its last layer.

    The small stem is SimCLR's for CIFAR: a 3x3 convolution with stride 1 and no pooling, so that
    small images keep their resolution (Chen et al. 2020, appendix B.9).
    """
    net = _torchvision(cfg.name, zero_init_residual=cfg.zero_init_residual)
    net.feature_dim = net.fc.in_features
    net.fc = nn.Identity()

    if cfg.small_stem:
        net.conv1 = nn.Conv2d(in_channels, 64, 3, stride=1, padding=1, bias=False)
        net.maxpool = nn.Identity()
        init_conv(net.conv1)
    elif in_channels != 3:
        net.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        init_conv(net.conv1)
    return cast(nn.Module, net)


def _vgg_or_convnext(cfg: BackboneConfig, in_channels: int) -> nn.Module:
    """Build torchvision's network without its last layer.

    Raises:
        UserError: the images do not have three channels.
    """
    if in_channels != 3:
        raise UserError(
            f"backbone.name={cfg.name} takes images of 3 channels, not {in_channels}; use a ResNet"
        )
    net = _torchvision(cfg.name)
    net.feature_dim = net.classifier[-1].in_features
    net.classifier[-1] = nn.Identity()
    return cast(nn.Module, net)


def _torchvision(name: str, **options: Any) -> Any:
    """Build a torchvision network with random weights."""
    # Imported here because it imports torch._dynamo, which takes seconds. A process that builds no
    # network, such as a driver, need not wait for it.
    from torchvision.models import get_model

    return get_model(name, weights=None, **options)


def head_prefix(name: str) -> str:
    """Prefix of the classification head's keys in the state_dict of torchvision's or timm's
    network."""
    if is_timm(name):
        return timm_head_prefix(name)
    if name in _VGGS:
        return "classifier.6."
    if name == "convnext_base":
        return "classifier.2."
    return "fc."


def stages(backbone: Any) -> dict[str, list[nn.Module]]:
    """Split a backbone into stages in forward order, from the stem; every parameter and buffer is
    in exactly one.

    ResNets: stem, layer1 to layer4 (tiny: to layer3). VGG: block1 to block5, each up to its
    max-pool, then the hidden layers fc6 and fc7. ConvNeXt: stem, stage1 to stage4, each with the
    preceding downsampling; the last norm belongs to stage4. timm networks: stem, block1, block2,
    ...; see `timm_stages`. Other networks: block1, block2, ...

    Raises:
        TypeError: it is not a network from `build_backbone`.
    """
    if hasattr(backbone, "timm_name"):
        return timm_stages(backbone)
    if hasattr(backbone, "layer1"):
        return _resnet_stages(backbone)
    if isinstance(backbone, ConvBlocks | ResNet12):
        return {name: [block] for name, block in backbone.blocks.named_children()}
    if not hasattr(backbone, "features"):
        raise TypeError(
            f"a {type(backbone).__name__} has no known stages; give a network of build_backbone"
        )

    parts = list(backbone.features)
    hidden = list(backbone.classifier)
    is_vgg = isinstance(parts[0], nn.Conv2d)
    if is_vgg:
        return {**vgg_blocks(parts), "fc6": hidden[:3], "fc7": hidden[3:]}
    return {
        "stem": parts[:1],
        "stage1": parts[1:2],
        "stage2": parts[2:4],
        "stage3": parts[4:6],
        "stage4": [*parts[6:], *hidden],
    }


def _resnet_stages(backbone: Any) -> dict[str, list[nn.Module]]:
    """The stem, and those of the four layers that the network has."""
    found = {"stem": [backbone.conv1, backbone.bn1]}
    for name in _RESNET_LAYERS:
        if hasattr(backbone, name):
            found[name] = [getattr(backbone, name)]
    return found


def vgg_blocks(layers: list[nn.Module]) -> dict[str, list[nn.Module]]:
    """Split VGG's convolutional layers into block1 to block5, each up to its max-pool."""
    blocks: dict[str, list[nn.Module]] = {}
    start = 0
    for end, layer in enumerate(layers, 1):
        if isinstance(layer, nn.MaxPool2d):
            blocks[f"block{len(blocks) + 1}"] = layers[start:end]
            start = end
    return blocks
