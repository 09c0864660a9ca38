"""TrivialAugment (Mueller & Hutter 2021, algorithm 1, with the "wide" space of table 2): one
operation per image, at one strength.

The reference is torchvision's `v2.TrivialAugmentWide`: 14 equally likely operations, 31 strengths,
a random sign for operations that can have one, nearest-neighbour geometry, uncovered pixels black.
Operations equal torchvision's functionals on float images in [0, 1].
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from trainables.augment.image_ops import blend_, on_chosen, solarize_
from trainables.devices import send

OPERATIONS = (
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
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)
"""Names in torchvision's order; an operation's number is its position here."""
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
    AUTOCONTRAST,
    EQUALIZE,
) = range(14)
BINS = 31
"""Number of strengths per operation."""
_GREY_LEVEL = 1 / 255

_Operation = Callable[[Tensor, Tensor], Tensor]  # images (n, 3, H, W), positions (n,) -> images


def magnitudes() -> Tensor:  # (14, 31)
    """Strengths of each operation; 0 for operations without one.

    Units: shear as a slope, translation in pixels, rotation in degrees, blends as factor - 1,
    posterize in bits, solarize as a threshold in [0, 1].
    """
    table = torch.zeros(len(OPERATIONS), BINS)
    slopes_and_factors = [SHEAR_X, SHEAR_Y, BRIGHTNESS, COLOR, CONTRAST, SHARPNESS]
    table[slopes_and_factors] = torch.linspace(0.0, 0.99, BINS)
    table[[TRANSLATE_X, TRANSLATE_Y]] = torch.linspace(0.0, 32.0, BINS).trunc()
    table[ROTATE] = torch.linspace(0.0, 135.0, BINS)
    table[POSTERIZE] = (8 - torch.arange(BINS) / ((BINS - 1) / 6)).round()
    table[SOLARIZE] = torch.linspace(1.0, 0.0, BINS)
    return table


def draw_trivial(
    uniform: Tensor,  # (B, 3) in [0, 1): operation, strength, sign
) -> tuple[Tensor, Tensor]:  # (B,) int64; (B,) float32
    """Draw the operation of each image and its signed magnitude."""
    operation = (uniform[:, 0] * len(OPERATIONS)).long()
    bin_ = (uniform[:, 1] * BINS).long()
    strength = magnitudes()[operation, bin_]

    signed = _between(operation, SHEAR_X, SHARPNESS)
    negative = signed & (uniform[:, 2] < 0.5)
    return operation, torch.where(negative, -strength, strength)


class TrivialPlan:
    """The operations of a whole batch of images of (height, width) pixels, as small tensors on the
    device."""

    def __init__(
        self,
        operation: Tensor,  # (B,) int64, on the CPU
        magnitude: Tensor,  # (B,)
        image_size: tuple[int, int],
        device: torch.device,
    ):
        # Stays on the CPU, which must know the operation of each image.
        self.operation = operation
        self.magnitude = send(magnitude, device)

        inverse = _inverse_maps(operation, magnitude, image_size)
        self.inverse = send(inverse, device)  # (B, 2, 3)

        # Shares of `blend_`: only COLOR has a share of each pixel's gray, only CONTRAST of the
        # mean.
        own = 1 + magnitude
        pixel = -magnitude * (operation == COLOR)
        mean = -magnitude * (operation == CONTRAST)
        shares = torch.stack([own, pixel, mean], 1)
        self.shares = send(shares, device)  # (B, 3)

    def apply(
        self,
        images: Tensor,  # (n, 3, H, W) float in [0, 1]
        part: slice,  # of the batch: its n images
    ) -> Tensor:  # (n, 3, H, W) float in [0, 1]
        """Apply the operations of part of the batch; may work in place."""
        operation = self.operation[part]
        inverse = self.inverse[part]
        shares = self.shares[part]
        magnitude = self.magnitude[part]

        def blend(x: Tensor, i: Tensor) -> Tensor:
            own, pixel, mean = shares[i].unbind(1)
            return blend_(x, own, pixel, mean)

        def solarize(x: Tensor, i: Tensor) -> Tensor:
            return solarize_(x, magnitude[i].view(-1, 1, 1, 1))

        steps: list[tuple[Tensor, _Operation]] = [
            (_between(operation, SHEAR_X, ROTATE), lambda x, i: warp(x, inverse[i])),
            (_between(operation, BRIGHTNESS, CONTRAST), blend),
            (operation == SHARPNESS, lambda x, i: sharpen_(x, 1 + magnitude[i])),
            (operation == POSTERIZE, lambda x, i: posterize(x, magnitude[i])),
            (operation == SOLARIZE, solarize),
            (operation == AUTOCONTRAST, lambda x, _: autocontrast(x)),
            (operation == EQUALIZE, lambda x, _: equalize(x)),
        ]
        for chosen, apply in steps:
            images = on_chosen(images, chosen, apply)
        return images


def _between(operation: Tensor, first: int, last: int) -> Tensor:
    return (operation >= first) & (operation <= last)


def _inverse_maps(
    operation: Tensor,  # (B,)
    magnitude: Tensor,  # (B,)
    image_size: tuple[int, int],  # height, width
) -> Tensor:  # (B, 2, 3)
    """Maps from an output pixel (x, y, 1), counted from the centre, to its source. Shears keep the
    top left corner fixed."""
    height, width = image_size
    shear_x = magnitude * (operation == SHEAR_X)
    shear_y = magnitude * (operation == SHEAR_Y)
    translate_x = magnitude * (operation == TRANSLATE_X)
    translate_y = magnitude * (operation == TRANSLATE_Y)
    angle = (magnitude * (operation == ROTATE)).deg2rad()

    identity = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    maps = identity.repeat(len(operation), 1, 1)
    maps[:, 0, 0] = maps[:, 1, 1] = angle.cos()
    maps[:, 0, 1] = shear_x - angle.sin()
    maps[:, 1, 0] = shear_y + angle.sin()
    maps[:, 0, 2] = shear_x * (height / 2) - translate_x
    maps[:, 1, 2] = shear_y * (width / 2) - translate_y
    return maps


def warp(
    images: Tensor,  # (B, C, H, W)
    inverse: Tensor,  # (B, 2, 3) from `_inverse_maps`
) -> Tensor:  # (B, C, H, W)
    """Take the nearest source pixel for each output pixel (torchvision's `affine`); pixels from
    outside the image are black."""
    height, width = images.shape[-2:]
    x = _centred_pixels(width, images.device)
    y = _centred_pixels(height, images.device)
    ones = torch.ones_like(x)
    at = torch.stack(
        [
            x.expand(height, width),
            y[:, None].expand(height, width),
            ones.expand(height, width),
        ],
        -1,
    )  # (H, W, 3)
    half = send(torch.tensor([0.5 * width, 0.5 * height]), images.device)
    grid = at.view(1, -1, 3) @ (inverse.mT / half)  # (B, H W, 2), in [-1, 1] inside the image
    return functional.grid_sample(
        images,
        grid.view(-1, height, width, 2),
        mode="nearest",
        padding_mode="zeros",
        align_corners=False,
    )


def _centred_pixels(count: int, device: torch.device) -> Tensor:  # (count,)
    """Pixel positions, counted from the centre."""
    return torch.linspace((1.0 - count) * 0.5, (count - 1.0) * 0.5, count, device=device)


def sharpen_(
    images: Tensor,  # (B, 3, H, W) in [0, 1]
    factor: Tensor,  # (B,)
) -> Tensor:  # (B, 3, H, W) in [0, 1]: `images`
    """Blend with a 3x3 smoothed image, or extrapolate away from it if the factor is above 1
    (torchvision's `adjust_sharpness`); the border stays unchanged."""
    if min(images.shape[-2:]) <= 2:
        return images
    kernel = torch.ones(3, 1, 3, 3, device=images.device)
    kernel[:, :, 1, 1] = 5
    smooth = functional.conv2d(images, kernel / 13, groups=3)  # (B, 3, H - 2, W - 2)
    inner = images[..., 1:-1, 1:-1]
    share = (1 - factor).view(-1, 1, 1, 1)
    inner.add_(smooth.sub_(inner).mul_(share))
    return images.clamp_(0, 1)


def posterize(
    images: Tensor,  # (B, 3, H, W) in [0, 1]
    bits: Tensor,  # (B,) in 0 to 8
) -> Tensor:  # (B, 3, H, W) in [0, 1]
    """Keep the highest `bits` of each value (torchvision's `posterize`)."""
    levels = (2.0**bits).view(-1, 1, 1, 1)
    return torch.minimum((images * levels).floor_(), levels - 1).div_(levels)


def autocontrast(
    images: Tensor,  # (B, 3, H, W) in [0, 1]
) -> Tensor:  # (B, 3, H, W) in [0, 1]
    """Stretch each channel to [0, 1] (torchvision's `autocontrast`). A channel that spans less than
    half a grey level counts as constant and stays unchanged, because the float noise of resampling
    must not be stretched."""
    low = images.amin((-2, -1), keepdim=True)  # (B, 3, 1, 1)
    high = images.amax((-2, -1), keepdim=True)
    span = high - low
    flat = span < 0.5 * _GREY_LEVEL
    stretched = ((images - low) / torch.where(flat, 1.0, span)).clamp_(0, 1)
    return torch.where(flat, images, stretched)


def equalize(
    images: Tensor,  # (B, 3, H, W) in [0, 1]
) -> Tensor:  # (B, 3, H, W) in [0, 1], whole grey levels
    """Flatten the histogram of the 256 grey levels of each channel, by Pillow's rule (torchvision's
    `equalize`)."""
    grey = (images * 255.999).long().flatten(-2)  # (B, 3, H W)
    histogram = torch.zeros(*grey.shape[:2], 256, dtype=torch.int64, device=images.device)
    histogram.scatter_add_(-1, grey, torch.ones_like(grey))
    below = histogram.cumsum(-1)
    brightest = histogram.gather(-1, below.argmax(-1, keepdim=True))

    # (B, 3, 1); 0, which means no change, if few pixels differ from the brightest level
    step = (grey.shape[-1] - brightest) // 255
    table = (below + step // 2) // step.clamp(min=1)
    table = table.clamp_(0, 255).roll(1, -1)
    table[..., 0] = 0
    levels = torch.where(step == 0, grey, table.gather(-1, grey))
    return levels.view(images.shape) * _GREY_LEVEL
