"""Augmentation of a batch on its device, with separate parameters per image.

>>> views = [Augment(policy, image_size=128) for policy in PRESETS["byol"]]
>>> first, second = (view(images, generator) for view in views)
>>> # images (B, 3, H, W) uint8 -> two of (B, 3, 128, 128) float32

The order is that of SimCLR (Chen et al. 2020, appendix A) and BYOL (Grill et al. 2020, appendix B):
crop and resize, flips, colour jitter, grayscale, blur, solarize, normalise. There are two further
operations: rotation after colour jitter, and TrivialAugment after solarize. Parameters are drawn
and applied separately, so that a batch can be split, moved or repeated.
"""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from trainables.augment.draws import Draws, crops, draw, quarter_turn_flips
from trainables.augment.image_ops import (
    HUE,
    Normalization,
    adjust_hue_,
    blend_,
    blend_shares,
    gray,
    mean_std,
    on_chosen,
    solarize_,
    standardize_,
    unit_float,
)
from trainables.augment.resampling import (
    Taps,
    gaussian_blur,
    resample,
    resample_each,
    resize_taps,
    rotate,
)
from trainables.augment.trivial_augment import TrivialPlan
from trainables.augment.view_config import AugmentConfig
from trainables.devices import in_float32, send
from trainables.errors import UserError

_CHUNK_BYTES = 3 << 20  # of float32 images processed at a time on a CPU, to stay in cache
_MIN_CHUNK = 4  # images
_BYTES_PER_PIXEL = 12  # three channels of float32


class Augment:
    """Augmentation of one view of a batch. Pure: the result depends only on the images and the
    draws.

    Raises:
        UserError: the blur kernel does not fit into an image of `image_size` pixels.
    """

    def __init__(self, config: AugmentConfig, image_size: int):
        self.config = config
        self.image_size = image_size
        self.kernel = config.blur_kernel or max(3, int(0.1 * image_size) | 1)
        if config.blur and self.kernel // 2 >= image_size:
            raise UserError(
                f"blur_kernel={self.kernel} does not fit image_size={image_size}: "
                f"at most {2 * image_size - 1}"
            )

    def __call__(
        self,
        images: Tensor,  # (B, 3, H, W)
        generator: torch.Generator,
    ) -> Tensor:  # (B, 3, S, S)
        """Call `apply` with fresh draws."""
        return self.apply(images, self.draw(len(images), generator))

    def draw(self, batch_size: int, generator: torch.Generator) -> Draws:
        """Draw parameters for `batch_size` images from a CPU generator (`draws.draw`)."""
        return draw(self.config, batch_size, generator)

    @torch.no_grad()
    def apply(
        self,
        images: Tensor,  # (B, 3, H, W) uint8, or float in [0, 1], on any device
        draws: Draws,  # of B images
        out: Tensor | None = None,  # (B, 3, S, S) float32, to be overwritten
    ) -> Tensor:  # (B, 3, S, S) float32, normalised, on the device of `images`
        """Augment a batch; the result is `out` if given.

        All arithmetic is in float32, also inside autocast, without the rounding to integer grey
        levels that torchvision does between operations on uint8.
        """
        # Sort images by the position of hue in their order, so that images which adjust their hue
        # together are adjacent.
        hue_position = torch.where(draws.jitter, draws.order.argmax(1), 4)
        order = hue_position.argsort(stable=True)
        height, width = images.shape[-2:]
        plan = _Plan(self, draws[order], hue_position[order], (height, width), images.device)

        index = send(order, images.device)
        if out is None:
            out = torch.empty(
                len(images), 3, self.image_size, self.image_size, device=images.device
            )
        slots = out.unbind()
        mean, std = mean_std(self.config.normalize, images.device)
        step = self._chunk(images)
        with in_float32(images.device):
            for start in range(0, len(images), step):
                part = slice(start, start + step)
                views = standardize_(plan.views(images, index[part], part), mean, std)
                targets = [slots[i] for i in order[part].tolist()]
                torch._foreach_copy_(targets, views.unbind())
        return out

    def _chunk(self, images: Tensor) -> int:
        """Number of images to process at a time."""
        if images.device.type != "cpu":
            return max(1, len(images))
        return max(_MIN_CHUNK, _CHUNK_BYTES // (_BYTES_PER_PIXEL * self.image_size**2))

    def resizes(self, image_size: tuple[int, int]) -> bool:
        """True if images of (height, width) pixels must be resampled at all."""
        config = self.config
        flips = config.hflip + config.vflip + config.rot90 > 0
        return crops(config) or flips or image_size != (self.image_size, self.image_size)


class _Plan:
    """The draws converted for images of one size: small parameter tensors on the device, for the
    whole batch at once."""

    def __init__(
        self,
        augment: Augment,
        draws: Draws,  # sorted by `hue_position`
        hue_position: Tensor,  # (B,) in the order of jitter; 4 = no jitter
        image_size: tuple[int, int],  # height, width
        device: torch.device,
    ):
        config = augment.config
        self.augment = augment
        self.draws = draws
        self.resizes = augment.resizes(image_size)
        if self.resizes:
            self.boxes = draws.boxes(image_size, config.crop_ratio)
            self.vertical, self.horizontal = self._crop_taps(image_size, device)
        self.quarter = draws.turns % 2 == 1
        self.angle = send(draws.angle, device)

        # Images [0, hue_ends[p]) have hue at position p or before.
        self.hue_ends = torch.bincount(hue_position, minlength=5).cumsum(0)[:4].tolist()
        self.shares = send(blend_shares(draws.order, draws.factors), device)
        self.hue = send(draws.factors[:, HUE], device)
        self.sigma = send(draws.sigma, device)
        self.blends = config.brightness + config.contrast + config.saturation > 0

        self.trivial: TrivialPlan | None = None
        if config.trivial:
            square = (augment.image_size, augment.image_size)
            self.trivial = TrivialPlan(draws.operation, draws.magnitude, square, device)

    def _crop_taps(self, image_size: tuple[int, int], device: torch.device) -> tuple[Taps, Taps]:
        """Taps of crop, resize and flips: vertical and horizontal."""
        draws = self.draws
        top, left, height, width = send(self.boxes, device).unbind(1)

        upside_down, left_right = quarter_turn_flips(draws.vflip, draws.hflip, draws.turns)
        upside_down = send(upside_down, device)
        left_right = send(left_right, device)
        size = self.augment.image_size
        vertical = resize_taps(top, height, upside_down, size, image_size[0])
        horizontal = resize_taps(left, width, left_right, size, image_size[1])
        return vertical, horizontal

    def views(
        self,
        images: Tensor,  # (B, 3, H, W), the whole batch
        index: Tensor,  # (n,) positions in the batch, on the device
        part: slice,  # of the plan: its n images
    ) -> Tensor:  # (n, 3, S, S) in [0, 1]
        """Augment the images of part of the plan."""
        config = self.augment.config
        kernel = self.augment.kernel
        draws = self.draws

        x = self._resample(images, index, part)  # axes swapped until the blur: (n, 3, x, y)
        x = on_chosen(x, self.quarter[part], lambda y, _: y.mT.contiguous())
        if config.jitter_first:
            self._jitter_(x, part)
        if config.rotate:
            # with swapped axes, counter-clockwise becomes clockwise
            x = rotate(x, -self.angle[part])
        if not config.jitter_first:
            self._jitter_(x, part)
        x = on_chosen(x, draws.grayscale[part], lambda y, _: y.copy_(gray(y)))

        sigma = self.sigma[part]
        blurred = draws.blur[part]
        if blurred.all():
            x = gaussian_blur(x, sigma, kernel)
        else:
            x = x.mT.contiguous()
            x = on_chosen(x, blurred, lambda y, i: gaussian_blur(y, sigma[i], kernel).mT)

        threshold = config.solarize_threshold
        x = on_chosen(x, draws.solarize[part], lambda y, _: solarize_(y, threshold))
        return x if self.trivial is None else self.trivial.apply(x, part)

    def _resample(self, images: Tensor, index: Tensor, part: slice) -> Tensor:
        """Crop, resize and flip. Returns (n, 3, S (x), S (y)) in [0, 1], which may be modified."""
        if not self.resizes:
            own = images.index_select(0, index)
            return (own if own.is_floating_point() else unit_float(own)).mT

        vertical = Taps(self.vertical.rows[part], self.vertical.weights[part])
        horizontal = Taps(self.horizontal.rows[part], self.horizontal.weights[part])
        if images.dtype == torch.uint8:
            vertical = Taps(vertical.rows, vertical.weights / 255)

        height, width = images.shape[-2:]
        shrinks = height * width > self.augment.image_size**2
        if images.device.type == "cpu" and shrinks:
            chosen = [images[i] for i in index.tolist()]
            return resample_each(chosen, self.boxes[part], vertical, horizontal)
        return resample(images.index_select(0, index).float(), vertical, horizontal)

    def _jitter_(self, x: Tensor, part: slice) -> None:
        """Jitter the colours of part of the plan, in each image's own order."""
        ends = [min(max(end - part.start, 0), len(x)) for end in self.hue_ends]
        jittered = ends[-1]
        shares = self.shares[part]
        hue = self.hue[part]
        for position, (start, end) in enumerate(pairwise([0, *ends])):
            if self.augment.config.hue and start < end:
                adjust_hue_(x[start:end], hue[start:end])
            if self.blends and jittered and position < 3:
                own, pixel, mean = shares[:jittered, position].unbind(1)
                blend_(x[:jittered], own, pixel, mean)


def evaluation_view(
    images: Tensor,  # (B, 3, H, W) uint8, or float in [0, 1]
    image_size: int,  # S
    normalize: Normalization,
) -> Tensor:  # (B, 3, S, S) float32, normalised
    """The view without randomness: resized to S x S (bilinear, antialiased; not keeping the aspect
    ratio) and normalised."""
    images = unit_float(images)
    if images.shape[-2:] != (image_size, image_size):
        images = functional.interpolate(
            images,
            size=(image_size, image_size),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
    return _standardized(images, normalize)


def whole_view(
    images: Tensor,  # (B, 3, H, W) uint8, or float in [0, 1]
    normalize: Normalization,
) -> Tensor:  # (B, 3, H, W) float32, normalised
    """The view without randomness, at the images' own size."""
    return _standardized(unit_float(images), normalize)


def _standardized(images: Tensor, normalize: Normalization) -> Tensor:
    mean, std = mean_std(normalize, images.device)
    return standardize_(images, mean, std)
