"""Networks that slowly follow another network: BYOL's target, MoCo's key encoder, DINO's
teacher."""

import math

import torch
from torch import Tensor, nn


def momentum_at(step: int, total_steps: int, tau0: float) -> float:
    """1 - (1 - tau0) (cos(pi k / K) + 1) / 2: from tau0 at the first step to 1 at the end (Grill et
    al. 2020, section 3.2)."""
    progress = math.pi * step / total_steps
    return 1 - (1 - tau0) * (math.cos(progress) + 1) / 2


@torch.no_grad()
def move_towards(target: nn.Module, source: nn.Module, momentum: float) -> None:
    """xi <- m xi + (1 - m) theta for the parameters of two equal networks, in place and in one
    call."""
    moved: list[Tensor] = list(target.parameters())
    reference: list[Tensor] = list(source.parameters())
    torch._foreach_lerp_(moved, reference, 1 - momentum)
