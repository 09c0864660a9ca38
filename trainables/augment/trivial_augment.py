"""TrivialAugment (Mueller & Hutter 2021, algorithm 1, with the "wide" space of table 2): one
operation an image, at one strength.

The reference is torchvision's `v2.TrivialAugmentWide`: 14 operations, equally likely, 31 strengths,
a random sign where a sign makes sense, nearest neighbours in geometry, black where nothing comes
from. Operations equal torchvision's functional on float images in [0, 1].
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from trainables.augment.image_ops import blend_, on_chosen, solarize_

OPERATIONS = (
    *(
        "identity",
        "shear_x",
        "shear_y",
        "translate_x",
        "translate_y",
        "rotate",
        "brightness",
        "color",
        "contrast",
        "sharpness",
    ),
    *("posterize", "solarize", "autocontrast", "equalize"),
)
"""In torchvision's order; a number that names an operation is a position here."""
(
    IDENTITY,
    SHEAR_X,
    SHEAR_Y,
    TRANSLATE_X,
    TRANSLATE_Y,
    ROTATE,
    BRIGHTNESS,
    COLOR,
    CONTRAST,
    SHARPNESS,
    POSTERIZE,
    SOLARIZE,
    *_,
) = range(14)
AUTOCONTRAST, EQUALIZE = 12, 13
BINS = 31
_GREY_LEVEL = 1 / 255


def magnitudes() -> Tensor:
    """(14, 31): shear as a slope, translation in pixels, rotation in degrees, blends as factor - 1,
    posterize in bits, solarize as a threshold in [0, 1]; 0 where an operation has no strength."""
    table = torch.zeros(len(OPERATIONS), BINS)
    table[[SHEAR_X, SHEAR_Y, BRIGHTNESS, COLOR, CONTRAST, SHARPNESS]] = torch.linspace(
        0.0, 0.99, BINS
    )
    table[[TRANSLATE_X, TRANSLATE_Y]] = torch.linspace(0.0, 32.0, BINS).trunc()
    table[ROTATE] = torch.linspace(0.0, 135.0, BINS)
    table[POSTERIZE] = (8 - torch.arange(BINS) / ((BINS - 1) / 6)).round()
    table[SOLARIZE] = torch.linspace(1.0, 0.0, BINS)
    return table


def draw_trivial(
    uniform: Tensor,  # (B, 3) in [0, 1): which operation, how strong, which sign
) -> tuple[Tensor, Tensor]:
    """Operations (B,) int64 and their signed magnitudes (B,)."""
    operation = (uniform[:, 0] * len(OPERATIONS)).long()
    strength = magnitudes()[operation, (uniform[:, 1] * BINS).long()]
    signed = (operation >= SHEAR_X) & (operation <= SHARPNESS)
    return operation, torch.where(signed & (uniform[:, 2] < 0.5), -strength, strength)


class TrivialPlan:
    """What the operations of a batch mean for images of (height, width) pixels: small tensors on
    the device, for a whole batch."""

    def __init__(
        self,
        operation: Tensor,
        magnitude: Tensor,
        image_size: tuple[int, int],
        device: torch.device,
    ):
        # (B,) on the CPU, which has to know which image gets which operation
        self.operation = operation
        self.magnitude = magnitude.to(device, non_blocking=True)
        self.inverse = _inverse_maps(operation, magnitude, image_size).to(device, non_blocking=True)
        factor, others = 1 + magnitude, -magnitude
        shares = torch.stack(
            [factor, others * (operation == COLOR), others * (operation == CONTRAST)], 1
        )
        self.shares = shares.to(device, non_blocking=True)

    def apply(self, images: Tensor, part: slice) -> Tensor:
        """The part of the batch that is `images`, (n, 3, H, W) float in [0, 1]; may work in
        place."""
        operation = self.operation[part]
        inverse, shares, magnitude = self.inverse[part], self.shares[part], self.magnitude[part]
        steps: list[tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]] = [
            ((operation >= SHEAR_X) & (operation <= ROTATE), lambda x, i: warp(x, inverse[i])),
            (
                (operation >= BRIGHTNESS) & (operation <= CONTRAST),
                lambda x, i: blend_(x, *shares[i].unbind(1)),
            ),
            (operation == SHARPNESS, lambda x, i: sharpen_(x, 1 + magnitude[i])),
            (operation == POSTERIZE, lambda x, i: posterize(x, magnitude[i])),
            (operation == SOLARIZE, lambda x, i: solarize_(x, magnitude[i].view(-1, 1, 1, 1))),
            (operation == AUTOCONTRAST, lambda x, _: autocontrast(x)),
            (operation == EQUALIZE, lambda x, _: equalize(x)),
        ]
        for chosen, operate in steps:
            images = on_chosen(images, chosen, operate)
        return images


def _inverse_maps(operation: Tensor, magnitude: Tensor, image_size: tuple[int, int]) -> Tensor:
    """(B, 2, 3): from a pixel (x, y, 1) of the output, counted from the centre, to where it comes
    from. Shears fix the top left corner."""
    height, width = image_size
    theta = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).repeat(len(operation), 1, 1)
    shear_x, shear_y = magnitude * (operation == SHEAR_X), magnitude * (operation == SHEAR_Y)
    turn = (magnitude * (operation == ROTATE)).deg2rad()
    theta[:, 0, 0] = theta[:, 1, 1] = turn.cos()
    theta[:, 0, 1] = shear_x - turn.sin()
    theta[:, 1, 0] = shear_y + turn.sin()
    theta[:, 0, 2] = shear_x * (height / 2) - magnitude * (operation == TRANSLATE_X)
    theta[:, 1, 2] = shear_y * (width / 2) - magnitude * (operation == TRANSLATE_Y)
    return theta


def warp(
    images: Tensor,  # (B, C, H, W)
    inverse: Tensor,  # (B, 2, 3) of `_inverse_maps`
) -> Tensor:
    """Every output pixel is the nearest one of where it comes from, or black. (B, C, H, W)."""
    height, width = images.shape[-2:]
    x = torch.linspace((1.0 - width) * 0.5, (width - 1.0) * 0.5, width, device=images.device)
    y = torch.linspace((1.0 - height) * 0.5, (height - 1.0) * 0.5, height, device=images.device)
    at = torch.stack(
        [
            x.expand(height, width),
            y[:, None].expand(height, width),
            torch.ones_like(x).expand(height, width),
        ],
        -1,
    )
    half = torch.tensor([0.5 * width, 0.5 * height], device=images.device)
    grid = (at.view(1, -1, 3) @ (inverse.mT / half)).view(-1, height, width, 2)
    return functional.grid_sample(
        images, grid, mode="nearest", padding_mode="zeros", align_corners=False
    )


def sharpen_(images: Tensor, factor: Tensor) -> Tensor:
    """Away from (factor > 1) or towards a 3x3 smoothing, clipped to [0, 1]; the border stays.
    `images` (B, 3, H, W), `factor` (B,)."""
    if min(images.shape[-2:]) <= 2:
        return images
    kernel = torch.ones(3, 1, 3, 3, device=images.device)
    kernel[:, :, 1, 1] = 5
    inner = images[..., 1:-1, 1:-1]
    smooth = functional.conv2d(images, kernel / 13, groups=3)
    inner.add_(smooth.sub_(inner).mul_((1 - factor).view(-1, 1, 1, 1)))
    return images.clamp_(0, 1)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep `bits` (B,) of each value of `images` (B, 3, H, W)."""
    levels = (2.0**bits).view(-1, 1, 1, 1)
    return torch.minimum((images * levels).floor_(), levels - 1).div_(levels)


def autocontrast(images: Tensor) -> Tensor:
    """Stretch each channel to [0, 1]. A channel that spans less than half a grey level is taken for
    constant and stays: the float noise of a resampled one must not be stretched."""
    low, high = images.amin((-2, -1), keepdim=True), images.amax((-2, -1), keepdim=True)
    flat = high - low < 0.5 * _GREY_LEVEL
    return torch.where(
        flat, images, ((images - low) / torch.where(flat, 1.0, high - low)).clamp_(0, 1)
    )


def equalize(images: Tensor) -> Tensor:
    """Flatten the histogram of the 256 grey levels of each channel, by Pillow's rule. (B, 3, H, W)
    -> whole grey levels."""
    grey = (images * 255.999).long().flatten(-2)  # (B, 3, H W)
    histogram = torch.zeros(*grey.shape[:2], 256, dtype=torch.int64, device=images.device)
    histogram.scatter_add_(-1, grey, torch.ones_like(grey))
    below = histogram.cumsum(-1)
    brightest = histogram.gather(-1, below.argmax(-1, keepdim=True))
    # (B, 3, 1); 0 where a few pixels are all there is besides the brightest level: no change
    step = (grey.shape[-1] - brightest) // 255
    table = ((below + step // 2) // step.clamp(min=1)).clamp_(0, 255).roll(1, -1)
    table[..., 0] = 0
    return torch.where(step == 0, grey, table.gather(-1, grey)).view(images.shape) * _GREY_LEVEL
