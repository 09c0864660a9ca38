"""Colour operations and normalisation of a batch with separate parameters per image, equal to
torchvision's functionals of the same name on each image.

Hue needs no HSV: along the hexagon of hues, the distance from red is linear in (r, g, b), so a few
additions rotate the hue (`adjust_hue_`).

Functions with names ending in `_` work in place on float images in [0, 1]. No function reads a
value back to the host, so a GPU never waits.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from trainables.devices import send

Normalization = Literal["imagenet", "half", "none"]

MEAN_STD: dict[Normalization, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Normalisation -> mean and standard deviation of red, green and blue, for values in [0, 1]."""

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
"""Numbers of the colour jitter operations in `order`, as in torchvision's `ColorJitter`."""
GRAY = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in torchvision's `rgb_to_grayscale`. They sum to 0.9999."""


def gray(
    images: Tensor,  # (B, 3, H, W)
) -> Tensor:  # (B, 1, H, W)
    """Luma of each pixel (torchvision's `rgb_to_grayscale`)."""
    red = images[:, 0:1]
    green = images[:, 1:2]
    blue = images[:, 2:3]
    grey = red * GRAY[0]
    return grey.add_(green, alpha=GRAY[1]).add_(blue, alpha=GRAY[2])


def blend_(
    images: Tensor,  # (B, 3, H, W) in [0, 1]
    own: Tensor,  # (B,) share of the image itself
    pixel: Tensor,  # (B,) share of each pixel's gray
    mean: Tensor,  # (B,) share of each image's mean gray
) -> Tensor:  # (B, 3, H, W) in [0, 1]: `images`
    """Brightness, contrast and saturation in one operation, clipped to [0, 1].

    With a factor f, torchvision's `adjust_brightness` has the shares (f, 0, 0), `adjust_contrast`
    (f, 0, 1 - f) and `adjust_saturation` (f, 1 - f, 0). A single operation can process images
    together that are at different points of their own order.
    """
    towards = gray(images)  # (B, 1, H, W)
    average = towards.mean((1, 2, 3))  # (B,)
    towards.mul_(_per_image(pixel)).add_(_per_image(mean * average))
    return images.mul_(_per_image(own)).add_(towards).clamp_(0, 1)


def blend_shares(
    order: Tensor,  # (B, 4) a permutation of BRIGHTNESS, CONTRAST, SATURATION, HUE
    factors: Tensor,  # (B, 4)
) -> Tensor:  # (B, 3, 3): first, second and third operation; own, pixel and mean share
    """Shares of `blend_` for the three operations other than hue, in each image's own order."""
    kind = order[order != HUE].view(-1, 3)
    factor = factors.gather(1, kind)
    pixel = (1 - factor) * (kind == SATURATION)
    mean = (1 - factor) * (kind == CONTRAST)
    return torch.stack([factor, pixel, mean], 2)


def adjust_hue_(
    images: Tensor,  # (B, 3, H, W) in [0, 1]
    factor: Tensor,  # (B,) share of the circle, in [-0.5, 0.5]
) -> Tensor:  # (B, 3, H, W) in [0, 1]: `images`
    """Rotate the hue; saturation and value stay the same (torchvision's `adjust_hue`).

    Measure hue along the hexagon of side d = max - min. Its distance from red is
    g + b - r + max - 2 min, on the green side if g > b, and a channel equals
    min + clip(2 d - distance from its primary, 0, d). This needs no division, so it is exact at low
    saturation, and no branch.
    """
    red, green, blue = images.unbind(1)  # (B, H, W) each
    high = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    side = (high - low)[:, None]  # (B, 1, H, W)

    from_red = (green + blue).sub_(red).add_(high).sub_(low, alpha=2)
    hue = torch.copysign(from_red, green - blue)[:, None]  # (B, 1, H, W), in units of intensity
    primaries = torch.arange(0, 6, 2, device=images.device)  # red, green, blue on the hexagon
    # (B, 3), so that |hue + turn * side| <= 6 * side
    turn = (6 * factor[:, None] - primaries + 3).remainder(6) - 3
    distance = torch.addcmul(hue, side, turn[:, :, None, None]).abs_()  # (B, 3, H, W)
    distance = distance.sub_(side, alpha=3).abs_()  # = 3 sides - distance the shorter way round

    # min + 2 d - (3 d - distance) = min - d + distance
    channels = distance.add_(low[:, None]).sub_(side)
    return torch.clamp(channels, low[:, None], high[:, None], out=images)


def solarize_(
    images: Tensor,  # (B, 3, H, W) in [0, 1]
    threshold: float | Tensor,  # in [0, 1]; one for all, or (B, 1, 1, 1)
) -> Tensor:  # (B, 3, H, W) in [0, 1]: `images`
    """Invert values at or above `threshold` (torchvision's `solarize`)."""
    # 0 or 1; a comparison and `where` would take ten times as long on a CPU
    above = images.sub(threshold).sign_().add_(1).clamp_max_(1)
    return images.addcmul_(above, 1 - 2 * images)


def mean_std(normalize: Normalization, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, both (3, 1, 1)."""
    mean, std = MEAN_STD[normalize]
    return _per_channel(mean, device), _per_channel(std, device)


def _per_channel(values: tuple[float, float, float], device: torch.device) -> Tensor:
    return send(torch.tensor(values).view(3, 1, 1), device)


def standardize_(
    images: Tensor,  # (B, 3, H, W)
    mean: Tensor,  # (3, 1, 1)
    std: Tensor,  # (3, 1, 1)
) -> Tensor:  # (B, 3, H, W): `images`
    """(x - mean) / std (torchvision's `normalize`)."""
    return images.sub_(mean).div_(std)


def unit_float(images: Tensor) -> Tensor:
    """A float32 copy: uint8 is scaled to [0, 1], floats are assumed to be in [0, 1]."""
    copy = images.to(torch.float32, copy=True)
    return copy.div_(255) if images.dtype == torch.uint8 else copy


def on_chosen(
    images: Tensor,  # (B, C, H, W)
    chosen: Tensor,  # (B,) bool, on the CPU
    operation: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:  # (B, C, H, W): `images`, or the operation's result if all are chosen
    """Apply `operation` only to the chosen images; it may work in place.

    Args:
        operation: (n, C, H, W) images and their (n,) positions in the batch -> (n, C, H, W).
    """
    index = chosen.nonzero()[:, 0]
    if not len(index):
        return images
    index = send(index, images.device)
    if len(index) == len(images):
        return operation(images, index)
    changed = operation(images.index_select(0, index), index)
    return images.index_copy_(0, index, changed)


def _per_image(factor: Tensor) -> Tensor:
    return factor.view(-1, 1, 1, 1)
