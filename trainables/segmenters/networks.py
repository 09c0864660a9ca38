"""Segmentation networks around the backbones of `backbone/networks.py`: a small U-Net, FCN-32s and
DeepLabV3, all (B, 3, H, W) -> (B, C, H, W); and those of segmentation_models_pytorch."""

import itertools
import math
from typing import Any

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError
from torch import Tensor, nn
from torch.nn import functional

from trainables.backbone.networks import BackboneConfig, build_backbone, stages, vgg_blocks
from trainables.backbone.timm_networks import is_timm, leave_out_unused, map_shapes, timm_maps
from trainables.config import Annotated, Field, config
from trainables.segmenters.fcn import FCN32s, Head
from trainables.segmenters.smp_networks import (
    SMPNetwork,
    build_smp_encoder,
    is_smp,
    smp_parts,
)

_NAMES = (
    "unet",
    "fcn32s-vgg16",
    "fcn32s-vgg16_bn",
    "fcn32s-vgg19",
    "deeplabv3-resnet50",
    "deeplabv3-resnet101",
)
MIN_IMAGE_SIZE = 32
"""Smallest side of an image, in px."""

_UNET_ENCODERS = ("tiny", "resnet18", "resnet50", "resnet101")
_RESNET_LAYERS = ("layer1", "layer2", "layer3", "layer4")
# Output stride of a ResNet after `dilate`, in pixels.
_DEEPLAB_STRIDE = 8
# Channels of the U-Net's convolution at full resolution, and the most that any other may have.
_LAST_CHANNELS = 16
_MAX_CHANNELS = 256


def _known_name(name: str) -> str:
    """Return the name.

    Raises:
        PydanticCustomError: it is neither a network of ours nor one of the package's.
    """
    if name in _NAMES or is_smp(name):
        return name
    valid = ", ".join(repr(known) for known in _NAMES)
    raise PydanticCustomError("model_name", f"{valid} or 'smp:ARCHITECTURE/ENCODER'")


@config
class ModelConfig:
    """One network."""

    name: Annotated[str, AfterValidator(_known_name)] = "unet"
    """unet: an encoder of `backbone` with a light decoder and skip connections (Ronneberger et al.
    2015), for CPUs with backbone.name=tiny. fcn32s-...: Long et al. 2015. deeplabv3-...: Chen et
    al. 2017, torchvision's, output stride 8. smp:ARCHITECTURE/ENCODER: a network of
    segmentation_models_pytorch with random weights, such as smp:Unet/resnet34."""
    head: Head = "conv7"
    """fcn32s: the layers after VGG's last map. conv7: 7x7 and 1x1 convolution, one x32 upsampling
    (report R0). deconv5: 1x1 convolutions, five x2 upsamplings with BatchNorm (R2). conv2: 2x2 and
    1x1 convolution, one x32 upsampling (R4)."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """fcn32s, deeplabv3: probability of dropping a unit of the head, in [0, 1); the auxiliary head
    keeps torchvision's 0.1."""

    def encoder(self, backbone: BackboneConfig) -> BackboneConfig:
        """The backbone's architecture: in a U-Net that of `backbone`, else the one in the model's
        name.

        Raises:
            ValueError: the U-Net has no decoder for this backbone.
        """
        if is_smp(self.name):
            architecture, encoder = smp_parts(self.name)
            return BackboneConfig(name=f"smp:{architecture}/{encoder}")
        if self.name != "unet":
            return BackboneConfig(name=self.name.split("-")[1])
        if is_timm(backbone.name):
            return backbone
        if backbone.name not in _UNET_ENCODERS:
            raise ValueError(
                f"model.name=unet needs backbone.name to be one of {', '.join(_UNET_ENCODERS)}, "
                f"or a convolutional network of timm, but got {backbone.name!r}"
            )
        return backbone


class UNet(nn.Module):
    """A residual backbone with a light decoder.

    From the backbone's last map up, at every halving: bilinear doubling, concatenation with the
    encoder's map of that size, a 3x3 convolution. At full resolution the map is concatenated with
    the image itself, so that a pixel's own colour reaches its score.

    Args:
        backbone: `TinyResNet`, a ResNet of torchvision or a convolutional network of timm; its
            average pool is not used.
        centred: maps are enlarged about the centres of their cells (`_about_centres`); False: as
            earlier versions did.
    """

    def __init__(self, backbone: Any, classes: int, centred: bool = True):
        super().__init__()
        self.backbone = backbone
        if hasattr(backbone, "timm_name"):
            leave_out_unused(backbone)
            centred = centred and _halves_every_map(backbone)
        *skips, coarse = _map_channels(backbone)

        self.ups = nn.ModuleList()
        for fine in reversed(skips):
            outputs = min(fine, _MAX_CHANNELS)
            self.ups.append(_Merge(coarse, fine, outputs, centred))
            coarse = outputs

        self.last = _Merge(coarse, 3, _LAST_CHANNELS, centred)
        self.score = nn.Conv2d(_LAST_CHANNELS, classes, 1)

    def forward(
        self,
        images: Tensor,  # (B, 3, H, W)
    ) -> tuple[Tensor, None]:  # (B, C, H, W)
        *skips, x = _maps(self.backbone, images)
        for up, skip in zip(self.ups, reversed(skips), strict=True):
            x = up(x, skip)
        return self.score(self.last(x, images)), None

    def features(self, images: Tensor) -> Tensor:
        """Last map (B, D, h, w) of the backbone."""
        return _maps(self.backbone, images)[-1]


class _Merge(nn.Module):
    """Enlarge a map bilinearly to the size of a finer one, then a 3x3 convolution of the two
    concatenated, BatchNorm and ReLU.

    The convolution is done as two whose results are added. The sum is the same, but no gradient has
    to be cut out of a wider one, which on a CPU takes as long as the convolution: a quarter of a
    training step of the U-Net.
    """

    def __init__(self, coarse: int, fine: int, outputs: int, centred: bool):
        super().__init__()
        self.centred = centred
        self.coarse = nn.Conv2d(coarse, outputs, 3, padding=1, bias=False)
        self.fine = nn.Conv2d(fine, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        for conv in (self.coarse, self.fine):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(
        self,
        coarse: Tensor,  # (B, D, h, w)
        fine: Tensor,  # (B, E, H, W)
    ) -> Tensor:  # (B, outputs, H, W)
        total = self.coarse(self._enlarged(coarse, fine))
        total.add_(self.fine(fine))
        merged: Tensor = self.relu(self.norm(total))
        return merged

    def _enlarged(self, coarse: Tensor, fine: Tensor) -> Tensor:
        if not self.centred:
            return _resized(coarse, like=fine)
        if coarse.shape[-2:] == fine.shape[-2:]:
            return coarse
        return _about_centres(coarse, 2, like=fine)


class DeepLabV3(nn.Module):
    """torchvision's DeepLabV3 with the auxiliary head of its FCN, around a dilated ResNet.

    Returns logits and, in training, auxiliary logits. The state_dict has torchvision's keys, except
    for `backbone.fc`.

    Args:
        backbone: a ResNet after `dilate`.
        auxiliary: with the auxiliary head.
        dropout: probability of dropping a unit after ASPP's projection.
        centred: logits are enlarged about the centres of their cells (`_about_centres`); False: as
            torchvision does.
    """

    def __init__(
        self,
        backbone: Any,
        classes: int,
        auxiliary: bool,
        dropout: float = 0.5,
        centred: bool = True,
    ):
        # Imported here for the reason that `backbone.networks` gives.
        from torchvision.models._utils import IntermediateLayerGetter
        from torchvision.models.segmentation.deeplabv3 import DeepLabHead
        from torchvision.models.segmentation.fcn import FCNHead

        super().__init__()
        self.centred = centred
        layers = {"layer3": "aux", "layer4": "out"} if auxiliary else {"layer4": "out"}
        self.backbone = IntermediateLayerGetter(backbone, return_layers=layers)
        self.classifier = DeepLabHead(backbone.feature_dim, classes)
        self.aux_classifier = FCNHead(backbone.feature_dim // 2, classes) if auxiliary else None

        aspp = self.classifier[0]
        aspp.project[3].p = dropout
        pooling = aspp.convs[-1]
        pooling[2] = _NormOfOne(pooling[2].num_features)

    def forward(
        self,
        images: Tensor,  # (B, 3, H, W)
    ) -> tuple[Tensor, Tensor | None]:  # (B, C, H, W)
        maps = self.backbone(images)

        auxiliary = None
        head = self.aux_classifier
        # Not `self.training`: above a frozen backbone `FineTuned.train` sets the mode of the heads
        # alone.
        if head is not None and head.training:
            auxiliary = self._enlarged(head(maps["aux"]), images)

        logits = self.classifier(maps["out"])
        return self._enlarged(logits, images), auxiliary

    def _enlarged(self, logits: Tensor, images: Tensor) -> Tensor:
        if self.centred:
            return _about_centres(logits, _DEEPLAB_STRIDE, like=images)
        return _resized(logits, like=images)

    def features(self, images: Tensor) -> Tensor:
        """Last map (B, D, h, w) of the backbone."""
        last_map: Tensor = self.backbone(images)["out"]
        return last_map


class _NormOfOne(nn.BatchNorm2d):
    """BatchNorm of ASPP's globally pooled map that accepts a batch of one image, as a micro-batch
    may become when memory is short.

    It has one value a channel and so no variance, and torch refuses it: it is normalised by the
    running statistics.
    """

    def forward(self, pooled: Tensor) -> Tensor:
        if self.training and pooled.numel() == self.num_features:
            return functional.batch_norm(
                pooled,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                training=False,
                momentum=0.0,
                eps=self.eps,
            )
        return super().forward(pooled)


Segmenter = UNet | FCN32s | DeepLabV3 | SMPNetwork


def build_encoder(model: ModelConfig, backbone: BackboneConfig) -> nn.Module:
    """Build a model's backbone alone, into which weights can be loaded. DeepLab's is dilated, which
    changes no shape of a weight."""
    if is_smp(model.name):
        return build_smp_encoder(model.name)
    net = build_backbone(model.encoder(backbone))
    if model.name.startswith("deeplabv3"):
        dilate(net)
    return net


def build_segmenter(
    model: ModelConfig,
    backbone: nn.Module,
    classes: int,
    *,
    auxiliary: bool,
    loaded: bool,
    rules: int = 2,
) -> Segmenter:
    """Build the network around a backbone of `build_encoder`.

    Args:
        auxiliary: DeepLabV3 only: with the auxiliary head.
        loaded: the backbone's weights come from a file, so that FCN's conv7 starts from its hidden
            layers.
        rules: `train.rules`. Under the first, maps are enlarged by half-pixel centres, and FCN's
            logits fade at the border.
    """
    mended = rules > 1
    if is_smp(model.name):
        return SMPNetwork(model.name, backbone, classes)
    if model.name == "unet":
        return UNet(backbone, classes, centred=mended)
    if model.name.startswith("fcn32s"):
        return FCN32s(backbone, model.head, classes, model.dropout, hidden=loaded, edges=mended)
    return DeepLabV3(backbone, classes, auxiliary, model.dropout, centred=mended)


def segmenter_stages(net: Segmenter) -> dict[str, list[nn.Module]]:
    """Split the backbone into its stages as `backbone.networks.stages` does; VGG's hidden layers,
    which became the head, are none."""
    if isinstance(net, FCN32s):
        return vgg_blocks(list(net.backbone.features))
    if isinstance(net, SMPNetwork):
        return {"encoder": [net.backbone]}
    return stages(net.backbone)


def decoder(net: Segmenter) -> nn.ModuleDict:
    """All parts except the backbone, under their names in the network."""
    parts = {name: part for name, part in net.named_children() if name != "backbone"}
    return nn.ModuleDict(parts)


def dilate(resnet: Any) -> None:
    """Give a ResNet's last two stages the resolution of the stage before, with dilations 2 and 4
    (Chen et al. 2017, section 3.2), in place.

    The result is torchvision's `replace_stride_with_dilation=[False, True, True]`.
    """
    for layer, dilation in ((resnet.layer3, 2), (resnet.layer4, 4)):
        for number, block in enumerate(layer):
            # A stage's first block still sees the map of the stage before, and has its dilation.
            own = dilation // 2 if number == 0 else dilation
            block.conv2.stride = (1, 1)
            block.conv2.dilation = (own, own)
            block.conv2.padding = (own, own)
            if block.downsample is not None:
                block.downsample[0].stride = (1, 1)


def _maps(backbone: Any, images: Tensor) -> list[Tensor]:
    """Maps (B, D, h, w) of the encoder, finest first, each of another size than the next."""
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


def _map_channels(backbone: Any) -> list[int]:
    """Channels of each map of `_maps`."""
    if hasattr(backbone, "timm_name"):
        return [shape[0] for shape in _timm_shapes(backbone)]

    channels = [backbone.bn1.num_features] if _pools(backbone) else []
    for layer in _layers(backbone):
        block: Any = layer[-1] if isinstance(layer, nn.Sequential) else layer
        last_norm = block.bn3 if hasattr(block, "bn3") else block.bn2
        channels.append(last_norm.num_features)
    return channels


def _timm_shapes(backbone: Any) -> tuple[tuple[int, int, int], ...]:
    """Channels, height and width of each map at the size that timm's network is made for."""
    side: int = backbone.default_cfg["input_size"][-1]
    return map_shapes(backbone.timm_name, side, side)


def _halves_every_map(backbone: Any) -> bool:
    """Tell whether timm's network halves the image before each of its maps, by padded kernels of
    odd size.

    Networks that begin with patches, such as ConvNeXt, have kernels of even size without padding:
    their cells lie about half-pixel centres.
    """
    side: int = backbone.default_cfg["input_size"][-1]
    heights = [side, *(shape[1] for shape in _timm_shapes(backbone))]
    return all(coarse == math.ceil(fine / 2) for fine, coarse in itertools.pairwise(heights))


def _layers(backbone: Any) -> list[Any]:
    return [getattr(backbone, name) for name in _RESNET_LAYERS if hasattr(backbone, name)]


def _pools(backbone: Any) -> bool:
    return isinstance(getattr(backbone, "maxpool", None), nn.MaxPool2d)


def _resized(x: Tensor, like: Tensor) -> Tensor:
    """Resize bilinearly to the height and width of `like`; centres of pixels keep their places."""
    return functional.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def _about_centres(
    x: Tensor,  # (B, D, h, w)
    stride: int,
    like: Tensor,  # (B, E, H, W) with h = ceil(H / stride)
) -> Tensor:  # (B, D, H, W)
    """Enlarge bilinearly a map whose cell i is centred on row i `stride` of the finer one, which is
    where strided kernels of odd size, padded by half, look.

    Half-pixel centres would look (stride - 1) / 2 rows beside. Beyond the last cell its value
    continues.
    """
    height, width = like.shape[-2:]
    rows, columns = x.shape[-2:]
    continued = functional.pad(x, (0, 1, 0, 1), mode="replicate")
    enlarged = functional.interpolate(
        continued,
        size=(rows * stride + 1, columns * stride + 1),
        mode="bilinear",
        align_corners=True,
    )
    return enlarged[..., :height, :width]
