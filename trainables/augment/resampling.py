"""Geometry of a batch with separate parameters per image: crop, resize, rotate, blur.

Crop, resize and blur are weighted sums of a few rows of an image. So all three use
`weighted_rows`, one fused gather-and-add (`embedding_bag`), then repeat it with the axes swapped.
Results equal torchvision's functionals on each image.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

_MIN_EXPONENT = -80  # below exp(-80) floats are denormal, which is slow


class Taps(NamedTuple):
    """The K source rows of each output row, and their weights."""

    rows: Tensor  # (B, N, K) integer in [0, H)
    weights: Tensor  # (B, N, K) float32


def weighted_rows(
    images: Tensor,  # (B, C, H, W) float32
    taps: Taps,
) -> Tensor:  # (B, C, N, W)
    """Compute each output row as a weighted sum of K rows: row n is the sum over k of
    `weights[n, k]` times row `rows[n, k]`."""
    batch, channels, height, width = images.shape
    rows, weights = taps
    count = rows.shape[-1]

    # `embedding_bag` gets one table of all rows of all images: (B C H, W)
    first = torch.arange(
        0, batch * channels * height, height, device=images.device, dtype=rows.dtype
    )
    index = rows[:, None] + first.view(batch, channels, 1, 1)  # (B, C, N, K)
    weights = weights[:, None].expand(-1, channels, -1, -1)
    summed = functional.embedding_bag(
        index.view(-1, count),
        images.reshape(-1, width),
        mode="sum",
        per_sample_weights=weights.reshape(-1, count),
    )
    return summed.view(batch, channels, -1, width)


def crop_boxes(
    areas: Tensor,  # (B, A) share of the image's area, in (0, 1]
    log_ratios: Tensor,  # (B, A) natural logarithm of width / height
    at: Tensor,  # (B, 2) position between top / left and bottom / right, in [0, 1)
    image_size: tuple[int, int],  # height, width in pixels
    max_ratio: float,  # bound on width / height and height / width, for the fallback
) -> Tensor:  # (B, 4) int64: top, left, height, width in pixels
    """Boxes of torchvision's `RandomResizedCrop` (Szegedy et al. 2015, "Going deeper with
    convolutions", section 4.1.1): the first of A attempts that fits, or else the largest central
    box of an allowed ratio."""
    height, width = image_size
    target = areas * (height * width)
    ratios = log_ratios.exp()
    widths = (target * ratios).sqrt().round().long()
    heights = (target / ratios).sqrt().round().long()
    wide_enough = (widths > 0) & (widths <= width)
    high_enough = (heights > 0) & (heights <= height)
    fits = wide_enough & high_enough

    attempt = fits.int().argmax(1, keepdim=True)
    box_height = heights.gather(1, attempt)[:, 0]
    box_width = widths.gather(1, attempt)[:, 0]
    top = _offset(at[:, 0], height - box_height)
    left = _offset(at[:, 1], width - box_width)

    central_height = min(height, round(width * max_ratio))
    central_width = min(width, round(height * max_ratio))
    found = fits.any(1)
    return torch.stack(
        [
            torch.where(found, top, (height - central_height) // 2),
            torch.where(found, left, (width - central_width) // 2),
            torch.where(found, box_height, central_height),
            torch.where(found, box_width, central_width),
        ],
        1,
    )


def _offset(at: Tensor, spare: Tensor) -> Tensor:
    """An integer in [0, spare] for a position in [0, 1)."""
    # the product can be rounded up to `spare + 1`
    return torch.minimum((at * (spare + 1)).long(), spare)


def resize_taps(
    start: Tensor,  # (B,) first source pixel
    length: Tensor,  # (B,) source pixels, >= 1
    flip: Tensor,  # (B,) bool: write the output backwards
    size: int,  # output pixels
    source: int,  # upper bound on `length`, known to the host, which determines K
) -> Taps:  # (B, size, K)
    """Taps of an antialiased bilinear resize: a triangle as wide as two pixels of the coarser grid
    (torchvision's `resize(antialias=True)`)."""
    out = torch.arange(size, device=start.device)
    out = torch.where(flip[:, None], size - 1 - out, out)  # (B, size)
    scale = (length / size)[:, None]
    rows, weights = triangle_taps(out, scale, tap_count(source, size))

    last = (length - 1).view(-1, 1, 1)
    weights *= rows <= last
    weights /= weights.sum(-1, keepdim=True)
    rows = torch.minimum(rows, last) + start.view(-1, 1, 1)
    return Taps(rows.int(), weights)


def triangle_taps(
    out: Tensor,  # (B, N) output pixels
    scale: Tensor,  # (B, 1) source pixels per output pixel
    count: int,  # K
) -> tuple[Tensor, Tensor]:  # (B, N, K) float rows; (B, N, K) weights
    """Source rows under the triangle filter of each output pixel, and weights that are not yet
    normalised. Rows may lie beyond the last source pixel."""
    support = scale.clamp_min(1.0)
    centre = scale * (out + 0.5)
    first = (centre - support + 0.5).floor().clamp_min_(0.0)
    rows = first[..., None] + torch.arange(count, device=out.device)
    distance = ((rows - centre[..., None] + 0.5) / support[..., None]).abs_()
    weights = (1 - distance).clamp_min_(0.0)
    return rows, weights


def tap_count(source: float, size: float) -> int:
    """Number of source pixels K under the triangle if `source` pixels are resized to `size`."""
    return math.ceil(2 * max(source / size, 1.0))


def resample(
    images: Tensor,  # (B, C, H, W) float
    vertical: Taps,
    horizontal: Taps,
) -> Tensor:  # (B, C, size (x), size (y))
    """Crop, resize and flip, with the axes SWAPPED.

    They stay swapped because the second pass needs columns as rows, and so does the first pass of a
    blur that may follow.
    """
    low = weighted_rows(images, vertical)
    return weighted_rows(low.mT.contiguous(), horizontal)


def resample_each(
    images: Sequence[Tensor],  # B of (C, H, W), uint8 or float, on the CPU
    boxes: Tensor,  # (B, 4) top, left, height, width: everything that the taps read
    vertical: Taps,
    horizontal: Taps,
) -> Tensor:  # (B, C, size (x), size (y))
    """Equals `resample` bit for bit, but processes one image after another.

    Only the inside of the boxes is converted and read, with only as many taps as each image needs,
    and both intermediate buffers stay in cache. So it is faster if images are larger than the
    result.
    """
    channels, height, width = images[0].shape
    size = vertical.rows.shape[1]
    out = torch.empty(len(images), channels, size, size)
    box_buffer = torch.empty(channels * height * width)
    column_buffer = torch.empty(channels * width * size)
    for i, (image, box) in enumerate(zip(images, boxes.tolist(), strict=True)):
        top, left, h, w = box
        inside = box_buffer[: channels * h * w].view(1, channels, h, w)
        inside.copy_(image[:, top : top + h, left : left + w])
        low = weighted_rows(inside, _taps_of(vertical, i, top, h))

        columns = column_buffer[: channels * w * size].view(1, channels, w, size)
        columns.copy_(low.mT)
        out[i] = weighted_rows(columns, _taps_of(horizontal, i, left, w))[0]
    return out


def _taps_of(taps: Taps, i: int, start: int, length: int) -> Taps:
    """The nonzero taps of image i, counted from the first pixel of its box."""
    count = tap_count(length, taps.rows.shape[1])
    rows = taps.rows[i : i + 1, :, :count] - start
    return Taps(rows, taps.weights[i : i + 1, :, :count])


def rotate(
    images: Tensor,  # (B, C, H, W) float
    degrees: Tensor,  # (B,) counter-clockwise
) -> Tensor:  # (B, C, H, W)
    """Rotate each image about its centre, bilinearly, like torchvision's `rotate`; uncovered
    corners are black."""
    height, width = images.shape[-2:]
    radians = degrees.deg2rad()
    cos = radians.cos()
    sin = radians.sin()
    zero = torch.zeros_like(degrees)
    # Source of each output pixel, in coordinates from -1 to 1 along both axes.
    inverse = torch.stack(
        [cos, -sin * (height / width), zero, sin * (width / height), cos, zero], 1
    )
    grid = functional.affine_grid(inverse.view(-1, 2, 3), list(images.shape), align_corners=False)
    return functional.grid_sample(
        images, grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )


def gaussian_blur(
    images: Tensor,  # (B, C, H, W)
    sigma: Tensor,  # (B,) standard deviation in pixels, > 0
    kernel: int,  # odd, pixels
) -> Tensor:  # (B, C, W, H)
    """Separable Gaussian blur with reflected edges, like torchvision's `gaussian_blur`, with the
    axes SWAPPED."""
    height, width = images.shape[-2:]
    vertical = blur_taps(sigma, kernel, height)
    horizontal = vertical if width == height else blur_taps(sigma, kernel, width)
    low = weighted_rows(images, vertical)
    return weighted_rows(low.mT.contiguous(), horizontal)


def blur_taps(
    sigma: Tensor,  # (B,)
    kernel: int,  # K
    height: int,  # pixels
) -> Taps:  # (B, height, K)
    """Taps of one pass of the blur."""
    half = kernel // 2
    offset = torch.arange(-half, half + 1, device=sigma.device)  # (K,)
    exponent = -0.5 * (offset / sigma[:, None]) ** 2
    weights = exponent.clamp_min_(_MIN_EXPONENT).softmax(1)

    pixels = torch.arange(height, device=sigma.device)[:, None]
    rows = (pixels + offset).abs_()  # reflected at the first pixel, then at the last
    rows = (height - 1 - (height - 1 - rows).abs_()).int()
    rows = rows.expand(len(sigma), -1, -1)
    weights = weights[:, None].expand(-1, height, -1)
    return Taps(rows, weights)
