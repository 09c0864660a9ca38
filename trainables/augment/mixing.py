"""Mixup and CutMix: each image of a batch is mixed with a partner from the same batch, with its own
share.

Partners are part of the batch (`Mix`), so that any slice of it is a valid micro-batch.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from trainables.augment.draws import Draws
from trainables.devices import send


@dataclass(frozen=True)
class Mix:
    """The partners of B images, and the share of each image that stays. `mix[a:b]` selects part of
    the batch."""

    images: Tensor  # (B, 3, S, S) uint8, of the partners
    draws: Draws  # B, of the partners' augmentation
    targets: Tensor  # (B,) int64, of the partners
    blended: Tensor  # (B,) bool: mixup, otherwise CutMix
    share: Tensor  # (B,) float32 in [0, 1], of the image itself in mixup
    boxes: Tensor  # (B, 4) top, bottom, left, right of CutMix's box, as shares of the view's side

    def __len__(self) -> int:
        return len(self.share)

    def __getitem__(self, part: slice) -> "Mix":
        parts = {field.name: getattr(self, field.name)[part] for field in fields(self)}
        return Mix(**parts)

    def to(self, device: torch.device) -> "Mix":
        """Copy to a device, except the draws, which stay on the CPU."""
        return Mix(
            images=send(self.images, device),
            draws=self.draws,
            targets=send(self.targets, device),
            blended=send(self.blended, device),
            share=send(self.share, device),
            boxes=send(self.boxes, device),
        )


def draw_mix(
    images: Tensor,  # (B, 3, S, S) uint8, on any device
    draws: Draws,  # of B images
    targets: Tensor,  # (B,) int64
    mixup: float,  # alpha, >= 0
    cutmix: float,  # alpha, >= 0
    generator: torch.Generator,
) -> Mix:
    """Draw partners by a random permutation, and a share from Beta(alpha, alpha) for each image.

    Mixup (Zhang et al. 2018, equation 1) uses alpha `mixup`, CutMix (Yun et al. 2019, equation 1)
    alpha `cutmix`. If both are above 0, each image gets one of the two with equal probability.

    Raises:
        ValueError: neither alpha is above 0.
    """
    if mixup <= 0 and cutmix <= 0:
        raise ValueError(f"`mixup > 0 or cutmix > 0` must hold, but got {mixup=}, {cutmix=}")
    count = len(targets)
    seed = int(torch.randint(2**62, (), generator=generator))
    rng = np.random.default_rng(seed)

    partner = torch.from_numpy(rng.permutation(count))
    partner_images = images.index_select(0, send(partner, images.device))
    both = mixup > 0 and cutmix > 0
    mixup_probability = 0.5 if both else float(mixup > 0)
    blended = rng.random(count) < mixup_probability
    mixup_share = rng.beta(mixup or 1.0, mixup or 1.0, count)
    cutmix_share = rng.beta(cutmix or 1.0, cutmix or 1.0, count)
    share = np.where(blended, mixup_share, cutmix_share)
    boxes = cutmix_boxes(share, rng.random((count, 2)))
    return Mix(
        images=partner_images,
        draws=draws[partner],
        targets=targets[partner],
        blended=torch.from_numpy(blended),
        share=torch.from_numpy(share).float(),
        boxes=torch.from_numpy(boxes).float(),
    )


def cutmix_boxes(
    share: np.ndarray,  # (B,) in [0, 1], of the image that stays
    centre: np.ndarray,  # (B, 2) vertical and horizontal, in [0, 1)
) -> np.ndarray:  # (B, 4) top, bottom, left, right, as shares of the view's side
    """Squares of area 1 - share around `centre` (Yun et al. 2019, equation 2), clipped at the
    border, where less is pasted."""
    half = np.sqrt(1 - share)[:, None] / 2
    low = np.clip(centre - half, 0, 1)
    high = np.clip(centre + half, 0, 1)
    top, left = low.T
    bottom, right = high.T
    return np.stack([top, bottom, left, right], 1)


def mix_views(
    views: Tensor,  # (B, 3, S, S) float
    partners: Tensor,  # (B, 3, S, S) float
    mix: Mix,
) -> tuple[Tensor, Tensor]:  # (B, 3, S, S); (B,) share of each image itself, counted in pixels
    """Mix views: share x + (1 - share) x' for mixup; x with a box of x' for CutMix."""
    side = views.shape[-1]
    edges = (mix.boxes * side).round().long()
    top, bottom, left, right = edges[:, :, None].unbind(1)  # (B, 1) each
    at = torch.arange(side, device=views.device)
    rows = (at >= top) & (at < bottom)  # (B, S)
    columns = (at >= left) & (at < right)
    pasted = (rows[:, :, None] & columns[:, None, :])[:, None]  # (B, 1, S, S)

    blended = mix.blended[:, None, None, None]
    weight = torch.where(blended, mix.share[:, None, None, None], (~pasted).float())
    kept = 1 - pasted.float().mean((1, 2, 3))
    share = torch.where(mix.blended, mix.share, kept)
    return weight * views + (1 - weight) * partners, share
