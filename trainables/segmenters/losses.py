"""Losses of segmentation: cross-entropy, also weighted by class or with Dice; focal;
Lovász-softmax.

Every loss is a mean over images, so micro-batches and workers do not change it. An ignored pixel
(of unknown class, or padding) counts as a pixel with zero loss, so an image that is mostly padding
contributes little.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from trainables.config import Annotated, Field, config
from trainables.data.splits import IGNORE


@config
class SegmentationLossConfig:
    """The loss over pixels of known class."""

    name: Literal["ce", "weighted_ce", "ce_dice", "focal", "lovasz"] = "ce"
    """ce: cross-entropy. weighted_ce: weighted by class, see `class_power`. ce_dice: ce +
    `dice_weight` x Dice (Milletari et al. 2016) over the classes in an image's truth. focal: Lin et
    al. 2017, equation 4. lovasz: Lovasz-softmax per image (Berman et al. 2018)."""
    class_power: Annotated[float, Field(ge=0, le=1)] = 0.5
    """weighted_ce: x in [0, 1]. A class that covers the share f of the training pixels has weight
    f^-x, divided by the mean weight of a pixel."""
    dice_weight: Annotated[float, Field(gt=0, le=10)] = 1.0
    """ce_dice: weight of the Dice term, in (0, 10]."""
    focal_gamma: Annotated[float, Field(ge=0, le=10)] = 2.0
    """focal: exponent, in [0, 10], that reduces the weight of pixels that are predicted surely."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """ce, weighted_ce, ce_dice: share of the target that is spread over all classes, in [0, 1)."""
    aux_weight: Annotated[float, Field(ge=0, le=1)] = 0.4
    """deeplabv3: weight of the same loss on the auxiliary head's logits, in [0, 1]; 0 = no
    auxiliary head. 0.4 as in Zhao et al. 2017 (PSPNet)."""


def segmentation_loss(
    logits: Tensor,  # (B, C, H, W) float32
    masks: Tensor,  # (B, H, W) int64 in 0..C-1, or IGNORE
    config: SegmentationLossConfig,
    weights: Tensor | None = None,  # (C,) of the classes; weighted_ce
    rules: int = 2,  # `train.rules`
) -> Tensor:  # scalar
    """The loss that the config names, without that of the auxiliary head.

    Under version 1 of the rules, Dice and Lovasz-softmax gave every image full weight, even if most
    of it was ignored, but cross-entropy did not. So padding shifted the balance between them.
    """
    by_share = rules > 1
    if config.name == "focal":
        return focal(logits, masks, config.focal_gamma)
    if config.name == "lovasz":
        return lovasz_softmax(logits, masks, by_share=by_share)
    if config.name == "weighted_ce":
        return cross_entropy(logits, masks, weights, config.label_smoothing)

    loss = cross_entropy(logits, masks, label_smoothing=config.label_smoothing)
    if config.name == "ce_dice":
        overlap = dice(logits, masks, by_share=by_share)
        loss = loss + config.dice_weight * overlap
    return loss


def cross_entropy(
    logits: Tensor, masks: Tensor, weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """torch's cross-entropy summed over pixels of known class, divided by the number of all pixels.

    torch's own weighted mean divides by the sum of the weights that a batch happens to contain.
    """
    total = functional.cross_entropy(
        logits,
        masks,
        weights,
        ignore_index=IGNORE,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    return total / masks.numel()


def focal(logits: Tensor, masks: Tensor, gamma: float) -> Tensor:
    """-(1 - p)^gamma log p of the true class, summed over pixels of known class, divided by the
    number of all pixels."""
    # 0 at ignored pixels.
    log_p = -functional.cross_entropy(logits, masks, ignore_index=IGNORE, reduction="none")
    # For gamma < 1 the power has infinite slope at 0, so pixels with p = 1 would give NaN.
    unsure = (-torch.expm1(log_p)).clamp_min(1e-12)
    return -(unsure**gamma * log_p).sum() / masks.numel()


def dice(logits: Tensor, masks: Tensor, *, by_share: bool = True) -> Tensor:
    """1 - 2 sum p y / (sum p + sum y), averaged over the classes in an image's truth, then over
    images.

    p and y are probabilities and truth over pixels of known class. An image without any adds 0.

    Args:
        by_share: weight an image by its share of known pixels, as in `cross_entropy`.
    """
    p, y = _probabilities_and_truth(logits, masks)
    overlap = (p * y).sum(2)
    sizes = p.sum(2) + y.sum(2)
    losses = 1 - 2 * overlap / sizes.clamp_min(1e-12)
    return _mean_over_present(losses, y, by_share)


def lovasz_softmax(logits: Tensor, masks: Tensor, *, by_share: bool = True) -> Tensor:
    """The Lovasz extension of 1 - IoU (Berman et al. 2018, equations 8 to 11), averaged over the
    classes in an image's truth, then over images, weighted as in `dice`."""
    p, y = _probabilities_and_truth(logits, masks)
    # Ignored pixels have error 0, so they come last and add nothing.
    errors, order = (y - p).abs().sort(2, descending=True)
    hits = y.gather(2, order)

    size = hits.sum(2, keepdim=True)
    intersection = size - hits.cumsum(2)
    union = size + (1 - hits).cumsum(2)
    jaccard = 1 - intersection / union
    first = jaccard[..., :1]
    steps = jaccard[..., 1:] - jaccard[..., :-1]
    slopes = torch.cat([first, steps], 2)
    return _mean_over_present((errors * slopes).sum(2), y, by_share)


def class_weights(
    pixels: np.ndarray,  # (C,) training pixels of each class
    power: float,  # in [0, 1]
) -> Tensor:  # (C,) float32
    """f^-power for each class's share f of the pixels, scaled so that the mean weight of a pixel is
    1; a class without pixels has weight 0."""
    share = pixels / max(1, pixels.sum())
    weights = np.zeros(len(share))
    np.power(share, -power, where=share > 0, out=weights)

    mean = float((share * weights).sum())
    if mean:
        weights = weights / mean
    return torch.from_numpy(weights).float()


def _probabilities_and_truth(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Both (B, C, P), and both 0 at ignored pixels."""
    known = masks != IGNORE
    known_row = known.flatten(1)[:, None]  # (B, 1, P)

    p = logits.softmax(1).flatten(2) * known_row
    truth = functional.one_hot(masks.where(known, 0).flatten(1), logits.shape[1])  # (B, P, C)
    y = truth.mT.to(p.dtype) * known_row
    return p, y


def _mean_over_present(
    losses: Tensor,  # (B, C)
    y: Tensor,  # (B, C, P) truth
    by_share: bool,
) -> Tensor:  # scalar
    """Mean over the classes in an image's truth, then over images, weighted by their share of known
    pixels if `by_share`."""
    present = y.any(2)
    losses = torch.where(present, losses, 0)
    of_images = losses.sum(1) / present.sum(1).clamp_min(1)
    if by_share:
        known = y.sum((1, 2)) / y.shape[2]
        of_images = of_images * known
    return of_images.mean()
