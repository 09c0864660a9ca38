"""Augmentation of images and their masks together, batched, every pair with parameters of its own.

>>> augment = JointAugment(JointAugmentConfig(hflip=0.5), image_size=64)
>>> views, masks = augment.apply(images, masks, augment.draw(len(images), generator))
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

from trainables.augment import Augment, AugmentConfig, Draws
from trainables.config import Annotated, Field, config
from trainables.data import IGNORE
from trainables.image_ops import Normalization, unit_float

Probability = Annotated[float, Field(ge=0, le=1)]


@config
class JointAugmentConfig:
    """Geometry of both, colour of the image. The defaults change nothing."""

    scale_min: Annotated[float, Field(gt=0, le=4)] = 1.0
    """Smallest enlargement, log-uniform up to `scale_max`, in (0, 4]. Below 1 the image leaves a border, which is padding: black, and
    ignored in the mask. Above 1 it is a crop at a random place."""
    scale_max: Annotated[float, Field(gt=0, le=4)] = 1.0
    """Largest enlargement, in (0, 4], not below `scale_min`."""
    hflip: Probability = 0.0
    """Probability of swapping left and right, [0, 1]."""
    vflip: Probability = 0.0
    """Probability of swapping top and bottom, [0, 1]."""
    rot90: Probability = 0.0
    """Probability of a turn by 90, 180 or 270 degrees (equally likely), [0, 1]."""
    jitter: Probability = 0.0
    """Probability of colour jitter: brightness, contrast, saturation and hue in random order, [0, 1]."""
    brightness: Annotated[float, Field(ge=0)] = 0.2
    """Factor uniform in [max(0, 1 - x), 1 + x], x >= 0."""
    contrast: Annotated[float, Field(ge=0)] = 0.2
    """Factor uniform in [max(0, 1 - x), 1 + x], x >= 0."""
    saturation: Annotated[float, Field(ge=0)] = 0.2
    """Factor uniform in [max(0, 1 - x), 1 + x], x >= 0."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """Shift uniform in [-x, x], as a share of the colour circle, [0, 0.5]."""

    def __post_init__(self) -> None:
        if self.scale_min > self.scale_max:
            raise ValueError(f"`scale_min <= scale_max` must hold, but got (scale_min={self.scale_min}, scale_max={self.scale_max})")


@dataclass(frozen=True)
class JointDraws:
    """The parameters of B pairs. `draws[a:b]` is a part of the batch."""

    scale: Tensor  # (B,)
    at: Tensor  # (B, 2) place, horizontal and vertical, in [-1, 1]
    flips: Tensor  # (B, 2) bool, horizontal and vertical
    turns: Tensor  # (B,) int64, quarter turns, 0-3
    colour: Draws

    def __len__(self) -> int:
        return len(self.scale)

    def __getitem__(self, part: slice) -> "JointDraws":
        return JointDraws(**{f.name: getattr(self, f.name)[part] for f in fields(self)})

    def to(self, device: torch.device | str) -> "JointDraws":
        """Itself: `apply` moves the few numbers it needs."""
        return self


class JointAugment:
    """Pure: what comes out depends on the pairs and the draws alone.

    Args:
        image_size: S, of images and masks, which are square.
        normalize: of the views.
    """

    def __init__(self, config: JointAugmentConfig, image_size: int, normalize: Normalization = "imagenet"):
        self.config, self.image_size = config, image_size
        colour = {name: getattr(config, name) for name in ("jitter", "brightness", "contrast", "saturation", "hue")}
        self.colour = Augment(AugmentConfig(**colour, normalize=normalize), image_size)

    def draw(self, batch_size: int, generator: torch.Generator) -> JointDraws:
        """Parameters from a CPU generator; every policy consumes the same random numbers."""
        c = self.config
        scale, x, y, hflip, vflip, rot90, turn = torch.rand(batch_size, 7, generator=generator).unbind(1)
        low, high = math.log(c.scale_min), math.log(c.scale_max)
        return JointDraws(
            scale=torch.exp(low + (high - low) * scale),
            at=2 * torch.stack([x, y], 1) - 1,
            flips=torch.stack([hflip < c.hflip, vflip < c.vflip], 1),
            turns=torch.where(rot90 < c.rot90, 1 + (turn * 3).long(), 0),
            colour=self.colour.draw(batch_size, generator),
        )

    @torch.no_grad()
    def apply(
        self,
        images: Tensor,  # (B, 3, S, S) uint8, or float in [0, 1]
        masks: Tensor,  # (B, S, S) uint8
        draws: JointDraws,
    ) -> tuple[Tensor, Tensor]:  # (B, 3, S, S) float32, normalised; (B, S, S) uint8
        """Images bilinear, masks nearest: a mask's values are never mixed."""
        grid = functional.affine_grid(self._matrices(draws).to(images.device), [len(images), 1, self.image_size, self.image_size], False)
        moved = functional.grid_sample(unit_float(images), grid, mode="bilinear", align_corners=False)
        # Outside is 0 there; so the values are counted from 1.
        shifted = functional.grid_sample(masks[:, None].float() + 1, grid, mode="nearest", align_corners=False)[:, 0]
        masks = torch.where(shifted > 0, shifted - 1, IGNORE).to(torch.uint8)
        return self.colour.apply(moved, draws.colour), masks

    def _matrices(self, draws: JointDraws) -> Tensor:
        """(B, 2, 3) from places in the view, [-1, 1], to places in the image."""
        zoom = 1 / draws.scale  # side of the window in the image
        shift = (1 - zoom)[:, None] * draws.at
        quarter = math.pi / 2 * draws.turns
        cos, sin = quarter.cos().round(), quarter.sin().round()
        turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
        flip = torch.diag_embed(1.0 - 2.0 * draws.flips.float())
        return torch.cat([zoom[:, None, None] * (turn @ flip), shift[:, :, None]], 2)
