"""Encoder maps of a U-Net, from full resolution down, for our own, torchvision's and timm's
networks."""

import itertools
import math
from typing import Any

from torch import Tensor, nn

from trainables.backbone.timm_networks import map_shapes, timm_maps

_RESNET_LAYERS = ("layer1", "layer2", "layer3", "layer4")


def encoder_maps(backbone: Any, images: Tensor) -> list[Tensor]:
    """Maps (B, D, h, w) of the encoder, finest first, each of a different size."""
    if hasattr(backbone, "timm_name"):
        return timm_maps(backbone, images)

    x = backbone.relu(backbone.bn1(backbone.conv1(images)))
    maps = []
    if _pools(backbone):
        maps.append(x)
        x = backbone.maxpool(x)

    for layer in _layers(backbone):
        x = layer(x)
        maps.append(x)
    return maps


def map_channels(backbone: Any) -> list[int]:
    """Number of channels in each map of `encoder_maps`."""
    if hasattr(backbone, "timm_name"):
        return [shape[0] for shape in _timm_shapes(backbone)]

    channels = [backbone.bn1.num_features] if _pools(backbone) else []
    for layer in _layers(backbone):
        block: Any = layer[-1] if isinstance(layer, nn.Sequential) else layer
        last_norm = block.bn3 if hasattr(block, "bn3") else block.bn2
        channels.append(last_norm.num_features)
    return channels


def _timm_shapes(backbone: Any) -> tuple[tuple[int, int, int], ...]:
    """Channels, height and width of each map at the native image size of timm's network."""
    side: int = backbone.default_cfg["input_size"][-1]
    return map_shapes(backbone.timm_name, side, side)


def halves_every_map(backbone: Any) -> bool:
    """True if timm's network halves the resolution before each of its maps, with padded kernels of
    odd size.

    Networks that start with patches, such as ConvNeXt, have kernels of even size without padding,
    so their cells are centred between pixels.
    """
    side: int = backbone.default_cfg["input_size"][-1]
    heights = [side, *(shape[1] for shape in _timm_shapes(backbone))]
    return all(coarse == math.ceil(fine / 2) for fine, coarse in itertools.pairwise(heights))


def _layers(backbone: Any) -> list[Any]:
    return [getattr(backbone, name) for name in _RESNET_LAYERS if hasattr(backbone, name)]


def _pools(backbone: Any) -> bool:
    return isinstance(getattr(backbone, "maxpool", None), nn.MaxPool2d)
