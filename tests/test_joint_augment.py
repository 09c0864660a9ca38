"""Joint augmentation against torchvision, pair by pair."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from trainables.data import IGNORE
from trainables.image_ops import mean_std
from trainables.joint_augment import JointAugment, JointAugmentConfig

S = 16


def pairs(n: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (n, 3, S, S), generator=generator, dtype=torch.uint8)
    masks = torch.randint(6, (n, S, S), generator=generator, dtype=torch.uint8)
    masks[:, 0, :3] = IGNORE
    return images, masks


def applied(config: JointAugmentConfig, n: int = 24) -> tuple[Tensor, Tensor, Tensor, Tensor, object]:
    images, masks = pairs(n)
    augment = JointAugment(config, S, "none")
    draws = augment.draw(n, torch.Generator().manual_seed(1))
    return images, masks, *augment.apply(images, masks, draws), draws  # type: ignore[return-value]


def test_flips_and_turns_are_torchvisions() -> None:
    images, masks, views, moved, draws = applied(JointAugmentConfig(hflip=0.5, vflip=0.5, rot90=0.75))
    seen = set()
    for i in range(len(images)):
        hflip, vflip, turns = *draws.flips[i].tolist(), int(draws.turns[i])  # type: ignore[attr-defined]
        seen.add((hflip, vflip, turns))
        image, mask = images[i].float() / 255, masks[i][None]
        expected = []
        for x in (image, mask):
            y = tv.rotate(x, 90.0 * turns) if turns else x
            y = tv.horizontal_flip(y) if hflip else y
            expected.append(tv.vertical_flip(y) if vflip else y)
        torch.testing.assert_close(views[i], expected[0], rtol=0, atol=1e-5)
        assert torch.equal(moved[i], expected[1][0])
    assert len(seen) > 8


def test_a_crop_is_torchs_resize_inside_and_masks_stay_exact() -> None:
    config = JointAugmentConfig(scale_min=2.0, scale_max=2.0)
    images, masks, views, moved, draws = applied(config)
    at = (1 - 0.5) * draws.at  # type: ignore[attr-defined]
    for i in range(len(images)):
        # Places of the view's pixel centres in the image, in pixels, by the definition of the crop.
        centres = ((torch.arange(S) + 0.5) / S * 2 - 1) * 0.5
        x, y = (((centres + at[i, k] + 1) * S - 1) / 2 for k in (0, 1))
        nearest = masks[i][y.round().long().clamp(0, S - 1)][:, x.round().long().clamp(0, S - 1)]
        assert (nearest == moved[i]).double().mean() > 0.98  # but for ties of rounding
        assert set(moved[i].unique().tolist()) <= set(masks[i].unique().tolist())
        left, top = x.floor().long(), y.floor().long()
        inside_x, inside_y = (left >= 0) & (left < S - 1), (top >= 0) & (top < S - 1)
        left, top, fx, fy = left[inside_x], top[inside_y], (x - x.floor())[inside_x], (y - y.floor())[inside_y]
        image = images[i].float() / 255
        rows = image[:, top] * (1 - fy)[:, None] + image[:, top + 1] * fy[:, None]
        expected = rows[:, :, left] * (1 - fx) + rows[:, :, left + 1] * fx
        torch.testing.assert_close(views[i][:, inside_y][:, :, inside_x], expected, rtol=0, atol=1e-4)


def test_a_reduction_is_padded_and_ignored() -> None:
    _, masks, views, moved, _ = applied(JointAugmentConfig(scale_min=0.5, scale_max=0.5))
    assert ((moved != IGNORE).flatten(1).sum(1) <= (S // 2 + 1) ** 2).all()
    border = torch.ones(S, S, dtype=torch.bool)
    for view, mask in zip(views, moved, strict=True):
        rows, columns = (mask != IGNORE).any(1), (mask != IGNORE).any(0)
        assert rows.sum() <= S // 2 + 1
        outside = border & ~(functional.max_pool2d((rows[:, None] & columns).float()[None, None], 5, 1, 2)[0, 0] > 0)
        assert not view[:, outside].any()
    assert masks.shape == moved.shape


def test_nothing_changes_by_default_but_normalisation() -> None:
    images, masks = pairs()
    augment = JointAugment(JointAugmentConfig(), S)
    views, moved = augment.apply(images, masks, augment.draw(len(images), torch.Generator().manual_seed(0)))
    mean, std = mean_std("imagenet", images.device)
    expected = v2.functional.normalize(images.float() / 255, mean.flatten().tolist(), std.flatten().tolist())
    torch.testing.assert_close(views, expected, rtol=0, atol=2e-5)
    assert torch.equal(moved, masks)


def test_a_part_of_a_batch_is_treated_as_in_the_batch() -> None:
    config = JointAugmentConfig(scale_min=0.5, scale_max=2.0, hflip=0.5, rot90=0.5, jitter=0.8)
    images, masks, views, moved, draws = applied(config)
    part = JointAugment(config, S, "none").apply(images[5:9], masks[5:9], draws[5:9])  # type: ignore[index]
    torch.testing.assert_close(part[0], views[5:9], rtol=0, atol=1e-5)
    assert torch.equal(part[1], moved[5:9])


def test_scales_are_in_order() -> None:
    with pytest.raises(ValueError, match=r"`scale_min <= scale_max` must hold, but got \(scale_min=1\.5, scale_max=1\.0\)"):
        JointAugmentConfig(scale_min=1.5)
