"""Losses of segmentation: cross-entropy, weighted by class, with Dice, focal, and Lovász-softmax.

Every loss is a mean over images, of sums over their pixels where there are any, so that
micro-batches and workers change nothing. A pixel that is ignored (no class, or padding) counts as a
pixel without loss: an image that is mostly padding has little to say.
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
    """What is minimised over the pixels that have a class."""

    name: Literal["ce", "weighted_ce", "ce_dice", "focal", "lovasz"] = "ce"
    """ce: cross-entropy; weighted_ce: by class, see `class_power`; ce_dice: ce + `dice_weight` x
    Dice (Milletari et al. 2016, with the classes of each image's truth); focal: Lin et al. 2017,
    equation 4; lovasz: Lovasz-softmax per image (Berman et al. 2018)."""
    class_power: Annotated[float, Field(ge=0, le=1)] = 0.5
    """weighted_ce: a class that covers the share f of the training pixels weighs f^-x, x in [0, 1],
    over the mean pixel's weight."""
    dice_weight: Annotated[float, Field(gt=0, le=10)] = 1.0
    """ce_dice: weight of the Dice term, in (0, 10]."""
    focal_gamma: Annotated[float, Field(ge=0, le=10)] = 2.0
    """focal: exponent that turns the loss away from what is known, in [0, 10]."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """ce, weighted_ce, ce_dice: share of the target that is spread over all classes, in [0, 1)."""
    aux_weight: Annotated[float, Field(ge=0, le=1)] = 0.4
    """deeplabv3: weight of the same loss on the auxiliary head's logits, in [0, 1]; 0 = no such
    head. 0.4: Zhao et al. 2017 (PSPNet)."""


def segmentation_loss(
    logits: Tensor,  # (B, C, H, W) float32
    masks: Tensor,  # (B, H, W) int64 in 0..C-1, or IGNORE
    config: SegmentationLossConfig,
    weights: Tensor | None = None,  # (C,) of the classes; weighted_ce
) -> Tensor:  # scalar
    """The loss by name, without the auxiliary head's."""
    if config.name == "focal":
        return focal(logits, masks, config.focal_gamma)
    if config.name == "lovasz":
        return lovasz_softmax(logits, masks)
    ce = cross_entropy(
        logits, masks, weights if config.name == "weighted_ce" else None, config.label_smoothing
    )
    return ce + config.dice_weight * dice(logits, masks) if config.name == "ce_dice" else ce


def cross_entropy(
    logits: Tensor, masks: Tensor, weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """torch's cross-entropy summed over the pixels with a class, over the number of all pixels.
    Unlike torch's own mean with weights, which divides by the weights that the batch happens to
    hold."""
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
    """-(1 - p)^gamma log p of the true class, summed over the pixels with a class, over the number
    of all pixels."""
    # 0 where ignored
    log_p = -functional.cross_entropy(logits, masks, ignore_index=IGNORE, reduction="none")
    # The power's slope is infinite at 0 for gamma < 1, which a pixel that is certainly right would
    # turn into NaN.
    return -((-torch.expm1(log_p)).clamp_min(1e-12) ** gamma * log_p).sum() / masks.numel()


def dice(logits: Tensor, masks: Tensor) -> Tensor:
    """1 - 2 sum p y / (sum p + sum y), mean over the classes that an image's truth has, then over
    images.

    p and y are probabilities and truth over the pixels with a class. An image without any adds 0.
    """
    p, y = _probabilities_and_truth(logits, masks)
    overlap, sizes, present = (p * y).sum(2), p.sum(2) + y.sum(2), y.any(2)
    losses = torch.where(present, 1 - 2 * overlap / sizes.clamp_min(1e-12), 0)
    return (losses.sum(1) / present.sum(1).clamp_min(1)).mean()


def lovasz_softmax(logits: Tensor, masks: Tensor) -> Tensor:
    """The Lovasz extension of 1 - IoU (Berman et al. 2018, eq. 8-11), mean over the classes of an
    image's truth, then over images."""
    p, y = _probabilities_and_truth(logits, masks)
    present = y.any(2)
    # ignored pixels have error 0: they come last and add nothing
    errors, order = (y - p).abs().sort(2, descending=True)
    hits = y.gather(2, order)
    size = hits.sum(2, keepdim=True)
    jaccard = 1 - (size - hits.cumsum(2)) / (size + (1 - hits).cumsum(2))
    slopes = torch.cat([jaccard[..., :1], jaccard[..., 1:] - jaccard[..., :-1]], 2)
    losses = torch.where(present, (errors * slopes).sum(2), 0)
    return (losses.sum(1) / present.sum(1).clamp_min(1)).mean()


def class_weights(
    pixels: np.ndarray,  # (C,) training pixels of each class
    power: float,  # in [0, 1]
) -> Tensor:  # (C,) float32
    """f^-power for the share f of the pixels, scaled so that the mean pixel weighs 1; a class
    without pixels weighs 0."""
    share = pixels / max(1, pixels.sum())
    weights = np.where(
        share > 0, np.power(share, -power, where=share > 0, out=np.zeros(len(share))), 0.0
    )
    mean = float((share * weights).sum())
    return torch.from_numpy(weights / mean if mean else weights).float()


def _probabilities_and_truth(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C, P) each, both 0 at ignored pixels."""
    known = (masks != IGNORE).flatten(1)[:, None]
    p = logits.softmax(1).flatten(2) * known
    y = (
        functional.one_hot(masks.where(masks != IGNORE, 0).flatten(1), logits.shape[1]).mT.to(
            p.dtype
        )
        * known
    )
    return p, y
