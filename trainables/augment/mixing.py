"""Mixup and CutMix: each image of a batch is mixed with a partner of the same batch, by a share of
its own.

Partners travel with the batch (`Mix`), so that a slice of it is a micro-batch as good as the whole.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from trainables.augment.views import Draws


@dataclass(frozen=True)
class Mix:
    """The partners of B images and how much of each image stays. `mix[a:b]` is a part of the
    batch."""

    images: Tensor  # (B, 3, S, S) uint8, the partners'
    draws: Draws  # B, of the partners' augmentation
    targets: Tensor  # (B,) int64, the partners'
    blended: Tensor  # (B,) bool: mixup, otherwise CutMix
    share: Tensor  # (B,) float32 in [0, 1], of the image itself in mixup
    # (B, 4) top, bottom, left, right of what CutMix pastes, as parts of the view's side
    boxes: Tensor

    def __len__(self) -> int:
        return len(self.share)

    def __getitem__(self, part: slice) -> "Mix":
        return Mix(**{f.name: getattr(self, f.name)[part] for f in fields(self)})

    def to(self, device: torch.device | str) -> "Mix":
        moved = {
            f.name: getattr(self, f.name).to(device, non_blocking=True)
            for f in fields(self)
            if f.name != "draws"
        }
        return Mix(draws=self.draws, **moved)


def draw_mix(
    images: Tensor,  # (B, 3, S, S) uint8
    draws: Draws,
    targets: Tensor,  # (B,)
    mixup: float,
    cutmix: float,
    generator: torch.Generator,
) -> Mix:
    """Partners by a random permutation; shares from Beta(alpha, alpha), one an image.

    Mixup (Zhang et al. 2018, equation 1) with alpha `mixup`, CutMix (Yun et al. 2019, equation 1)
    with alpha `cutmix`; where both are above 0, each image takes one of them, equally likely.

    Raises:
        ValueError: neither alpha is above 0.
    """
    if mixup <= 0 and cutmix <= 0:
        raise ValueError(f"`mixup > 0 or cutmix > 0` must hold, but got {mixup=}, {cutmix=}")
    count = len(targets)
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    partner = torch.from_numpy(rng.permutation(count))
    blended = rng.random(count) < (0.5 if mixup > 0 and cutmix > 0 else float(mixup > 0))
    share = np.where(
        blended,
        rng.beta(mixup or 1.0, mixup or 1.0, count),
        rng.beta(cutmix or 1.0, cutmix or 1.0, count),
    )
    boxes = cutmix_boxes(share, rng.random((count, 2)))
    return Mix(
        images=images[partner],
        draws=draws[partner],
        targets=targets[partner],
        blended=torch.from_numpy(blended),
        share=torch.from_numpy(share).float(),
        boxes=torch.from_numpy(boxes).float(),
    )


def cutmix_boxes(
    share: np.ndarray,  # (B,) in [0, 1], of the image that stays
    centre: np.ndarray,  # (B, 2) in [0, 1)
) -> np.ndarray:  # (B, 4) top, bottom, left, right, as parts of the view's side
    """Squares of area 1 - share around `centre` (Yun et al. 2019, equation 2), cut at the border:
    there they paste less."""
    half = np.sqrt(1 - share)[:, None] / 2
    low, high = np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)
    return np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], 1)


def mix_views(
    views: Tensor,  # (B, 3, S, S) float
    partners: Tensor,  # (B, 3, S, S)
    mix: Mix,
) -> tuple[Tensor, Tensor]:  # (B, 3, S, S); (B,) share of each image itself, counted in pixels
    """share x + (1 - share) x' for mixup; x with a box of x' for CutMix."""
    side = views.shape[-1]
    edges = (mix.boxes * side).round().long()
    at = torch.arange(side, device=views.device)
    rows = (at >= edges[:, :1]) & (at < edges[:, 1:2])  # (B, S)
    columns = (at >= edges[:, 2:3]) & (at < edges[:, 3:])
    pasted = (rows[:, :, None] & columns[:, None, :])[:, None]  # (B, 1, S, S)
    weight = torch.where(
        mix.blended[:, None, None, None], mix.share[:, None, None, None], (~pasted).float()
    )
    share = torch.where(mix.blended, mix.share, 1 - pasted.float().mean((1, 2, 3)))
    return weight * views + (1 - weight) * partners, share
