"""Joint augmentation against torchvision, pair by pair, with the same drawn parameters."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from trainables.augment.image_ops import MEAN_STD
from trainables.augment.joint_augment import JointAugment, JointAugmentConfig, JointDraws
from trainables.data import IGNORE

FULL = JointAugmentConfig(
    scale_min=0.5, scale_max=2.0, hflip=0.5, vflip=0.5, rot90=0.75, jitter=0.8
)
CLASSES = 6


def pairs(count: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    masks = torch.randint(0, CLASSES, (count, size, size), generator=generator, dtype=torch.uint8)
    return images, torch.where(masks == CLASSES - 1, IGNORE, masks)


def jittered(image: Tensor, draws: JointDraws, index: int) -> Tensor:
    """Return the image with colour jitter by torchvision."""
    if draws.colour.jitter[index]:
        changes = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
        for number in draws.colour.order[index].tolist():
            image = changes[number](image, float(draws.colour.factors[index, number]))
    return image


def reference(
    image: Tensor, mask: Tensor, draws: JointDraws, index: int, size: int, jitter_first: bool
) -> tuple[Tensor, Tensor]:
    """Augment one pair with torchvision: jitter, resize, pad, crop, flip, rotate, normalise."""
    side = max(1, round(float(draws.scale[index]) * size))
    spare = abs(side - size)
    top, left = (min(int(at * (spare + 1)), spare) for at in draws.at[index])
    image, mask = image.float()[None] / 255, mask[None, None]
    if jitter_first:
        image = jittered(image, draws, index)
    image = TF.resize(image, [side, side], v2.InterpolationMode.BILINEAR, antialias=True)
    mask = TF.resize(mask, [side, side], v2.InterpolationMode.NEAREST_EXACT)
    if side < size:
        border = [left, top, spare - left, spare - top]
        image, mask = TF.pad(image, border, fill=0), TF.pad(mask, border, fill=IGNORE)
    else:
        image, mask = TF.crop(image, top, left, size, size), TF.crop(mask, top, left, size, size)
    for flip, operation in ((draws.hflip, TF.horizontal_flip), (draws.vflip, TF.vertical_flip)):
        if flip[index]:
            image, mask = operation(image), operation(mask)
    turn = 90 * int(draws.turns[index])
    image, mask = TF.rotate(image, turn), TF.rotate(mask, turn)
    if not jitter_first:
        image = jittered(image, draws, index)
    return TF.normalize(image, *MEAN_STD["imagenet"])[0], mask[0, 0]


# odd sizes: no centre lies between two pixels, where torch's nearest depends on rounding
@pytest.mark.parametrize(("size", "jitter_first"), [(17, True), (31, True), (31, False)])
def test_equals_torchvision_pair_by_pair(size: int, jitter_first: bool):
    images, masks = pairs(48, size)
    augment = JointAugment(FULL, size, jitter_first=jitter_first)
    draws = augment.draw(len(images), torch.Generator().manual_seed(1))
    views, moved = augment.apply(images, masks, draws)
    assert (draws.scale < 1).any()
    assert (draws.scale > 1).any()
    assert set(draws.turns.tolist()) == {0, 1, 2, 3}
    for index in range(len(images)):
        view, mask = reference(images[index], masks[index], draws, index, size, jitter_first)
        torch.testing.assert_close(views[index], view, atol=2e-4, rtol=0)
        torch.testing.assert_close(moved[index], mask, atol=0, rtol=0)


def test_every_side_rounds_as_torchvision_does():
    size = 23
    sides = torch.arange(12, 47)
    images, masks = pairs(len(sides), size)
    augment = JointAugment(JointAugmentConfig(scale_min=0.5, scale_max=2.0), size)
    draws = replace(augment.draw(len(sides), torch.Generator().manual_seed(0)), scale=sides / size)
    views, moved = augment.apply(images, masks, draws)
    for index in range(len(sides)):
        view, mask = reference(images[index], masks[index], draws, index, size, True)
        torch.testing.assert_close(views[index], view, atol=5e-5, rtol=0)
        assert torch.equal(moved[index], mask), f"side {sides[index]}"


def test_centres_between_two_pixels_take_the_later_one():
    size, side = 24, 37  # 18.5 * 24 / 37 is 12
    images, masks = pairs(1, size)
    augment = JointAugment(JointAugmentConfig(scale_max=2.0), size)
    draws = replace(
        augment.draw(1, torch.Generator().manual_seed(0)),
        scale=torch.tensor([side / size]),
        at=torch.zeros(1, 2),
    )
    places = [(2 * place + 1) * size // (2 * side) for place in range(size)]
    assert places[18] == 12
    assert torch.equal(augment.apply(images, masks, draws)[1][0], masks[0][places][:, places])


def test_defaults_change_nothing():
    images, masks = pairs(5, 16)
    views, moved = JointAugment(JointAugmentConfig(), 16, "none").apply(
        images,
        masks,
        JointAugment(JointAugmentConfig(), 16).draw(5, torch.Generator().manual_seed(0)),
    )
    torch.testing.assert_close(views, images / 255, atol=1e-6, rtol=0)
    assert torch.equal(moved, masks)


def test_padding_is_black_and_ignored_and_nothing_else_is():
    size = 16
    images, masks = (
        torch.full((64, 3, size, size), 255, dtype=torch.uint8),
        torch.full((64, size, size), 3, dtype=torch.uint8),
    )
    augment = JointAugment(
        JointAugmentConfig(scale_min=0.5, scale_max=2.0, hflip=0.5, rot90=0.75), size, "none"
    )
    draws = augment.draw(64, torch.Generator().manual_seed(2))
    views, moved = augment.apply(images, masks, draws)
    black = views.amax(1) == 0
    assert torch.equal(black, moved == IGNORE)
    assert torch.equal((~black).flatten(1).sum(1), draws.windows(size)[0].clamp_max(size) ** 2)
    assert set(moved.unique().tolist()) == {3, IGNORE}


def test_jitter_neither_greys_the_padding_nor_is_shifted_by_it():
    """Contrast jitter leaves uniform grey, which is its own mean, at its level, however much of the
    view is padding."""
    size = 16
    images = torch.full((64, 3, size, size), 128, dtype=torch.uint8)
    masks = torch.zeros(64, size, size, dtype=torch.uint8)
    contrast = JointAugmentConfig(
        scale_min=0.5, jitter=1.0, brightness=0, contrast=0.9, saturation=0, hue=0
    )
    for jitter_first in (True, False):
        augment = JointAugment(contrast, size, "none", jitter_first=jitter_first)
        draws = augment.draw(64, torch.Generator().manual_seed(2))
        views, moved = augment.apply(images, masks, draws)
        inside = (moved != IGNORE)[:, None].expand_as(views)
        exact = bool((views[~inside] == 0).all())
        level = torch.allclose(views[inside], torch.tensor(128 / 255), atol=2e-4)
        assert exact == level == jitter_first


def test_a_part_of_the_batch_is_the_same_as_the_whole():
    images, masks = pairs(12, 16)
    augment = JointAugment(FULL, 16)
    draws = augment.draw(12, torch.Generator().manual_seed(3))
    views, moved = augment.apply(images, masks, draws)
    for part in (slice(0, 5), slice(5, 12)):
        view, mask = augment.apply(images[part], masks[part], draws[part])
        torch.testing.assert_close(view, views[part], atol=1e-6, rtol=0)
        assert torch.equal(mask, moved[part])


def test_scales_are_log_uniform_and_places_reach_both_edges():
    augment = JointAugment(replace(FULL, jitter=0.0), 16)
    draws = augment.draw(20_000, torch.Generator().manual_seed(4))
    logs = draws.scale.log2()
    assert logs.min() >= -1 - 1e-6
    assert logs.max() <= 1 + 1e-6
    assert abs(logs.mean().item()) < 0.02
    assert abs(logs.var().item() - 4 / 12) < 0.02
    sides, offsets = draws.windows(16)
    spare = (sides - 16)[:, None]
    assert ((offsets * spare.sign() >= 0) & (offsets.abs() <= spare.abs())).all()
    assert (offsets == spare)[spare[:, 0] != 0].float().mean() > 0.05
    assert abs(draws.hflip.float().mean().item() - 0.5) < 0.02
    assert abs((draws.turns > 0).float().mean().item() - 0.75) < 0.02


def test_one_setting_leaves_the_other_draws_as_they_were():
    one, other = (
        JointAugment(c, 16).draw(32, torch.Generator().manual_seed(5))
        for c in (FULL, replace(FULL, rot90=0.0))
    )
    assert torch.equal(one.scale, other.scale)
    assert torch.equal(one.hflip, other.hflip)
    assert torch.equal(one.colour.factors, other.colour.factors)


def test_bounds_the_wrong_way_round_are_refused():
    with pytest.raises(ValueError, match=r"scale_min <= scale_max.*scale_min=2.0, scale_max=0.5"):
        JointAugmentConfig(scale_min=2.0, scale_max=0.5)
