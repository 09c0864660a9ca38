"""Segmentation losses against torch's own and against NumPy loops over pixels."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from trainables.segmenters.losses import (
    IGNORE,
    SegmentationLossConfig,
    class_weights,
    cross_entropy,
    dice,
    focal,
    lovasz_softmax,
    segmentation_loss,
)

NAMES = ("ce", "weighted_ce", "ce_dice", "focal", "lovasz")


def some(ignored: bool = True) -> tuple[Tensor, Tensor]:
    """Return logits and masks. Class 3 never occurs, and image 2 has only ignored pixels."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 5, 6, generator=generator, dtype=torch.float64)
    masks = torch.randint(3, (3, 5, 6), generator=generator)
    if ignored:
        masks[0, :2] = IGNORE
        masks[2] = IGNORE
    return logits, masks


def test_cross_entropy_is_torchs() -> None:
    weights = torch.tensor([0.5, 2.0, 1.0, 0.0], dtype=torch.float64)
    logits, masks = some(ignored=False)
    torch.testing.assert_close(
        cross_entropy(logits, masks), functional.cross_entropy(logits, masks)
    )
    torch.testing.assert_close(
        cross_entropy(logits, masks, None, 0.1),
        functional.cross_entropy(logits, masks, label_smoothing=0.1),
    )
    logits, masks = some()
    known = (masks != IGNORE).double().mean()
    torch.testing.assert_close(
        cross_entropy(logits, masks),
        functional.cross_entropy(logits, masks, ignore_index=IGNORE) * known,
    )
    one_by_one = functional.cross_entropy(
        logits, masks, weights, ignore_index=IGNORE, reduction="none"
    )
    torch.testing.assert_close(cross_entropy(logits, masks, weights), one_by_one.mean())


def test_focal_is_equation_4() -> None:
    logits, masks = some()
    p = logits.softmax(1).gather(1, masks.where(masks != IGNORE, 0)[:, None])[:, 0]
    for gamma in (0.5, 2.0):
        expected = torch.where(masks != IGNORE, -((1 - p) ** gamma) * p.log(), 0).mean()
        torch.testing.assert_close(focal(logits, masks, gamma), expected)
    torch.testing.assert_close(focal(logits, masks, 0.0), cross_entropy(logits, masks))


def test_dice_is_its_formula() -> None:
    logits, masks = some()
    p, losses = logits.softmax(1).numpy(), []
    for image, truth in zip(p, masks.numpy(), strict=True):
        known = truth != IGNORE
        of_classes = []
        for c in np.unique(truth[known]):
            y = truth[known] == c
            of_classes.append(1 - 2 * image[c][known][y].sum() / (image[c][known].sum() + y.sum()))
        losses.append(np.mean(of_classes) if of_classes else 0.0)
    np.testing.assert_allclose(dice(logits, masks, by_share=False), np.mean(losses))
    known = (masks != IGNORE).double().mean((1, 2)).numpy()
    np.testing.assert_allclose(dice(logits, masks), np.mean(losses * known))


def berman(p: np.ndarray, truth: np.ndarray) -> float:
    """Algorithm 1 of Berman et al. 2018, class by class over a list of pixels."""
    losses = []
    for c in np.unique(truth):
        foreground = (truth == c).astype(float)
        errors = np.abs(foreground - p[c])
        order = np.argsort(-errors)
        sorted_truth = foreground[order]
        intersection = sorted_truth.sum() - np.cumsum(sorted_truth)
        union = sorted_truth.sum() + np.cumsum(1 - sorted_truth)
        jaccard = 1 - intersection / union
        jaccard[1:] -= jaccard[:-1].copy()
        losses.append(errors[order] @ jaccard)
    return float(np.mean(losses))


def test_lovasz_softmax_is_algorithm_1() -> None:
    logits, masks = some()
    expected = []
    for image, truth in zip(logits.softmax(1).numpy(), masks.numpy(), strict=True):
        known = truth != IGNORE
        expected.append(berman(image[:, known], truth[known]) if known.any() else 0.0)
    np.testing.assert_allclose(lovasz_softmax(logits, masks, by_share=False), np.mean(expected))
    known = (masks != IGNORE).double().mean((1, 2)).numpy()
    np.testing.assert_allclose(lovasz_softmax(logits, masks), np.mean(expected * known))


def test_lovasz_softmax_of_a_hard_prediction_is_one_minus_iou() -> None:
    truth = torch.tensor([[[0, 0, 1, 1, 1, 1]]])
    predicted = torch.tensor([[[0, 1, 1, 1, 1, 0]]])  # IoU 1/3 and 3/5
    logits = 1e3 * functional.one_hot(predicted, 2).permute(0, 3, 1, 2).double()
    torch.testing.assert_close(
        lovasz_softmax(logits, truth), torch.tensor(1 - (1 / 3 + 3 / 5) / 2, dtype=torch.float64)
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rules", [1, 2])
def test_padding_scales_every_part_of_a_loss_alike(name: str, rules: int) -> None:
    """Padding an image to twice its area halves its loss, and cross-entropy and Dice keep their
    balance."""
    config = SegmentationLossConfig(name=name)  # type: ignore[arg-type]
    weights = class_weights(np.array([3, 2, 1, 0]), 0.5).double()
    logits, masks = some(ignored=False)
    padded_logits = torch.cat([logits, torch.randn_like(logits)], 2)
    padded_masks = torch.cat([masks, torch.full_like(masks, IGNORE)], 1)

    alone = segmentation_loss(logits, masks, config, weights, rules)
    padded = segmentation_loss(padded_logits, padded_masks, config, weights, rules)
    shares_balance = rules > 1 or name not in ("ce_dice", "lovasz")
    assert torch.isclose(padded, alone / 2) == shares_balance


@pytest.mark.parametrize("name", NAMES)
def test_micro_batches_change_nothing(name: str) -> None:
    config = SegmentationLossConfig(name=name)  # type: ignore[arg-type]
    weights = class_weights(np.array([3, 2, 1, 0]), 0.5).double()
    logits, masks = some()
    whole = segmentation_loss(logits, masks, config, weights)
    parts = [
        segmentation_loss(logits[i : i + 1], masks[i : i + 1], config, weights) for i in range(3)
    ]
    torch.testing.assert_close(whole, torch.stack(parts).mean())


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_and_leave_ignored_pixels_alone(name: str) -> None:
    config = SegmentationLossConfig(name=name, focal_gamma=0.5)  # type: ignore[arg-type]
    logits, masks = some()
    logits[1] = 80.0 * functional.one_hot(masks[1], 4).permute(2, 0, 1)  # certain and right
    logits.requires_grad_()
    segmentation_loss(
        logits, masks, config, class_weights(np.array([3, 2, 1, 0]), 0.5).double()
    ).backward()
    gradient = logits.grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert not gradient.permute(0, 2, 3, 1)[masks == IGNORE].any()
    assert gradient[0].any()


def test_gradient_of_lovasz_and_dice_is_that_of_finite_differences() -> None:
    logits, masks = some()
    for loss in (dice, lovasz_softmax):
        assert torch.autograd.gradcheck(
            lambda x, f=loss: f(x, masks), logits.clone().requires_grad_()
        )


def test_class_weights() -> None:
    pixels = np.array([60, 30, 10, 0])
    torch.testing.assert_close(class_weights(pixels, 0.0), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    share = pixels[:3] / 100
    for power in (0.5, 1.0):
        weights = class_weights(pixels, power).numpy()[:3]
        np.testing.assert_allclose(weights @ share, 1, rtol=1e-6)
        np.testing.assert_allclose(weights / weights[0], (share / share[0]) ** -power, rtol=1e-6)
