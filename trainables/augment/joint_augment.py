"""Batched augmentation of images together with their masks, with separate parameters per pair.

>>> config = JointAugmentConfig(scale_min=0.5, scale_max=2.0, hflip=0.5)
>>> augment = JointAugment(config, image_size=64)
>>> views, masks = augment.apply(images, masks, augment.draw(len(images), generator))

Colour jitter comes first, then scale (a crop above 1, padding below), flips, quarter turns and
normalisation. Images are resampled bilinearly with antialiasing, masks by nearest neighbour, so no
new class values appear. In padding, the view is black and the mask is `IGNORE`. Jitter after
padding would turn it grey, and its share would shift the contrast.
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from trainables.augment.draws import Draws, quarter_turn_flips
from trainables.augment.image_ops import Normalization, mean_std, on_chosen, standardize_
from trainables.augment.resampling import Taps, resample, tap_count, triangle_taps
from trainables.augment.view_config import AugmentConfig, Probability
from trainables.augment.views import Augment
from trainables.config import Annotated, Field, config
from trainables.data.splits import IGNORE
from trainables.devices import send

_CHUNK_BYTES = 3 << 20  # of float32 images processed at a time on a CPU, to stay in cache
_MIN_CHUNK = 4  # images
_BYTES_PER_PIXEL = 12  # three channels of float32


@config
class JointAugmentConfig:
    """Geometry of image and mask, colour of the image. The defaults change nothing."""

    scale_min: Annotated[float, Field(gt=0, le=4)] = 1.0
    """Smallest scale factor, in (0, 4], log-uniform up to `scale_max`. Below 1, the border around
    the image is padding: black, and ignored in the mask. Above 1, the view is a crop at a random
    position."""
    scale_max: Annotated[float, Field(gt=0, le=4)] = 1.0
    """Largest scale factor, in (0, 4], at least `scale_min`."""
    hflip: Probability = 0.0
    """Probability of a horizontal flip (left and right swapped), in [0, 1]."""
    vflip: Probability = 0.0
    """Probability of a vertical flip (top and bottom swapped), in [0, 1]."""
    rot90: Probability = 0.0
    """Probability of a turn by 90, 180 or 270 degrees (equally likely), in [0, 1]."""
    jitter: Probability = 0.0
    """Probability of colour jitter, in [0, 1]: brightness, contrast, saturation and hue in random
    order."""
    brightness: Annotated[float, Field(ge=0)] = 0.2
    """Strength x >= 0 of brightness jitter; the factor is uniform in [max(0, 1 - x), 1 + x]."""
    contrast: Annotated[float, Field(ge=0)] = 0.2
    """Strength x >= 0 of contrast jitter; the factor is uniform in [max(0, 1 - x), 1 + x]."""
    saturation: Annotated[float, Field(ge=0)] = 0.2
    """Strength x >= 0 of saturation jitter; the factor is uniform in [max(0, 1 - x), 1 + x]."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """Largest shift of the hue, as a share of the colour circle, in [0, 0.5]; uniform in
    [-x, x]."""

    def __post_init__(self) -> None:
        if self.scale_min > self.scale_max:
            raise ValueError(
                "`scale_min <= scale_max` must hold, but got "
                f"(scale_min={self.scale_min}, scale_max={self.scale_max})"
            )


@dataclass(frozen=True)
class JointDraws:
    """The parameters of B pairs. `draws[a:b]` selects part of the batch."""

    scale: Tensor  # (B,) scale factor
    at: Tensor  # (B, 2) position of crop or padded image, vertical and horizontal, in [0, 1)
    hflip: Tensor  # (B,) bool
    vflip: Tensor  # (B,) bool
    turns: Tensor  # (B,) int64, quarter turns counter-clockwise, 0-3
    colour: Draws  # of B images

    def __len__(self) -> int:
        return len(self.scale)

    def __getitem__(self, part: slice | Tensor) -> "JointDraws":
        parts = {field.name: getattr(self, field.name)[part] for field in fields(self)}
        return JointDraws(**parts)

    def to(self, device: torch.device | str) -> "JointDraws":
        """Return self. Draws stay on the CPU; `apply` copies the few numbers that it needs."""
        return self

    def windows(
        self,
        image_size: int,  # S, pixels
    ) -> tuple[Tensor, Tensor]:  # (B,) int64; (B, 2) int64, pixels
        """Side of the scaled image, and top and left of the view in it; negative with padding."""
        sides = (self.scale * image_size).round().long().clamp_min(1)
        spare = sides - image_size
        steps = spare.abs()[:, None]
        # the product can be rounded up to `steps + 1`
        offset = torch.minimum((self.at * (steps + 1)).long(), steps)
        return sides, offset * spare.sign()[:, None]


class JointAugment:
    """Augmentation of a batch of pairs. Pure: the result depends only on the pairs and the draws.

    Args:
        image_size: side S of images, masks and views, which are square.
        normalize: normalisation of the views.
        jitter_first: jitter colours before padding. False: after it, as in studies with
            `train.rules` 1.
    """

    def __init__(
        self,
        config: JointAugmentConfig,
        image_size: int,
        normalize: Normalization = "imagenet",
        jitter_first: bool = True,
    ):
        self.config = config
        self.image_size = image_size
        self.normalize = normalize
        self.jitter_first = jitter_first
        colour = AugmentConfig(
            jitter=config.jitter,
            brightness=config.brightness,
            contrast=config.contrast,
            saturation=config.saturation,
            hue=config.hue,
            normalize="none" if jitter_first else normalize,
        )
        self.colour = Augment(colour, image_size)

    def draw(self, batch_size: int, generator: torch.Generator) -> JointDraws:
        """Draw parameters for `batch_size` pairs from a CPU generator. Every policy consumes the
        same random numbers."""
        config = self.config
        uniform = torch.rand(batch_size, 7, generator=generator)
        scale, top, left, hflip, vflip, rot90, turn = uniform.unbind(1)
        low = math.log(config.scale_min)
        high = math.log(config.scale_max)
        return JointDraws(
            scale=torch.exp(low + (high - low) * scale),
            at=torch.stack([top, left], 1),
            hflip=hflip < config.hflip,
            vflip=vflip < config.vflip,
            turns=torch.where(rot90 < config.rot90, 1 + (turn * 3).long(), 0),
            colour=self.colour.draw(batch_size, generator),
        )

    @torch.no_grad()
    def apply(
        self,
        images: Tensor,  # (B, 3, S, S) uint8, or float in [0, 1], on any device
        masks: Tensor,  # (B, S, S) uint8, on the same device
        draws: JointDraws,  # of B pairs
    ) -> tuple[Tensor, Tensor]:
        """Move images and masks in the same way; change and normalise the colours of the images.

        Returns:
            Views (B, 3, S, S) float32, normalised, and masks (B, S, S) uint8: the classes in
            `masks`, or IGNORE.
        """
        step = len(images) or 1
        if images.device.type == "cpu":
            step = max(_MIN_CHUNK, _CHUNK_BYTES // (_BYTES_PER_PIXEL * self.image_size**2))

        views = torch.empty(images.shape, device=images.device)
        moved = torch.empty_like(masks)
        for start in range(0, len(images), step):
            part = slice(start, start + step)
            moved[part] = self._apply(images[part], masks[part], draws[part], views[part])
        return views, moved

    def _apply(
        self,
        images: Tensor,  # (n, 3, S, S)
        masks: Tensor,  # (n, S, S)
        draws: JointDraws,
        out: Tensor,  # (n, 3, S, S), becomes the views
    ) -> Tensor:  # (n, S, S) uint8, the moved masks
        size = self.image_size
        device = images.device
        if self.jitter_first:
            images = self.colour.apply(images, draws.colour)

        sides, offsets = draws.windows(size)
        sides = send(sides, device)
        offsets = send(offsets, device)
        upside_down, left_right = quarter_turn_flips(draws.vflip, draws.hflip, draws.turns)
        upside_down = send(upside_down, device)
        left_right = send(left_right, device)
        top, left = offsets.unbind(1)
        rows = _positions(top, upside_down, size)
        columns = _positions(left, left_right, size)

        largest = size / max(1, round(self.config.scale_min * size))
        vertical = _window_taps(rows, sides, size, largest)
        horizontal = _window_taps(columns, sides, size, largest)
        if images.dtype == torch.uint8:
            vertical = Taps(vertical.rows, vertical.weights / 255)

        straight = draws.turns % 2 == 0
        scaled = resample(images.float(), vertical, horizontal)  # axes swapped
        scaled = on_chosen(scaled, straight, lambda x, _: x.mT.contiguous())
        moved = _nearest(masks, rows, columns, sides)
        moved = on_chosen(moved, ~straight, lambda x, _: x.mT.contiguous())
        if self.jitter_first:
            mean, std = mean_std(self.normalize, device)
            out.copy_(standardize_(scaled, mean, std))
        else:
            self.colour.apply(scaled, draws.colour, out)
        return moved


def _positions(
    offset: Tensor,  # (B,) int64
    flip: Tensor,  # (B,) bool
    size: int,  # S
) -> Tensor:  # (B, S) int64
    """Position in the scaled image of each view pixel along one axis; padding is outside [0,
    side)."""
    out = torch.arange(size, device=offset.device)
    mirrored = size - 1 - out
    return torch.where(flip[:, None], mirrored, out) + offset[:, None]


def _window_taps(
    positions: Tensor,  # (B, S) from `_positions`
    sides: Tensor,  # (B,) pixels of the scaled image
    size: int,  # S
    largest: float,  # upper bound on S / side, which determines K
) -> Taps:  # (B, S, K)
    """Taps of an antialiased bilinear resize from S to `sides` pixels; padding has weight 0.

    Like `resampling.resize_taps`, except that the output is a window, not the whole of a box.
    """
    scale = (size / sides)[:, None]
    rows, weights = triangle_taps(positions, scale, tap_count(largest, 1))
    weights *= rows <= size - 1
    weights /= weights.sum(-1, keepdim=True).clamp_min_(1e-6)
    weights *= _inside(positions, sides)[..., None]
    return Taps(rows.clamp_max_(size - 1).int(), weights)


def _nearest(
    masks: Tensor,  # (B, S, S) uint8
    rows: Tensor,  # (B, S) positions
    columns: Tensor,  # (B, S) positions
    sides: Tensor,  # (B,)
) -> Tensor:  # (B, S, S) uint8
    """Take the mask pixel under the centre of each view pixel.

    Equals torch's "nearest-exact", but in integers: if a centre lies between two pixels, torch's
    choice depends on rounding, and this one does not.
    """
    size = masks.shape[-1]
    row = _nearest_pixel(rows, sides, size)
    column = _nearest_pixel(columns, sides, size)
    first = torch.arange(0, masks.numel(), size * size, device=masks.device).view(-1, 1, 1)
    places = first + row[:, :, None] * size + column[:, None]
    moved = masks.reshape(-1).take(places)
    known_rows = _inside(rows, sides)[:, :, None]
    known_columns = _inside(columns, sides)[:, None]
    known = known_rows & known_columns
    return moved.masked_fill_(~known, IGNORE)


def _nearest_pixel(positions: Tensor, sides: Tensor, size: int) -> Tensor:  # (B, S) int64
    doubled = (2 * positions + 1) * size
    pixel = doubled.div_(2 * sides[:, None], rounding_mode="floor")
    return pixel.clamp_(0, size - 1)


def _inside(positions: Tensor, sides: Tensor) -> Tensor:
    """True for coordinates inside the image."""
    return (positions >= 0) & (positions < sides[:, None])
