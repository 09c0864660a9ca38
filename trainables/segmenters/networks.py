"""Segmentation networks around the backbones of `backbones.py`: a small U-Net, FCN-32s and
DeepLabV3, all (B, 3, H, W) -> (B, C, H, W)."""

from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional

from trainables.backbone.networks import BackboneConfig, build_backbone, stages
from trainables.config import Annotated, Field, config
from trainables.segmenters.fcn import FCN32s, Head

ModelName = Literal[
    "unet",
    "fcn32s-vgg16",
    "fcn32s-vgg16_bn",
    "fcn32s-vgg19",
    "deeplabv3-resnet50",
    "deeplabv3-resnet101",
]
_UNET_ENCODERS = ("tiny", "resnet18", "resnet50", "resnet101")
_FULL_RESOLUTION = 16  # channels of the U-Net's last convolution
_WIDEST = 256  # channels of a decoder stage, at most

SMALLEST = 32
"""Least side of an image, px."""


@config
class ModelConfig:
    """One network."""

    name: ModelName = "unet"
    """unet: an encoder of `backbone` with a light decoder and skip connections (Ronneberger et al.
    2015), for CPUs with backbone.name=tiny. fcn32s-...: Long et al. 2015. deeplabv3-...: Chen et
    al. 2017, torchvision's, output stride 8."""
    head: Head = "conv7"
    """fcn32s: what follows the VGG's last map: conv7 (7x7 and 1x1 convolution, one x32 upsampling;
    report R0), deconv5 (1x1 convolutions, five x2 upsamplings with BatchNorm; R2) or conv2 (2x2 and
    1x1 convolution, one x32 upsampling; R4)."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """fcn32s, deeplabv3: probability of dropping a unit of the head, in [0, 1); the auxiliary head
    keeps torchvision's 0.1."""

    def encoder(self, backbone: BackboneConfig) -> BackboneConfig:
        """The architecture of the backbone: that of `backbone` in a U-Net, else the one in the
        model's name.

        Raises:
            ValueError: the U-Net has no decoder for this backbone.
        """
        if self.name != "unet":
            return BackboneConfig(name=self.name.split("-")[1])  # type: ignore[arg-type]
        if backbone.name not in _UNET_ENCODERS:
            raise ValueError(
                f"model.name=unet needs backbone.name to be one of {', '.join(_UNET_ENCODERS)}, but got {backbone.name!r}"
            )
        return backbone


class UNet(nn.Module):
    """A residual backbone, and from its last map up, at every halving: bilinear doubling, the
    encoder's map of that size beside it, a 3x3 convolution. At full resolution the image itself is
    beside it, so that a pixel's own colour reaches its score.

    Args:
        backbone: `TinyResNet` or a ResNet of torchvision; its average pool is not used.
    """

    def __init__(self, backbone: Any, classes: int):
        super().__init__()
        self.backbone = backbone
        *skips, deep = _map_channels(backbone)
        self.ups = nn.ModuleList()
        for channels in reversed(skips):
            self.ups.append(_Merge(deep, channels, min(channels, _WIDEST)))
            deep = min(channels, _WIDEST)
        self.last = _Merge(deep, 3, _FULL_RESOLUTION)
        self.score = nn.Conv2d(_FULL_RESOLUTION, classes, 1)

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
    """A map enlarged bilinearly to the size of a finer one, a 3x3 convolution of both side by side,
    BatchNorm, ReLU.

    The convolution is two whose results are added: the same sum, but the gradient need not be cut
    out of a wider one, which takes as long as the convolution on a CPU (a training step of the
    U-Net: a quarter of its time).
    """

    def __init__(self, coarse: int, fine: int, outputs: int):
        super().__init__()
        self.coarse, self.fine = (
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False) for inputs in (coarse, fine)
        )
        self.norm, self.relu = nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
        for conv in (self.coarse, self.fine):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(
        self,
        coarse: Tensor,  # (B, D, h, w)
        fine: Tensor,  # (B, E, H, W)
    ) -> Tensor:  # (B, outputs, H, W)
        return self.relu(self.norm(self.coarse(_to(coarse, fine)).add_(self.fine(fine))))


class DeepLabV3(nn.Module):
    """torchvision's DeepLabV3 with the auxiliary head of its FCN, here around any dilated ResNet;
    outputs are the tuple (logits, auxiliary logits or None). Its state_dict has torchvision's keys,
    but for `backbone.fc`."""

    def __init__(self, backbone: Any, classes: int, auxiliary: bool, dropout: float = 0.5):
        from torchvision.models._utils import IntermediateLayerGetter  # here, as in backbones.py
        from torchvision.models.segmentation.deeplabv3 import DeepLabHead
        from torchvision.models.segmentation.fcn import FCNHead

        super().__init__()
        layers = {"layer3": "aux", "layer4": "out"} if auxiliary else {"layer4": "out"}
        self.backbone = IntermediateLayerGetter(backbone, return_layers=layers)
        self.classifier = DeepLabHead(backbone.feature_dim, classes)
        self.aux_classifier = FCNHead(backbone.feature_dim // 2, classes) if auxiliary else None
        self.classifier[0].project[3].p = dropout
        self.classifier[0].convs[-1][2] = _NormOfOne(self.classifier[0].convs[-1][2].num_features)

    def forward(
        self,
        images: Tensor,  # (B, 3, H, W)
    ) -> tuple[Tensor, Tensor | None]:  # (B, C, H, W)
        maps = self.backbone(images)
        head = self.aux_classifier
        # The head's own mode: over a frozen backbone `FineTuned.train` sets the mode of heads
        # alone.
        auxiliary = _to(head(maps["aux"]), images) if head is not None and head.training else None
        return _to(self.classifier(maps["out"]), images), auxiliary

    def features(self, images: Tensor) -> Tensor:
        """Last map (B, D, h, w) of the backbone."""
        return self.backbone(images)["out"]


class _NormOfOne(nn.BatchNorm2d):
    """BatchNorm of ASPP's globally pooled map: a batch of one image has one value a channel, which
    has no variance and which torch refuses. It is normalised by the running statistics; a
    micro-batch may come to that where memory is short."""

    def forward(self, pooled: Tensor) -> Tensor:
        if self.training and pooled.numel() == self.num_features:
            return functional.batch_norm(
                pooled,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                False,
                0.0,
                self.eps,
            )
        return super().forward(pooled)


Segmenter = UNet | FCN32s | DeepLabV3


def build_backbone_of(model: ModelConfig, backbone: BackboneConfig) -> nn.Module:
    """The encoder on its own, as a file of weights fits it. DeepLab's last two stages are dilated,
    which changes no shape of a weight."""
    net = build_backbone(model.encoder(backbone))
    if model.name.startswith("deeplabv3"):
        dilate(net)
    return net


def build_segmenter(
    model: ModelConfig, backbone: nn.Module, classes: int, *, auxiliary: bool, loaded: bool
) -> Segmenter:
    """The network around a backbone of `build_backbone_of`.

    Args:
        auxiliary: DeepLabV3 only: with the auxiliary head.
        loaded: the backbone's weights come from a file, so its hidden layers, too, are worth
            keeping (FCN's conv7).
    """
    if model.name == "unet":
        return UNet(backbone, classes)
    if model.name.startswith("fcn32s"):
        return FCN32s(backbone, model.head, classes, model.dropout, hidden=loaded)
    return DeepLabV3(backbone, classes, auxiliary, model.dropout)


def segmenter_stages(net: Segmenter) -> dict[str, list[nn.Module]]:
    """The backbone's stages as `backbones.stages` names them; VGG's hidden layers, which became the
    head, are none."""
    if isinstance(net, FCN32s):
        parts, blocks = list(net.backbone.features), {}
        ends = [i + 1 for i, part in enumerate(parts) if isinstance(part, nn.MaxPool2d)]
        for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False), 1):
            blocks[f"block{number}"] = parts[start:end]
        return blocks
    return stages(net.backbone)


def decoder(net: Segmenter) -> nn.ModuleDict:
    """All that is not the backbone, under the names it has in the network."""
    return nn.ModuleDict({name: part for name, part in net.named_children() if name != "backbone"})


def dilate(resnet: Any) -> None:
    """A ResNet's last two stages at the resolution of the one before, with dilations 2 and 4 (Chen
    et al. 2017, section 3.2), in place.

    What torchvision builds with `replace_stride_with_dilation=[False, True, True]`.
    """
    dilation = 1
    for layer in (resnet.layer3, resnet.layer4):
        for number, block in enumerate(layer):
            block.conv2.stride = (1, 1)
            # A stage's first block still sees the map of the stage before, and has its dilation.
            here = dilation if number == 0 else 2 * dilation
            block.conv2.dilation = block.conv2.padding = (here, here)
            if block.downsample is not None:
                block.downsample[0].stride = (1, 1)
        dilation *= 2


def _maps(backbone: Any, images: Tensor) -> list[Tensor]:
    """The encoder's maps, finest first, each of another size than the next."""
    x = backbone.relu(backbone.bn1(backbone.conv1(images)))
    maps = []
    if _pools(backbone):
        maps.append(x)
        x = backbone.maxpool(x)
    for name in ("layer1", "layer2", "layer3", "layer4"):
        if hasattr(backbone, name):
            x = getattr(backbone, name)(x)
            maps.append(x)
    return maps


def _map_channels(backbone: Any) -> list[int]:
    """Of each of `_maps`."""
    channels = [backbone.bn1.num_features] if _pools(backbone) else []
    for name in ("layer1", "layer2", "layer3", "layer4"):
        if hasattr(backbone, name):
            block: Any = (
                list(blocks)[-1]
                if isinstance(blocks := getattr(backbone, name), nn.Sequential)
                else blocks
            )
            channels.append((block.bn3 if hasattr(block, "bn3") else block.bn2).num_features)
    return channels


def _pools(backbone: Any) -> bool:
    return isinstance(getattr(backbone, "maxpool", None), nn.MaxPool2d)


def _to(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear, to the height and width of `like`; centres of pixels keep their places."""
    return functional.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
