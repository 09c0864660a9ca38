"""Augmentation of images together with their masks, batched, every pair with parameters of its own.

>>> augment = JointAugment(JointAugmentConfig(scale_min=0.5, scale_max=2.0, hflip=0.5), image_size=64)
>>> views, masks = augment.apply(images, masks, augment.draw(len(images), generator))

The order is that of torchvision's segmentation references: scale (a crop above 1, padding below),
flips, quarter turns, colour jitter, normalise. Images are resampled bilinearly with antialiasing,
masks by the nearest pixel, so that no class is ever invented; where there is no image the view is
black and the mask `IGNORE`.
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from trainables.augment.image_ops import Normalization, on_chosen, resample
from trainables.augment.view_config import AugmentConfig, Probability
from trainables.augment.views import Augment, Draws
from trainables.config import Annotated, Field, config
from trainables.data.splits import IGNORE

_CHUNK_BYTES = 3 << 20  # of float32 images worked on at a time on a CPU, so that they stay in cache


@config
class JointAugmentConfig:
    """Geometry of both, colour of the image. The defaults change nothing."""

    scale_min: Annotated[float, Field(gt=0, le=4)] = 1.0
    """Smallest enlargement, in (0, 4], log-uniform up to `scale_max`. Below 1 the image leaves a
    border, which is padding: black, and ignored in the mask. Above 1 a crop at a random place is
    left."""
    scale_max: Annotated[float, Field(gt=0, le=4)] = 1.0
    """Largest enlargement, in (0, 4], not below `scale_min`."""
    hflip: Probability = 0.0
    """Probability of swapping left and right, [0, 1]."""
    vflip: Probability = 0.0
    """Probability of swapping top and bottom, [0, 1]."""
    rot90: Probability = 0.0
    """Probability of a turn by 90, 180 or 270 degrees (equally likely), [0, 1]."""
    jitter: Probability = 0.0
    """Probability of colour jitter: brightness, contrast, saturation and hue in random order, [0,
    1]."""
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
            raise ValueError(
                f"`scale_min <= scale_max` must hold, but got (scale_min={self.scale_min}, scale_max={self.scale_max})"
            )


@dataclass(frozen=True)
class JointDraws:
    """The parameters of B pairs. `draws[a:b]` is a part of the batch."""

    scale: Tensor  # (B,) enlargement
    # (B, 2) place of the crop or of the padded image, vertical and horizontal, in [0, 1)
    at: Tensor
    hflip: Tensor  # (B,) bool
    vflip: Tensor  # (B,) bool
    turns: Tensor  # (B,) int64, quarter turns counter-clockwise, 0-3
    colour: Draws  # of B images

    def __len__(self) -> int:
        return len(self.scale)

    def __getitem__(self, part: slice | Tensor) -> "JointDraws":
        return JointDraws(**{f.name: getattr(self, f.name)[part] for f in fields(self)})

    def to(self, device: torch.device | str) -> "JointDraws":
        """Itself: draws stay on the CPU; `apply` moves the few numbers it needs."""
        return self

    def windows(self, image_size: int) -> tuple[Tensor, Tensor]:
        """Side (B,) of the scaled image, and (B, 2) top and left of the view in it, negative where
        it is padded; int64, pixels."""
        sides = (self.scale * image_size).round().long().clamp_min(1)
        spare = sides - image_size
        steps = spare.abs()[:, None]
        # the product can round up to a whole
        offset = torch.minimum((self.at * (steps + 1)).long(), steps)
        return sides, offset * spare.sign()[:, None]


class JointAugment:
    """Pure: what comes out depends on the pairs and the draws alone.

    Args:
        image_size: S, of images and masks, which are square, and of the views.
        normalize: of the views.
    """

    def __init__(
        self, config: JointAugmentConfig, image_size: int, normalize: Normalization = "imagenet"
    ):
        self.config, self.image_size = config, image_size
        strengths = {
            name: getattr(config, name)
            for name in ("jitter", "brightness", "contrast", "saturation", "hue")
        }
        self.colour = Augment(AugmentConfig(**strengths, normalize=normalize), image_size)

    def draw(self, batch_size: int, generator: torch.Generator) -> JointDraws:
        """Parameters for `batch_size` pairs from a CPU generator. Every policy consumes the same
        random numbers."""
        c = self.config
        scale, top, left, hflip, vflip, rot90, turn = torch.rand(
            batch_size, 7, generator=generator
        ).unbind(1)
        low, high = math.log(c.scale_min), math.log(c.scale_max)
        return JointDraws(
            scale=torch.exp(low + (high - low) * scale),
            at=torch.stack([top, left], 1),
            hflip=hflip < c.hflip,
            vflip=vflip < c.vflip,
            turns=torch.where(rot90 < c.rot90, 1 + (turn * 3).long(), 0),
            colour=self.colour.draw(batch_size, generator),
        )

    @torch.no_grad()
    def apply(
        self,
        images: Tensor,  # (B, 3, S, S) uint8, or float in [0, 1], on any device
        masks: Tensor,  # (B, S, S) uint8, on the same device
        draws: JointDraws,  # of B pairs
        # (B, 3, S, S) float32, normalised; (B, S, S) uint8 of the classes in `masks`, or IGNORE
    ) -> tuple[Tensor, Tensor]:
        """Both moved alike; the colours of the images changed and normalised."""
        step = len(images) or 1
        if images.device.type == "cpu":
            step = max(4, _CHUNK_BYTES // (12 * self.image_size**2))
        views, moved = torch.empty(images.shape, device=images.device), torch.empty_like(masks)
        for start in range(0, len(images), step):
            part = slice(start, start + step)
            moved[part] = self._apply(images[part], masks[part], draws[part], views[part])
        return views, moved

    def _apply(self, images: Tensor, masks: Tensor, draws: JointDraws, out: Tensor) -> Tensor:
        """Masks moved; `out` (B, 3, S, S) becomes the views."""
        size, device = self.image_size, images.device
        sides, offsets = (numbers.to(device, non_blocking=True) for numbers in draws.windows(size))
        # A turn by 90 degrees is one flip, then the axes swapped; by 270 the other flip, by 180
        # both.
        upside_down = (draws.vflip ^ (draws.turns >= 2)).to(device, non_blocking=True)
        left_right = (draws.hflip ^ ((draws.turns == 1) | (draws.turns == 2))).to(
            device, non_blocking=True
        )
        rows, columns = (
            _places(sides, offset, flip, size)
            for offset, flip in zip(offsets.unbind(1), (upside_down, left_right), strict=True)
        )
        straight = draws.turns % 2 == 0
        largest = size / max(1, round(self.config.scale_min * size))
        vertical, horizontal = (_taps(places, sides, size, largest) for places in (rows, columns))
        if images.dtype == torch.uint8:
            vertical = (vertical[0], vertical[1] / 255)
        scaled = resample(images.float(), vertical, horizontal)  # axes swapped
        scaled = on_chosen(scaled, straight, lambda x, _: x.mT.contiguous())
        moved = _nearest(masks, rows, columns, sides)
        moved = on_chosen(moved, ~straight, lambda x, _: x.mT.contiguous())
        self.colour.apply(scaled, draws.colour, out)
        return moved


def _places(sides: Tensor, offset: Tensor, flip: Tensor, size: int) -> Tensor:
    """(B, S) int64: where in the scaled image each pixel of the view's axis lies; outside of [0,
    side) is padding."""
    out = torch.arange(size, device=sides.device)
    return torch.where(flip[:, None], size - 1 - out, out) + offset[:, None]


def _taps(places: Tensor, sides: Tensor, size: int, largest: float) -> tuple[Tensor, Tensor]:
    """Rows and weights, both (B, S, K), of a bilinear resize with antialiasing from S to `sides`
    pixels; padding weighs nothing.

    As `image_ops.resize_taps`, whose output is the whole of a box, not a window into it. `largest`
    bounds S / side and fixes K.
    """
    scale = (size / sides)[:, None]
    support = scale.clamp_min(1.0)
    centre = scale * (places + 0.5)
    first = (centre - support + 0.5).floor().clamp_min_(0.0)
    rows = first[..., None] + torch.arange(math.ceil(2 * max(largest, 1.0)), device=places.device)
    weights = (1 - ((rows - centre[..., None] + 0.5) / support[..., None]).abs_()).clamp_min_(0.0)
    weights *= rows <= size - 1
    weights /= weights.sum(-1, keepdim=True).clamp_min_(1e-6)
    weights *= _inside(places, sides)[..., None]
    return rows.clamp_max_(size - 1).int(), weights


def _nearest(masks: Tensor, rows: Tensor, columns: Tensor, sides: Tensor) -> Tensor:
    """(B, S, S) uint8: the mask's pixel under the centre of each pixel of the view.

    torch's "nearest-exact" in whole numbers: where a centre lies between two pixels, its choice
    depends on rounding, this one's does not.
    """
    size = masks.shape[-1]
    row, column = (
        ((2 * places + 1) * size)
        .div_(2 * sides[:, None], rounding_mode="floor")
        .clamp_(0, size - 1)
        for places in (rows, columns)
    )
    first = torch.arange(0, masks.numel(), size * size, device=masks.device).view(-1, 1, 1)
    moved = masks.reshape(-1).take(first + row[:, :, None] * size + column[:, None])
    known = _inside(rows, sides)[:, :, None] & _inside(columns, sides)[:, None]
    return moved.masked_fill_(~known, IGNORE)


def _inside(places: Tensor, sides: Tensor) -> Tensor:
    return (places >= 0) & (places < sides[:, None])
