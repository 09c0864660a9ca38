"""Segmentation networks around the backbones of `backbone/networks.py`: a small U-Net, FCN-32s and
DeepLabV3, all (B, 3, H, W) -> (B, C, H, W); also those of segmentation_models_pytorch."""

from pathlib import Path

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError
from torch import nn

from trainables.backbone.export import load_backbone_meta
from trainables.backbone.networks import BackboneConfig, build_backbone, stages, vgg_blocks
from trainables.backbone.timm_networks import is_timm
from trainables.config import Annotated, Field, config
from trainables.errors import UserError
from trainables.segmenters.deeplab import DeepLabV3, dilate
from trainables.segmenters.fcn import FCN32s, Head
from trainables.segmenters.smp_networks import (
    SMPNetwork,
    build_smp_encoder,
    is_smp,
    smp_parts,
)
from trainables.segmenters.unet import UNet

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


def _known_name(name: str) -> str:
    """Return the name if it is known.

    Raises:
        PydanticCustomError: it is neither one of our networks nor one of the package's.
    """
    if name in _NAMES or is_smp(name):
        return name
    valid = ", ".join(repr(known) for known in _NAMES)
    raise PydanticCustomError("model_name", f"{valid} or 'smp:ARCHITECTURE/ENCODER'")


@config
class ModelConfig:
    """A segmentation network."""

    name: Annotated[str, AfterValidator(_known_name)] = "unet"
    """unet: the encoder `backbone` with a light decoder and skip connections (Ronneberger et al.
    2015); suits CPUs with backbone.name=tiny. fcn32s-...: Long et al. 2015. deeplabv3-...: Chen et
    al. 2017, torchvision's, output stride 8. smp:ARCHITECTURE/ENCODER: a network of
    segmentation_models_pytorch with random weights, such as smp:Unet/resnet34."""
    head: Head = "conv7"
    """fcn32s: the layers after VGG's last map. conv7: 7x7 and 1x1 convolutions, one x32 upsampling
    (report R0). deconv5: 1x1 convolutions, five x2 upsamplings with BatchNorm (R2). conv2: 2x2 and
    1x1 convolutions, one x32 upsampling (R4)."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """fcn32s, deeplabv3: probability of dropping a unit of the head, in [0, 1). The auxiliary head
    keeps torchvision's 0.1."""

    def encoder(self, backbone: BackboneConfig) -> BackboneConfig:
        """Architecture of the backbone: that of `backbone` for a U-Net, otherwise the one in the
        model's name.

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


Segmenter = UNet | FCN32s | DeepLabV3 | SMPNetwork


def build_encoder(model: ModelConfig, backbone: BackboneConfig) -> nn.Module:
    """Build only a model's backbone, into which weights can be loaded. DeepLab's is dilated, which
    does not change the shapes of weights."""
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
    """Build the network around a backbone from `build_encoder`.

    Args:
        auxiliary: DeepLabV3 only: add the auxiliary head.
        loaded: the backbone's weights come from a file, so FCN's conv7 starts from its hidden
            layers.
        rules: `train.rules`. Under version 1, maps are enlarged about half-pixel centres, and FCN's
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
    """Split the backbone into stages as `backbone.networks.stages` does, without VGG's hidden
    layers, which became the head."""
    if isinstance(net, FCN32s):
        return vgg_blocks(list(net.backbone.features))
    if isinstance(net, SMPNetwork):
        return {"encoder": [net.backbone]}
    return stages(net.backbone)


def decoder(net: Segmenter) -> nn.ModuleDict:
    """All parts except the backbone, under their names in the network."""
    parts = {name: part for name, part in net.named_children() if name != "backbone"}
    return nn.ModuleDict(parts)


def check_encoder(model: ModelConfig, encoder: BackboneConfig, path: Path) -> None:
    """Raise UserError if the file was exported from another architecture than the model's
    encoder."""
    trained = load_backbone_meta(path).get("backbone", {}).get("name")
    if trained in (None, encoder.name):
        return

    if trained in ("tiny", "resnet18") or is_timm(trained):
        fitting = f"unet --set backbone.name={trained}"
    elif trained in ("resnet50", "resnet101"):
        fitting = f"deeplabv3-{trained}"
    else:
        fitting = f"fcn32s-{trained}"
    raise UserError(
        f"backbone file {path} is a {trained}, but model.name={model.name} has a "
        f"{encoder.name}; add --set model.name={fitting}"
    )
