"""FCN-32s (Long et al. 2015, section 3): a VGG whose last map, of stride 32, is scored and enlarged
to the image by learned upsampling.

The three heads are those of the course reports: R0's 7x7 convolution, R2's 1x1 convolutions with
five doublings, R4's 2x2 convolution.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDE = 32
"""Of VGG's last map, in pixels."""
HIDDEN = 4096
"""Channels of fc6 and fc7, as VGG's hidden layers have."""
_LAST = 512  # channels of VGG's last map
_DOUBLINGS = (256, 128, 64, 32, 32)  # output channels of the five x2 steps

Head = Literal["conv7", "deconv5", "conv2"]


class FCN32s(nn.Module):
    """Images (B, 3, H, W) of any size -> logits (B, C, H, W) and no auxiliary logits.

    Images are padded with zeros (the mean colour of normalised images) below and to the right up to
    a multiple of 32, and the logits are cut to the image again: sides that are multiples of 32 (64
    or more with conv2) see no padding at all.

    Args:
        backbone: of `build_backbone`, a VGG; its hidden layers are taken off, in conv7 after they
            have been copied if `hidden` says so.
        hidden: start conv7's fc6 and fc7 from the backbone's hidden layers, as Long et al. (section
            3.1) do; for loaded backbones.
        dropout: probability of dropping a channel's activation after fc6 and fc7 (conv2 and
            deconv5: after their hidden layers).
    """

    def __init__(
        self, backbone: Any, head: Head, classes: int, dropout: float = 0.5, hidden: bool = False
    ):
        super().__init__()
        self.head = _HEADS[head](classes, dropout)
        if hidden and head == "conv7":
            copy_hidden(backbone.classifier, self.head)
        backbone.classifier = nn.Identity()
        self.backbone = backbone
        self.least = 2 * STRIDE if head == "conv2" else STRIDE

    def forward(
        self,
        images: Tensor,  # (B, 3, H, W)
    ) -> tuple[Tensor, None]:  # (B, C, H, W)
        return self.head(self.features(images))[..., : images.shape[-2], : images.shape[-1]], None

    def features(self, images: Tensor) -> Tensor:
        """Last map (B, 512, h, w) of the backbone."""
        height, width = images.shape[-2:]
        return self.backbone.features(
            functional.pad(images, (0, self._missing(width), 0, self._missing(height)))
        )

    def _missing(self, side: int) -> int:
        return max(self.least, -(-side // STRIDE) * STRIDE) - side


def _conv7(classes: int, dropout: float) -> nn.Sequential:
    """R0: VGG's hidden layers as convolutions, and one x32 step. (B, 512, h, w) -> (B, C, 32 h, 32
    w)."""
    return nn.Sequential(
        *(nn.Conv2d(_LAST, HIDDEN, 7, padding=3), nn.ReLU(inplace=True), nn.Dropout(dropout)),
        *(nn.Conv2d(HIDDEN, HIDDEN, 1), nn.ReLU(inplace=True), nn.Dropout(dropout)),
        nn.Conv2d(HIDDEN, classes, 1),
        upsampling(classes, classes, STRIDE, padding=STRIDE // 2),
    )


def _conv2(classes: int, dropout: float) -> nn.Sequential:
    """R4: an unpadded 2x2 convolution, which the transposed convolution, unpadded too, makes up
    for: 32 (h - 1 - 1) + 64 = 32 h."""
    return nn.Sequential(
        *(nn.Conv2d(_LAST, HIDDEN, 2), nn.ReLU(inplace=True), nn.Dropout(dropout)),
        *(nn.Conv2d(HIDDEN, HIDDEN, 1), nn.ReLU(inplace=True), nn.Dropout(dropout)),
        nn.Conv2d(HIDDEN, classes, 1),
        upsampling(classes, classes, STRIDE, padding=0),
    )


def _deconv5(classes: int, dropout: float) -> nn.Sequential:
    """R2: two 1x1 convolutions, five x2 steps with BatchNorm, and a 1x1 score. (B, 512, h, w) ->
    (B, C, 32 h, 32 w)."""
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.Conv2d(_LAST, _LAST, 1), nn.ReLU(inplace=True), nn.Dropout(dropout)]
    for inputs, outputs in zip((_LAST, *_DOUBLINGS), _DOUBLINGS, strict=False):
        layers += [
            upsampling(inputs, outputs, 2, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, nn.Conv2d(_DOUBLINGS[-1], classes, 1))


_HEADS = {"conv7": _conv7, "deconv5": _deconv5, "conv2": _conv2}


def upsampling(inputs: int, outputs: int, factor: int, padding: int) -> nn.ConvTranspose2d:
    """Transposed convolution of kernel 2 f and stride f without bias that starts as bilinear
    interpolation (Long et al. 2015, section 3.3).

    With inputs = outputs each channel is enlarged by itself, otherwise a random mixture (Kaiming)
    of channels is. With padding f / 2 the centres of pixels keep their places
    (`align_corners=False`); at the border the missing neighbour counts as 0.
    """
    layer = nn.ConvTranspose2d(
        inputs, outputs, 2 * factor, stride=factor, padding=padding, bias=False
    )
    taps = 1 - (torch.arange(2 * factor) - factor + 0.5).abs() / factor
    mixture = (
        torch.eye(inputs)
        if inputs == outputs
        else torch.randn(inputs, outputs) * (2 / inputs) ** 0.5
    )
    with torch.no_grad():
        layer.weight.copy_(mixture[:, :, None, None] * torch.outer(taps, taps))
    return layer


def copy_hidden(hidden: Sequence[nn.Module], head: nn.Sequential) -> None:
    """VGG's fc6, Linear(512 x 7 x 7, 4096), into the 7x7 convolution, and fc7 into the 1x1
    convolution: the same function of a 7x7 map."""
    linears = [layer for layer in hidden if isinstance(layer, nn.Linear)]
    convolutions = [layer for layer in head if isinstance(layer, nn.Conv2d)]
    with torch.no_grad():
        for linear, convolution in zip(linears, convolutions[:2], strict=True):
            assert convolution.bias is not None  # `_conv7` gives it one
            convolution.weight.copy_(linear.weight.view_as(convolution.weight))
            convolution.bias.copy_(linear.bias)
