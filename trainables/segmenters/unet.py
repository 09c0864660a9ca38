"""A U-Net (Ronneberger et al. 2015) with a light decoder on the maps of any backbone."""

from typing import Any

from torch import Tensor, nn

from trainables.backbone.timm_networks import leave_out_unused
from trainables.segmenters.encoder_maps import encoder_maps, halves_every_map, map_channels
from trainables.segmenters.enlarging import about_centres, resized

# Channels of the convolution at full resolution, and the most for any other.
_LAST_CHANNELS = 16
_MAX_CHANNELS = 256


class UNet(nn.Module):
    """A residual backbone with a light decoder.

    From the backbone's last map upwards, each step doubles the resolution bilinearly, concatenates
    the encoder's map of that size, and applies a 3x3 convolution. At full resolution, the map is
    concatenated with the image itself, so that a pixel's own colour reaches its score.

    Args:
        backbone: `TinyResNet`, a torchvision ResNet or a convolutional timm network; its average
            pool is not used.
        centred: enlarge maps about the centres of their cells (`about_centres`). False: as in
            earlier versions.
    """

    def __init__(self, backbone: Any, classes: int, centred: bool = True):
        super().__init__()
        self.backbone = backbone
        if hasattr(backbone, "timm_name"):
            leave_out_unused(backbone)
            centred = centred and halves_every_map(backbone)
        *skips, coarse = map_channels(backbone)

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
        *skips, x = encoder_maps(self.backbone, images)
        for up, skip in zip(self.ups, reversed(skips), strict=True):
            x = up(x, skip)
        return self.score(self.last(x, images)), None

    def features(self, images: Tensor) -> Tensor:
        """Last map (B, D, h, w) of the backbone."""
        return encoder_maps(self.backbone, images)[-1]


class _Merge(nn.Module):
    """Enlarge a map bilinearly to the size of a finer one, and apply a 3x3 convolution to both
    concatenated, BatchNorm and ReLU.

    The convolution is computed as two convolutions whose results are added. The sum is the same,
    but no gradient has to be sliced out of a wider one, which on a CPU takes as long as the
    convolution: a quarter of a training step of the U-Net.
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
            return resized(coarse, like=fine)
        if coarse.shape[-2:] == fine.shape[-2:]:
            return coarse
        return about_centres(coarse, 2, like=fine)
