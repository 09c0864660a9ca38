"""Losses of classifiers, for labels that may be soft because of mixing or smoothing."""

import torch
from torch import Tensor

from trainables.config import Annotated, Field, config

Alpha = Annotated[float, Field(ge=0, le=10)]


@config
class LossConfig:
    """Cross-entropy and its variants."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target that is spread over all classes, in [0, 1) (Szegedy et al. 2016, section
    7)."""
    focal_gamma: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Exponent, in [0, 10], that reduces the weight of images of which the network is certain (Lin
    et al. 2017, equation 4); 0 = cross-entropy."""
    mixup: Alpha = 0.0
    """Alpha of mixup, in [0, 10]; 0 = off. With cutmix also on, each image gets one of the two."""
    cutmix: Alpha = 0.0
    """Alpha of CutMix, in [0, 10]; 0 = off."""


def soft_loss(
    logits: Tensor,  # (B, C) float32
    truth: Tensor,  # (B, C) probabilities
    label_smoothing: float,  # in [0, 1)
    focal_gamma: float,  # >= 0
    weights: Tensor | None = None,  # (C,) of the classes; None: all 1
) -> Tensor:  # scalar
    """Mean over images of `soft_losses`."""
    losses = soft_losses(logits, truth, label_smoothing, focal_gamma, weights)
    return losses.mean()


def soft_losses(
    logits: Tensor,  # (..., C) float32
    truth: Tensor,  # (..., C) probabilities
    label_smoothing: float | Tensor,  # in [0, 1); for several heads, broadcasts with `truth`
    focal_gamma: float | Tensor,  # >= 0; likewise
    weights: Tensor | None = None,  # (C,) of the classes; None: all 1; likewise
) -> Tensor:  # (...)
    """Loss of each image, -sum_c w_c q_c (1 - p_c)^gamma log p_c, with q = (1 - smoothing) truth +
    smoothing / C and p = softmax(logits).

    gamma = 0 gives the cross-entropy. For hard labels without smoothing, it is the focal loss (Lin
    et al. 2017, equation 4).
    """
    log_p = logits.log_softmax(-1)
    weight = (1 - label_smoothing) * truth + label_smoothing / truth.shape[-1]
    if isinstance(focal_gamma, Tensor) or focal_gamma:
        # For gamma < 1, the power has infinite slope at 0, which images with p = 1 would reach.
        unsure = (-torch.expm1(log_p)).clamp_min(1e-12)
        weight = weight * unsure**focal_gamma
    if weights is not None:
        weight = weight * weights
    return -(weight * log_p).sum(-1)
