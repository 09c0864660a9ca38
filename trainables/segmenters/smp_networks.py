"""Networks of segmentation_models_pytorch (Iakubovskii 2019,
https://github.com/qubvel-org/segmentation_models.pytorch) by `model.name=smp:ARCHITECTURE/ENCODER`,
such as smp:Unet/resnet34, with random weights.

The package is an extra, imported only when such a network is requested.
"""

import difflib
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.errors import UserError, first_line
from trainables.packages import install

PREFIX = "smp:"
"""Prefix of such networks in `model.name`."""
ARCHITECTURES = (
    "Unet",
    "UnetPlusPlus",
    "MAnet",
    "Linknet",
    "FPN",
    "PSPNet",
    "DeepLabV3",
    "DeepLabV3Plus",
    "PAN",
    "UPerNet",
    "Segformer",
)
"""Architectures with an encoder, a decoder and a head; without DPT, which needs a transformer."""
_LARGEST_STRIDE = 32  # of the coarsest map, in pixels


def is_smp(name: str) -> bool:
    """True if `model.name`, or an encoder's name, refers to the package."""
    return name.startswith(PREFIX)


def smp_parts(name: str) -> tuple[str, str]:
    """Architecture and encoder of `model.name`.

    Raises:
        ValueError: the name is not smp:ARCHITECTURE/ENCODER, or the architecture is unknown.
    """
    architecture, slash, encoder = name.removeprefix(PREFIX).partition("/")
    if not slash or not encoder:
        raise ValueError(
            f"model.name={name!r} must be smp:ARCHITECTURE/ENCODER, such as smp:Unet/resnet34"
        )
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"model.name={name!r}: the architecture must be one of {', '.join(ARCHITECTURES)}"
        )
    return architecture, encoder


def import_smp() -> Any:
    """Import the package.

    Raises:
        UserError: it is not installed.
    """
    try:
        import segmentation_models_pytorch as smp
    except ImportError:
        raise UserError(
            "model.name=smp:... needs the package segmentation-models-pytorch: "
            f"{install('segmentation-models-pytorch')}"
        ) from None
    return smp


@lru_cache
def check_smp(name: str, side: int) -> None:
    """Raise UserError if the package is missing, if the encoder is unknown or unsupported by the
    architecture, or if images with this side in px are too small."""
    _, encoder = smp_parts(name)
    known = import_smp().encoders.get_encoder_names()
    if encoder not in known and not encoder.startswith("tu-"):
        close = difflib.get_close_matches(encoder, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"valid: {', '.join(known)}"
        raise UserError(f"model.name={name}: there is no encoder {encoder!r}; {hint}")
    built = _create(name, 1)

    # On the meta device, only shapes are computed.
    network = SMPNetwork(name, built.encoder, 1).to("meta").eval()
    try:
        with torch.no_grad():
            network(torch.empty(2, 3, side, side, device="meta"))
    except Exception as error:  # networks raise any type
        raise UserError(
            f"model.name={name} cannot take images of {side} px ({first_line(error)}); "
            "choose another data.image_size or network"
        ) from None


def _create(name: str, classes: int) -> Any:
    """Build the package's own network.

    Raises:
        UserError: the architecture does not support the encoder.
    """
    architecture, encoder = smp_parts(name)
    try:
        return import_smp().create_model(
            architecture, encoder_name=encoder, encoder_weights=None, classes=classes
        )
    except (ValueError, KeyError, RuntimeError) as error:
        raise UserError(
            f"model.name={name}: {architecture} does not take the encoder {encoder} "
            f"({first_line(error)})"
        ) from None


def build_smp_encoder(name: str) -> nn.Module:
    """Build only the encoder of a network: images (B, 3, H, W) -> list of maps, finest first. Its
    attribute `feature_dim` is the number of channels of the last map."""
    encoder: Any = _create(name, 1).encoder
    encoder.feature_dim = encoder.out_channels[-1]
    found: nn.Module = encoder
    return found


class SMPNetwork(nn.Module):
    """A network of the package around an encoder from `build_smp_encoder`.

    Images of any size are extended at the right and bottom to a multiple of the coarsest map's
    stride, and the scores are cropped.
    """

    def __init__(self, name: str, backbone: nn.Module, classes: int):
        super().__init__()
        built = _create(name, classes)
        self.backbone = backbone
        self.decoder = built.decoder
        self.segmentation_head = built.segmentation_head

    def forward(
        self,
        images: Tensor,  # (B, 3, H, W)
    ) -> tuple[Tensor, None]:  # (B, C, H, W)
        height, width = images.shape[-2:]
        maps = self.backbone(_continued(images))
        scores: Tensor = self.segmentation_head(self.decoder(maps))
        return scores[..., :height, :width], None

    def features(self, images: Tensor) -> Tensor:
        """Last map (B, D, h, w) of the encoder."""
        maps: list[Tensor] = self.backbone(_continued(images))
        return maps[-1]


def _continued(images: Tensor) -> Tensor:
    """Repeat the last row and column up to a multiple of the largest stride."""
    height, width = images.shape[-2:]
    below = -height % _LARGEST_STRIDE
    right = -width % _LARGEST_STRIDE
    if not below and not right:
        return images
    return functional.pad(images, (0, right, 0, below), mode="replicate")
