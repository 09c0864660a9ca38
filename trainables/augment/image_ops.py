"""Image operations on a batch in which every image has parameters of its own, equal per image to
torchvision's functional.

Two ideas carry the speed. A crop, a resize and a blur are weighted sums of a few rows, so all three
are `weighted_rows`, which is one fused gather-and-add (`embedding_bag`), then the same again with
the axes swapped. And hue needs no HSV: along the hexagon of hues the distance from red is linear in
(r, g, b), so turning the hue is a handful of additions (`adjust_hue_`).

Names that end in `_` work in place on float images in [0, 1]. Nothing here reads a value back to
the host, so a GPU never waits.
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Normalization = Literal["imagenet", "half", "none"]

MEAN_STD: dict[Normalization, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
"""What a number in the order of colour jitter means, as in torchvision."""
GRAY = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in a gray image: torchvision's, which add up to 0.9999."""


def weighted_rows(
    images: Tensor,  # (B, C, H, W) float32
    rows: Tensor,  # (B, N, K) integer in [0, H)
    weights: Tensor,  # (B, N, K) float32
) -> Tensor:
    """Row n of the output is the sum over k of `weights[n, k]` times row `rows[n, k]`. (B, C, N,
    W)."""
    batch, channels, height, width = images.shape
    taps = rows.shape[-1]
    first = torch.arange(
        0, batch * channels * height, height, device=images.device, dtype=rows.dtype
    )
    index = (rows[:, None] + first.view(batch, channels, 1, 1)).view(-1, taps)
    weights = weights[:, None].expand(-1, channels, -1, -1).reshape(-1, taps)
    summed = functional.embedding_bag(
        index, images.reshape(-1, width), mode="sum", per_sample_weights=weights
    )
    return summed.view(batch, channels, -1, width)


def crop_boxes(
    areas: Tensor,  # (B, A) share of the image's area, in (0, 1]
    log_ratios: Tensor,  # (B, A) natural logarithm of width / height
    # (B, 2) where the box lies between the top / left and the bottom / right edge, in [0, 1)
    at: Tensor,
    image_size: tuple[int, int],  # height, width in pixels
    max_ratio: float,  # bound on width / height and height / width, for the fallback
) -> Tensor:
    """The first of A attempts that fits, else the largest central box of allowed ratio:
    torchvision's `RandomResizedCrop` (section 4.1.1 of Szegedy et al. 2015, "Going deeper with
    convolutions"). (B, 4) int64: top, left, height, width in pixels."""
    height, width = image_size
    target = areas * (height * width)
    widths = (target * log_ratios.exp()).sqrt().round().long()
    heights = (target / log_ratios.exp()).sqrt().round().long()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    attempt = fits.int().argmax(1, keepdim=True)
    h, w = heights.gather(1, attempt)[:, 0], widths.gather(1, attempt)[:, 0]
    # the product can round up to a whole
    top = torch.minimum((at[:, 0] * (height - h + 1)).long(), height - h)
    left = torch.minimum((at[:, 1] * (width - w + 1)).long(), width - w)
    central_h, central_w = (
        min(height, round(width * max_ratio)),
        min(width, round(height * max_ratio)),
    )
    found = fits.any(1)
    return torch.stack(
        [
            torch.where(found, top, (height - central_h) // 2),
            torch.where(found, left, (width - central_w) // 2),
            torch.where(found, h, central_h),
            torch.where(found, w, central_w),
        ],
        1,
    )


def resize_taps(
    start: Tensor,  # (B,) first source pixel
    length: Tensor,  # (B,) source pixels, >= 1
    flip: Tensor,  # (B,) bool: write the output backwards
    size: int,  # output pixels
    source: int,  # upper bound on `length`, known to the host: it fixes K
) -> tuple[Tensor, Tensor]:
    """Rows and weights, both (B, size, K), of a bilinear resize with antialiasing: a triangle as
    wide as two pixels of the coarser grid."""
    taps = _tap_count(source, size)
    out = torch.arange(size, device=start.device)
    out = torch.where(flip[:, None], size - 1 - out, out)  # (B, size)
    scale = (length / size)[:, None]
    support = scale.clamp_min(1.0)
    centre = scale * (out + 0.5)
    first = (centre - support + 0.5).floor().clamp_min_(0.0)
    rows = first[..., None] + torch.arange(taps, device=start.device)  # (B, size, K)
    weights = (1 - ((rows - centre[..., None] + 0.5) / support[..., None]).abs_()).clamp_min_(0.0)
    last = (length - 1).view(-1, 1, 1)
    weights *= rows <= last
    weights /= weights.sum(-1, keepdim=True)
    return (torch.minimum(rows, last) + start.view(-1, 1, 1)).int(), weights


def _tap_count(source: int, size: int) -> int:
    return math.ceil(2 * max(source / size, 1.0))


def resample(
    images: Tensor,  # (B, C, H, W) float
    vertical: tuple[Tensor, Tensor],  # of `resize_taps`
    horizontal: tuple[Tensor, Tensor],
) -> Tensor:
    """Crop, resize and flip with the axes SWAPPED: (B, C, size (x), size (y)).

    Swapped, because the second pass needs the columns as rows, and so does the first pass of a blur
    that may follow.
    """
    return weighted_rows(weighted_rows(images, *vertical).mT.contiguous(), *horizontal)


def resample_each(
    images: Sequence[Tensor],  # B of (C, H, W), uint8 or float, on the CPU
    boxes: Tensor,  # (B, 4) top, left, height, width: all that the taps read
    vertical: tuple[Tensor, Tensor],
    horizontal: tuple[Tensor, Tensor],
) -> Tensor:
    """What `resample` gives, bit for bit, one image after another: only what is inside the boxes is
    converted and read, with as few taps as each needs, and the two buffers between stay in cache.
    Faster where images are larger than the result."""
    (channels, height, width), size = images[0].shape, vertical[0].shape[1]
    out = torch.empty(len(images), channels, size, size)
    inside, turned = torch.empty(channels * height * width), torch.empty(channels * width * size)
    for i, (image, (top, left, h, w)) in enumerate(zip(images, boxes.tolist(), strict=True)):
        box = (
            inside[: channels * h * w]
            .view(1, channels, h, w)
            .copy_(image[:, top : top + h, left : left + w])
        )
        low = weighted_rows(box, *_taps_of(vertical, i, top, h))
        columns = turned[: channels * w * size].view(1, channels, w, size).copy_(low.mT)
        out[i] = weighted_rows(columns, *_taps_of(horizontal, i, left, w))[0]
    return out


def _taps_of(taps: tuple[Tensor, Tensor], i: int, start: int, length: int) -> tuple[Tensor, Tensor]:
    """Those of image i that are not 0, counted from the first pixel of its box."""
    rows, weights = taps
    count = _tap_count(length, rows.shape[1])
    return rows[i : i + 1, :, :count] - start, weights[i : i + 1, :, :count]


def rotate(
    images: Tensor,  # (B, C, H, W) float
    degrees: Tensor,  # (B,) counter-clockwise
) -> Tensor:
    """Turn each image about its centre, bilinear; what comes in from outside is black. (B, C, H,
    W)."""
    height, width = images.shape[-2:]
    cos, sin, zero = degrees.deg2rad().cos(), degrees.deg2rad().sin(), torch.zeros_like(degrees)
    # Where an output pixel comes from, in coordinates that reach from -1 to 1 along both axes.
    inverse = torch.stack(
        [cos, -sin * (height / width), zero, sin * (width / height), cos, zero], 1
    ).view(-1, 2, 3)
    grid = functional.affine_grid(inverse, list(images.shape), align_corners=False)
    return functional.grid_sample(
        images, grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )


def gaussian_blur(
    images: Tensor,  # (B, C, H, W)
    sigma: Tensor,  # (B,) standard deviation in pixels, > 0
    kernel: int,  # odd, pixels
) -> Tensor:
    """Separable Gaussian blur, the edges reflected, with the axes SWAPPED: (B, C, W, H)."""
    height, width = images.shape[-2:]
    vertical = blur_taps(sigma, kernel, height)
    horizontal = vertical if width == height else blur_taps(sigma, kernel, width)
    return weighted_rows(weighted_rows(images, *vertical).mT.contiguous(), *horizontal)


def blur_taps(sigma: Tensor, kernel: int, height: int) -> tuple[Tensor, Tensor]:
    """Rows and weights, both (B, height, kernel), of one pass of the blur."""
    half = kernel // 2
    offset = torch.arange(-half, half + 1, device=sigma.device)
    exponent = -0.5 * (offset / sigma[:, None]) ** 2
    # below exp(-80) floats are denormal, which is slow
    weights = exponent.clamp_min_(-80).softmax(1)
    rows = (torch.arange(height, device=sigma.device)[:, None] + offset).abs_()
    rows = (height - 1 - (height - 1 - rows).abs_()).int()
    return rows.expand(len(sigma), -1, -1), weights[:, None].expand(-1, height, -1)


def gray(images: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 1, H, W)."""
    red, green, blue = images.split(1, 1)
    return (red * GRAY[0]).add_(green, alpha=GRAY[1]).add_(blue, alpha=GRAY[2])


def blend_(
    images: Tensor,  # (B, 3, H, W)
    own: Tensor,  # (B,) share of the image itself
    pixel: Tensor,  # (B,) share of the gray of each pixel
    mean: Tensor,  # (B,) share of the mean gray of each image
) -> Tensor:
    """Brightness, contrast and saturation in one, clipped to [0, 1]: with a factor f they are the
    shares (f, 0, 0), (f, 0, 1 - f) and (f, 1 - f, 0). One operation, so that images at different
    points of their own order can be worked on together."""
    towards = gray(images)
    average = towards.mean((1, 2, 3))
    towards.mul_(_each(pixel)).add_(_each(mean * average))
    return images.mul_(_each(own)).add_(towards).clamp_(0, 1)


def blend_shares(
    order: Tensor,  # (B, 4) a permutation of BRIGHTNESS, CONTRAST, SATURATION, HUE
    factors: Tensor,  # (B, 4)
) -> Tensor:
    """Shares of `blend_` for what each image has first, second and third of brightness, contrast
    and saturation. (B, 3, 3)."""
    kind = order[order != HUE].view(-1, 3)
    factor = factors.gather(1, kind)
    return torch.stack(
        [factor, (1 - factor) * (kind == SATURATION), (1 - factor) * (kind == CONTRAST)], 2
    )


def adjust_hue_(images: Tensor, factor: Tensor) -> Tensor:
    """Turn the hue by `factor` (B,) of the circle, in [-0.5, 0.5]; saturation and value stay.
    `images` (B, 3, H, W).

    Measure hue along the hexagon of side d = max - min. Its distance from red is g + b - r + max -
    2 min, on the green side if g > b, and a channel equals min + clip(2 d - distance from its
    primary, 0, d). No division, hence exact at low saturation, and no branch.
    """
    red, green, blue = images.unbind(1)
    high = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    side = (high - low)[:, None]
    hue = torch.copysign((green + blue).sub_(red).add_(high).sub_(low, alpha=2), green - blue)[
        :, None
    ]
    primaries = torch.arange(0, 6, 2, device=images.device)
    # (B, 3), so that |hue + turn * side| <= 6 * side
    turn = (6 * factor[:, None] - primaries + 3).remainder(6) - 3
    distance = torch.addcmul(hue, side, turn[:, :, None, None]).abs_()
    distance = distance.sub_(side, alpha=3).abs_()  # = 3 sides - distance round the shorter way
    high, low = high[:, None], low[:, None]
    return torch.clamp(distance.add_(low).sub_(side), low, high, out=images)


def solarize_(images: Tensor, threshold: float | Tensor) -> Tensor:
    """Invert what is not below `threshold`, in [0, 1], one for all or (B, 1, 1, 1). `images` (B, 3,
    H, W)."""
    # 0 or 1; a comparison and `where` take ten times as long on a CPU
    above = images.sub(threshold).sign_().add_(1).clamp_max_(1)
    return images.addcmul_(above, 1 - 2 * images)


def mean_std(normalize: Normalization, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of each channel, (3, 1, 1) both."""
    mean, std = (
        torch.tensor(v).view(3, 1, 1).to(device, non_blocking=True) for v in MEAN_STD[normalize]
    )
    return mean, std


def standardize_(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(x - mean) / std. `images` (B, 3, H, W); `mean`, `std` (3, 1, 1)."""
    return images.sub_(mean).div_(std)


def unit_float(images: Tensor) -> Tensor:
    """A copy in float32: uint8 becomes [0, 1], floats are taken to be there."""
    copy = images.to(torch.float32, copy=True)
    return copy.div_(255) if images.dtype == torch.uint8 else copy


def outside_autocast(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Places in an image need more than the 8 bits of bfloat16, to which autocast would round the
    products that make them."""
    return (
        torch.autocast(device.type, enabled=False)
        if torch.amp.is_autocast_available(device.type)
        else contextlib.nullcontext()
    )


def _each(factor: Tensor) -> Tensor:
    return factor.view(-1, 1, 1, 1)


def on_chosen(
    images: Tensor,  # (B, C, H, W)
    chosen: Tensor,  # (B,) bool, on the CPU
    # (n, C, H, W), their (n,) positions in the batch -> (n, C, H, W)
    operation: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Apply `operation` to the chosen images only; may work in place."""
    index = chosen.nonzero()[:, 0]
    if not len(index):
        return images
    index = index.to(images.device, non_blocking=True)
    if len(index) == len(images):
        return operation(images, index)
    return images.index_copy_(0, index, operation(images.index_select(0, index), index))
