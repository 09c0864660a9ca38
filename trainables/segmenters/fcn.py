"""FCN-32s (Long et al. 2015, section 3): a VGG whose last map, of stride 32, is scored and enlarged
to the image by learned upsampling.

The three heads come from the course reports (docs/reports.md).
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDE = 32
"""Stride of VGG's last map, in pixels."""
HIDDEN = 4096
"""Channels of fc6 and fc7, as in VGG's hidden layers."""

# Channels of VGG's last map.
_LAST = 512
# Output channels of the five x2 steps in deconv5.
_DOUBLINGS = (256, 128, 64, 32, 32)

Head = Literal["conv7", "deconv5", "conv2"]


class FCN32s(nn.Module):
    """Images (B, 3, H, W) of any size -> logits (B, C, H, W) and no auxiliary logits.

    Images are padded with zeros (the mean colour of normalised images) at the bottom and right to a
    multiple of 32, and the logits are cropped to the image. Sides that are multiples of 32 (with
    conv2, of 64 or more) need no padding.

    Args:
        backbone: a VGG from `build_backbone`; its hidden layers are removed.
        dropout: probability of dropping a channel's activation after each hidden layer of the head.
        hidden: start conv7's fc6 and fc7 from the backbone's hidden layers (Long et al., section
            3.1); for loaded backbones.
        edges: repeat the border of a map beyond it, so that border pixels are scored like inner
            ones. Long et al. pad the image by 100 pixels instead. False: pad with zeros, which
            fades the logits, as in earlier versions.
    """

    def __init__(
        self,
        backbone: Any,
        head: Head,
        classes: int,
        dropout: float = 0.5,
        hidden: bool = False,
        edges: bool = True,
    ):
        super().__init__()
        self.head = _HEADS[head](classes, dropout, edges)
        if hidden and head == "conv7":
            copy_hidden(backbone.classifier, self.head)

        backbone.classifier = nn.Identity()
        self.backbone = backbone
        self.min_side = 2 * STRIDE if head == "conv2" else STRIDE

    def forward(
        self,
        images: Tensor,  # (B, 3, H, W)
    ) -> tuple[Tensor, None]:  # (B, C, H, W)
        height, width = images.shape[-2:]
        logits = self.head(self.features(images))
        return logits[..., :height, :width], None

    def features(self, images: Tensor) -> Tensor:
        """Last map (B, 512, h, w) of the backbone."""
        height, width = images.shape[-2:]
        right, below = self._padding(width), self._padding(height)
        padded = functional.pad(images, (0, right, 0, below))
        last_map: Tensor = self.backbone.features(padded)
        return last_map

    def _padding(self, side: int) -> int:
        to_multiple = -side % STRIDE
        return max(to_multiple, self.min_side - side)


# Heads: last map (B, 512, h, w) -> logits (B, C, 32 h, 32 w).


def _conv7(classes: int, dropout: float, edges: bool) -> nn.Sequential:
    """VGG's hidden layers as convolutions, and one x32 step; from report R0."""
    beyond: Literal["replicate", "zeros"] = "replicate" if edges else "zeros"
    return nn.Sequential(
        *_hidden_layer(nn.Conv2d(_LAST, HIDDEN, 7, padding=3, padding_mode=beyond), dropout),
        *_hidden_layer(nn.Conv2d(HIDDEN, HIDDEN, 1), dropout),
        nn.Conv2d(HIDDEN, classes, 1),
        upsampling(classes, classes, STRIDE, padding=STRIDE // 2, edges=edges),
    )


def _conv2(classes: int, dropout: float, edges: bool) -> nn.Sequential:
    """An unpadded 2x2 convolution, and one x32 step that is also unpadded and so restores the size:
    32 (h - 1 - 1) + 64 = 32 h; from report R4."""
    return nn.Sequential(
        *_hidden_layer(nn.Conv2d(_LAST, HIDDEN, 2), dropout),
        *_hidden_layer(nn.Conv2d(HIDDEN, HIDDEN, 1), dropout),
        nn.Conv2d(HIDDEN, classes, 1),
        upsampling(classes, classes, STRIDE, padding=0, edges=edges),
    )


def _deconv5(classes: int, dropout: float, edges: bool) -> nn.Sequential:
    """Two 1x1 convolutions, five x2 steps with BatchNorm, and a 1x1 score; from report R2."""
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += _hidden_layer(nn.Conv2d(_LAST, _LAST, 1), dropout)

    inputs = _LAST
    for outputs in _DOUBLINGS:
        layers.append(upsampling(inputs, outputs, 2, padding=1, edges=edges))
        layers.append(nn.BatchNorm2d(outputs))
        layers.append(nn.ReLU(inplace=True))
        inputs = outputs

    layers.append(nn.Conv2d(inputs, classes, 1))
    return nn.Sequential(*layers)


def _hidden_layer(convolution: nn.Conv2d, dropout: float) -> tuple[nn.Module, ...]:
    return convolution, nn.ReLU(inplace=True), nn.Dropout(dropout)


_HEADS = {"conv7": _conv7, "deconv5": _deconv5, "conv2": _conv2}


class _ToTheEdges(nn.ConvTranspose2d):
    """Transposed convolution of a map whose border is repeated beyond it, with the same output
    size."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, padding: int):
        super().__init__(inputs, outputs, kernel, stride, padding + stride, bias=False)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        continued = functional.pad(x, (1, 1, 1, 1), mode="replicate")
        return super().forward(continued, output_size)


def upsampling(
    inputs: int, outputs: int, factor: int, padding: int, edges: bool = True
) -> nn.ConvTranspose2d:
    """Build a transposed convolution with kernel 2 f, stride f and no bias, initialised as bilinear
    interpolation (Long et al. 2015, section 3.3).

    If inputs = outputs it enlarges each channel separately, otherwise a random mixture (Kaiming) of
    channels. With padding f / 2, pixel centres keep their positions (`align_corners=False`).

    Args:
        edges: beyond the border, use the border's value, as in interpolation; False: 0.
    """
    layer: nn.ConvTranspose2d
    if edges:
        layer = _ToTheEdges(inputs, outputs, 2 * factor, factor, padding)
    else:
        layer = nn.ConvTranspose2d(inputs, outputs, 2 * factor, factor, padding, bias=False)
    distance = (torch.arange(2 * factor) - factor + 0.5).abs()
    taps = 1 - distance / factor
    kernel = torch.outer(taps, taps)

    if inputs == outputs:
        mixture = torch.eye(inputs)
    else:
        mixture = torch.randn(inputs, outputs) * (2 / inputs) ** 0.5
    with torch.no_grad():
        layer.weight.copy_(mixture[:, :, None, None] * kernel)
    return layer


def copy_hidden(hidden: Sequence[nn.Module], head: nn.Sequential) -> None:
    """Copy VGG's fc6, Linear(512 x 7 x 7, 4096), into the 7x7 convolution, and fc7 into the 1x1
    convolution, which gives the same function on a 7x7 map."""
    linears = [layer for layer in hidden if isinstance(layer, nn.Linear)]
    convolutions = [layer for layer in head if isinstance(layer, nn.Conv2d)]
    with torch.no_grad():
        for linear, convolution in zip(linears, convolutions[:2], strict=True):
            assert convolution.bias is not None  # `_conv7` creates it
            convolution.weight.copy_(linear.weight.view_as(convolution.weight))
            convolution.bias.copy_(linear.bias)
