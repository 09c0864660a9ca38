"""Random parameters of a batch of views, one set per image."""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from trainables.augment.resampling import crop_boxes
from trainables.augment.trivial_augment import IDENTITY, draw_trivial
from trainables.augment.view_config import AugmentConfig

ATTEMPTS = 10
"""Attempts at a crop that fits, before the central crop is used, as in torchvision."""

# Random numbers per image: areas, ratios, position, order, factors, the rest, TrivialAugment.
_RANDOM_COUNTS = [ATTEMPTS, ATTEMPTS, 2, 4, 4, 11, 3]


@dataclass(frozen=True)
class Draws:
    """The parameters of B images. `draws[a:b]` selects part of the batch."""

    crop_areas: Tensor  # (B, ATTEMPTS) share of the image's area
    crop_log_ratios: Tensor  # (B, ATTEMPTS) log(width / height)
    crop_at: Tensor  # (B, 2) position of the box, vertical and horizontal, in [0, 1)
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
        parts = {field.name: getattr(self, field.name)[part] for field in fields(self)}
        return Draws(**parts)

    def to(self, device: torch.device | str) -> "Draws":
        """Return self. Draws stay on the CPU, which must know the operations of each image; `apply`
        copies the few numbers that it needs."""
        return self

    def boxes(
        self,
        image_size: tuple[int, int],  # height, width in pixels
        max_ratio: float,
    ) -> Tensor:  # (B, 4) int64: top, left, height, width in pixels
        """Crop box of each image; the whole image if it is not cropped."""
        boxes = crop_boxes(
            self.crop_areas, self.crop_log_ratios, self.crop_at, image_size, max_ratio
        )
        whole = torch.tensor([0, 0, *image_size])
        return torch.where(self.crop[:, None], boxes, whole)


def draw(config: AugmentConfig, batch_size: int, generator: torch.Generator) -> Draws:
    """Draw parameters for `batch_size` images from a CPU generator. Every policy consumes the same
    random numbers, so changing one setting leaves all other draws unchanged."""
    uniform = torch.rand(batch_size, sum(_RANDOM_COUNTS), generator=generator)
    areas, ratios, at, order, factors, rest, trivial = torch.split(uniform, _RANDOM_COUNTS, 1)
    hflip, vflip, rot90, turn, jitter, grayscale, blur, sigma, solarize, choice, angle = (
        rest.unbind(1)
    )
    cropped = torch.full((batch_size,), crops(config))
    flipped = hflip < config.hflip
    jittered = jitter < config.jitter
    if config.one_of:
        chosen = (choice * 3).long()
        cropped = (chosen == 0) & cropped
        flipped = (chosen == 1) & flipped
        jittered = (chosen == 2) & jittered

    operation, magnitude = draw_trivial(trivial)
    if not config.trivial:
        operation = torch.full_like(operation, IDENTITY)

    area_range = config.crop_scale_max - config.crop_scale_min
    sigma_range = config.blur_sigma_max - config.blur_sigma_min
    return Draws(
        crop_areas=config.crop_scale_min + area_range * areas,
        crop_log_ratios=math.log(config.crop_ratio) * (2 * ratios - 1),
        crop_at=at,
        crop=cropped,
        hflip=flipped,
        vflip=vflip < config.vflip,
        turns=torch.where(rot90 < config.rot90, 1 + (turn * 3).long(), 0),
        angle=config.rotate * (2 * angle - 1),
        jitter=jittered,
        order=order.argsort(1),
        factors=_jitter_factors(config, factors),
        grayscale=grayscale < config.grayscale,
        blur=blur < config.blur,
        sigma=config.blur_sigma_min + sigma_range * sigma,
        solarize=solarize < config.solarize,
        operation=operation,
        magnitude=magnitude,
    )


def crops(config: AugmentConfig) -> bool:
    """True if the policy takes a random crop; otherwise the whole image is resized."""
    return (config.crop_scale_min, config.crop_scale_max) != (1, 1)


def _jitter_factors(
    config: AugmentConfig,
    uniform: Tensor,  # (B, 4) in [0, 1)
) -> Tensor:  # (B, 4)
    """Factors of brightness, contrast and saturation, in [max(0, 1 - x), 1 + x] for a strength x,
    and the hue shift, in [-x, x], as in torchvision's `ColorJitter`."""
    strengths = torch.tensor([config.brightness, config.contrast, config.saturation, config.hue])
    centre = torch.tensor([1.0, 1.0, 1.0, 0.0])
    lowest = torch.tensor([0.0, 0.0, 0.0, -0.5])
    low = torch.maximum(centre - strengths, lowest)
    return low + (centre + strengths - low) * uniform


def quarter_turn_flips(
    vflip: Tensor,  # (B,) bool
    hflip: Tensor,  # (B,) bool
    turns: Tensor,  # (B,) int64, quarter turns counter-clockwise, 0-3
) -> tuple[Tensor, Tensor]:  # (B,) bool both: upside down, left and right swapped
    """Flips that, with the axes swapped for odd turns, equal the flips and turns of an image.

    A turn by 90 degrees is one flip followed by swapped axes; by 270, the other flip; by 180, both.
    """
    upside_down = vflip ^ (turns >= 2)
    left_right = hflip ^ ((turns == 1) | (turns == 2))
    return upside_down, left_right
