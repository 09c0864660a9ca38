"""Augmentation of a batch on its device, every image with parameters of its own.

>>> views = [Augment(policy, image_size=128) for policy in PRESETS["byol"]]
>>> first, second = (view(images, generator) for view in views)  # images (B, 3, H, W) uint8 -> 2 x (B, 3, 128, 128) float32

The order is that of SimCLR (Chen et al. 2020, appendix A) and BYOL (Grill et al. 2020, appendix B):
crop and resize, flips, colour jitter, grayscale, blur, solarize, normalise. Two that neither has:
rotation follows the flips, TrivialAugment solarize. Parameters are drawn apart from their use, so
that a batch can be split, moved or repeated.
"""

import math
from dataclasses import dataclass, fields
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from trainables.augment.image_ops import (
    HUE,
    Normalization,
    adjust_hue_,
    blend_,
    blend_shares,
    crop_boxes,
    gaussian_blur,
    gray,
    mean_std,
    on_chosen,
    outside_autocast,
    resample,
    resample_each,
    resize_taps,
    rotate,
    solarize_,
    standardize_,
    unit_float,
)
from trainables.augment.trivial_augment import IDENTITY, TrivialPlan, draw_trivial
from trainables.augment.view_config import AugmentConfig
from trainables.errors import UserError

ATTEMPTS = 10
"""Tries for a crop that fits before the central one is taken, as in torchvision."""
_CHUNK_BYTES = 3 << 20
"""Size of the float32 images worked on at a time on a CPU, so that they stay in cache."""


@dataclass(frozen=True)
class Draws:
    """The parameters of B images. `draws[a:b]` is a part of the batch."""

    crop_areas: Tensor  # (B, ATTEMPTS) share of the image's area
    crop_log_ratios: Tensor  # (B, ATTEMPTS) log(width / height)
    crop_at: Tensor  # (B, 2) place of the box, vertical and horizontal, in [0, 1)
    crop: Tensor  # (B,) bool: crop, rather than take the whole image
    hflip: Tensor  # (B,) bool
    vflip: Tensor  # (B,) bool
    turns: Tensor  # (B,) int64, quarter turns counter-clockwise, 0-3
    angle: Tensor  # (B,) of the rotation, degrees counter-clockwise
    jitter: Tensor  # (B,) bool
    order: Tensor  # (B, 4) int64, a permutation of 0 brightness, 1 contrast, 2 saturation, 3 hue
    factors: Tensor  # (B, 4) of brightness, contrast, saturation, hue
    grayscale: Tensor  # (B,) bool
    blur: Tensor  # (B,) bool
    sigma: Tensor  # (B,) of the blur, pixels
    solarize: Tensor  # (B,) bool
    operation: Tensor  # (B,) int64, of TrivialAugment; 0 leaves the image alone
    magnitude: Tensor  # (B,) its strength

    def __len__(self) -> int:
        return len(self.crop)

    def __getitem__(self, part: slice | Tensor) -> "Draws":
        return Draws(**{f.name: getattr(self, f.name)[part] for f in fields(self)})

    def to(self, device: torch.device | str) -> "Draws":
        """Itself: draws stay on the CPU, which has to know which image gets which operation.
        `apply` moves the few numbers it needs."""
        return self

    def boxes(self, image_size: tuple[int, int], max_ratio: float) -> Tensor:
        """(B, 4) top, left, height, width of the crop in an image of (height, width) pixels."""
        boxes = crop_boxes(
            self.crop_areas, self.crop_log_ratios, self.crop_at, image_size, max_ratio
        )
        return torch.where(self.crop[:, None], boxes, torch.tensor([0, 0, *image_size]))


class Augment:
    """One view's augmentation of a batch. Pure: what comes out depends on the images and the draws
    alone.

    Raises:
        UserError: the blur's kernel does not fit into an image of `image_size` pixels.
    """

    def __init__(self, config: AugmentConfig, image_size: int):
        self.config = config
        self.image_size = image_size
        self.kernel = config.blur_kernel or max(3, int(0.1 * image_size) | 1)
        if config.blur and self.kernel // 2 >= image_size:
            raise UserError(
                f"blur_kernel={self.kernel} does not fit image_size={image_size}: at most {2 * image_size - 1}"
            )

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """(B, 3, H, W) -> (B, 3, S, S): `apply` with fresh draws."""
        return self.apply(images, self.draw(len(images), generator))

    def draw(self, batch_size: int, generator: torch.Generator) -> Draws:
        """Parameters for `batch_size` images from a CPU generator. Every policy consumes the same
        random numbers, so a change of one setting leaves the draws of all others as they were."""
        c = self.config
        areas, ratios, at, order, factors, rest, trivial = torch.rand(
            batch_size, 2 * ATTEMPTS + 24, generator=generator
        ).split((ATTEMPTS, ATTEMPTS, 2, 4, 4, 11, 3), 1)
        hflip, vflip, rot90, turn, jitter, grayscale, blur, sigma, solarize, choice, angle = (
            rest.unbind(1)
        )
        third = (choice * 3).long() if c.one_of else None
        operation, magnitude = draw_trivial(trivial)
        strengths = torch.tensor([c.brightness, c.contrast, c.saturation, c.hue])
        centre = torch.tensor([1.0, 1.0, 1.0, 0.0])
        low = torch.maximum(centre - strengths, torch.tensor([0.0, 0.0, 0.0, -0.5]))
        return Draws(
            crop_areas=c.crop_scale_min + (c.crop_scale_max - c.crop_scale_min) * areas,
            crop_log_ratios=math.log(c.crop_ratio) * (2 * ratios - 1),
            crop_at=at,
            crop=torch.full((batch_size,), self._crops)
            if third is None
            else (third == 0) & self._crops,
            hflip=(hflip < c.hflip) if third is None else (third == 1) & (hflip < c.hflip),
            vflip=vflip < c.vflip,
            turns=torch.where(rot90 < c.rot90, 1 + (turn * 3).long(), 0),
            angle=c.rotate * (2 * angle - 1),
            jitter=(jitter < c.jitter) if third is None else (third == 2) & (jitter < c.jitter),
            order=order.argsort(1),
            factors=low + (centre + strengths - low) * factors,
            grayscale=grayscale < c.grayscale,
            blur=blur < c.blur,
            sigma=c.blur_sigma_min + (c.blur_sigma_max - c.blur_sigma_min) * sigma,
            solarize=solarize < c.solarize,
            operation=operation if c.trivial else torch.full_like(operation, IDENTITY),
            magnitude=magnitude,
        )

    @torch.no_grad()
    def apply(
        self,
        images: Tensor,  # (B, 3, H, W) uint8, or float in [0, 1], on any device
        draws: Draws,  # of B images
        out: Tensor | None = None,  # (B, 3, S, S) float32, to be overwritten
    ) -> Tensor:
        """(B, 3, S, S) float32, normalised, on the device of `images`: `out` where given. The
        arithmetic is in float32 throughout, inside autocast too, without the rounding to whole grey
        levels that torchvision does between operations on uint8."""
        # Sorted by when hue has its turn, the images that turn their hue together lie side by side.
        hue_at = torch.where(draws.jitter, draws.order.argmax(1), 4)
        order = hue_at.argsort(stable=True)
        plan = _Plan(
            self, draws[order], hue_at[order], (images.shape[-2], images.shape[-1]), images.device
        )
        index = order.to(images.device, non_blocking=True)
        if out is None:
            out = torch.empty(
                len(images), 3, self.image_size, self.image_size, device=images.device
            )
        slots = out.unbind()
        mean, std = mean_std(self.config.normalize, images.device)
        step = self._chunk(images)
        with outside_autocast(images.device):
            for start in range(0, len(images), step):
                part = slice(start, start + step)
                done = standardize_(plan.views(images, index[part], part), mean, std)
                torch._foreach_copy_([slots[i] for i in order[part].tolist()], done.unbind())
        return out

    def _chunk(self, images: Tensor) -> int:
        if images.device.type != "cpu":
            return max(1, len(images))
        return max(4, _CHUNK_BYTES // (12 * self.image_size**2))

    @property
    def _crops(self) -> bool:
        return (self.config.crop_scale_min, self.config.crop_scale_max) != (1, 1)

    def resizes(self, image_size: tuple[int, int]) -> bool:
        """Whether images of (height, width) pixels have to be resampled at all."""
        c = self.config
        return (
            self._crops
            or c.hflip + c.vflip + c.rot90 > 0
            or image_size != (self.image_size, self.image_size)
        )


class _Plan:
    """What the draws mean for images of one size: small tensors of parameters on the device, for
    the whole batch at once."""

    def __init__(
        self,
        augment: Augment,
        draws: Draws,
        hue_at: Tensor,
        image_size: tuple[int, int],
        device: torch.device,
    ):
        self.augment, self.draws = augment, draws
        c = augment.config
        self.taps: tuple[Tensor, ...] = ()
        if augment.resizes(image_size):
            self.boxes = draws.boxes(image_size, c.crop_ratio)
            top, left, height, width = self.boxes.to(device, non_blocking=True).unbind(1)
            # A turn by 90 degrees is one flip, then the axes swapped; by 270 the other flip, by 180
            # both.
            upside_down = (draws.vflip ^ (draws.turns >= 2)).to(device, non_blocking=True)
            left_right = (draws.hflip ^ ((draws.turns == 1) | (draws.turns == 2))).to(
                device, non_blocking=True
            )
            self.taps = (
                *resize_taps(top, height, upside_down, augment.image_size, image_size[0]),
                *resize_taps(left, width, left_right, augment.image_size, image_size[1]),
            )
        self.quarter = draws.turns % 2 == 1
        self.angle = draws.angle.to(device, non_blocking=True)
        self.hue_ends = torch.bincount(hue_at, minlength=5).cumsum(0)[:4].tolist()
        self.shares = blend_shares(draws.order, draws.factors).to(device, non_blocking=True)
        self.hue = draws.factors[:, HUE].to(device, non_blocking=True)
        self.sigma = draws.sigma.to(device, non_blocking=True)
        self.blends = c.brightness + c.contrast + c.saturation > 0
        square = (augment.image_size, augment.image_size)
        self.trivial = (
            TrivialPlan(draws.operation, draws.magnitude, square, device) if c.trivial else None
        )

    def views(self, images: Tensor, index: Tensor, part: slice) -> Tensor:
        """The images of a part of the plan, which are at `index` (n,) of the batch, augmented, in
        [0, 1]: (n, 3, S, S)."""
        c, draws = self.augment.config, self.draws
        x = self._resample(images, index, part)  # axes swapped until the blur: (n, 3, x, y)
        x = on_chosen(x, self.quarter[part], lambda y, _: y.mT.contiguous())
        if c.rotate:
            # counter-clockwise is clockwise where the axes are swapped
            x = rotate(x, -self.angle[part])
        self._jitter_(x, part)
        x = on_chosen(x, draws.grayscale[part], lambda y, _: y.copy_(gray(y)))
        sigma, blurred = self.sigma[part], draws.blur[part]
        if blurred.all():
            x = gaussian_blur(x, sigma, self.augment.kernel)
        else:
            x = x.mT.contiguous()
            x = on_chosen(
                x, blurred, lambda y, index: gaussian_blur(y, sigma[index], self.augment.kernel).mT
            )
        x = on_chosen(x, draws.solarize[part], lambda y, _: solarize_(y, c.solarize_threshold))
        return self.trivial.apply(x, part) if self.trivial else x

    def _resample(self, images: Tensor, index: Tensor, part: slice) -> Tensor:
        if not self.taps:
            own = images.index_select(0, index)  # may be worked on
            return (own if own.is_floating_point() else unit_float(own)).mT
        rows, row_weights, columns, column_weights = (taps[part] for taps in self.taps)
        if images.dtype == torch.uint8:
            row_weights = row_weights / 255
        if images.device.type == "cpu" and images[0, 0].numel() > self.augment.image_size**2:
            chosen = [images[i] for i in index.tolist()]
            return resample_each(
                chosen, self.boxes[part], (rows, row_weights), (columns, column_weights)
            )
        return resample(
            images.index_select(0, index).float(), (rows, row_weights), (columns, column_weights)
        )

    def _jitter_(self, x: Tensor, part: slice) -> None:
        ends = [min(max(end - part.start, 0), len(x)) for end in self.hue_ends]
        jittered, shares, hue = ends[-1], self.shares[part], self.hue[part]
        for position, (start, end) in enumerate(pairwise([0, *ends])):
            if self.augment.config.hue and start < end:
                adjust_hue_(x[start:end], hue[start:end])
            if self.blends and jittered and position < 3:
                blend_(x[:jittered], *shares[:jittered, position].unbind(1))


def evaluation_view(
    images: Tensor,  # (B, 3, H, W) uint8, or float in [0, 1]
    image_size: int,
    normalize: Normalization,
) -> Tensor:
    """No chance: resized to `image_size` (bilinear, antialiased; a rectangle becomes a square),
    normalised. (B, 3, S, S) float32."""
    images = unit_float(images)
    if images.shape[-2:] != (image_size, image_size):
        images = functional.interpolate(
            images,
            size=(image_size, image_size),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
    return standardize_(images, *mean_std(normalize, images.device))
