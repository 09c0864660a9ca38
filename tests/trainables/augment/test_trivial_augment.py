"""TrivialAugment against torchvision's: every operation at every strength, and how often each is
drawn."""

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from torchvision.transforms import v2

from trainables.augment import trivial_augment
from trainables.augment.trivial_augment import BINS, OPERATIONS, TrivialPlan, draw_trivial
from trainables.augment.view_config import PRESETS
from trainables.augment.views import Augment

TOLERANCE = 2e-5
"""Largest allowed difference of a value in [0, 1]: a two-hundredth of a grey level."""
STEPPED = ("shear_x", "shear_y", "rotate", "posterize", "solarize", "equalize")
"""Operations in which rounding can move a whole pixel to another neighbour or another level."""
_WIDE = v2.TrivialAugmentWide()
_NAMES = tuple(_WIDE._AUGMENTATION_SPACE)


def torchvisions(image: Tensor, operation: int, magnitude: float) -> Tensor:
    """Apply torchvision's own operation to `image` (3, H, W), float in [0, 1]."""
    return _WIDE._apply_image_or_video_transform(
        image, _NAMES[operation], magnitude, _WIDE.interpolation, _WIDE._fill
    )


def pictures(count: int, height: int, width: int) -> Tensor:
    """Return float32 images (count, 3, height, width) of whole grey levels: smooth parts, noise, a
    constant channel and one of two levels."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(
        0, 1
    )
    images = torch.where(
        torch.rand(count, 1, 1, width, generator=generator) < 0.3,
        torch.rand(smooth.shape, generator=generator),
        smooth,
    )
    images[0, 0], images[0, 1] = 0.4, (images[0, 1] > 0.5) * 0.5
    images[1] = images[1].mul(0.3).add(0.2)
    return images.mul(255).round().div(255)


def test_the_operations_and_their_strengths_are_torchvisions() -> None:
    assert [name.lower() for name in _NAMES] == [name.replace("_", "") for name in OPERATIONS]
    table = trivial_augment.magnitudes()
    for row, (strengths, _) in zip(table, _WIDE._AUGMENTATION_SPACE.values(), strict=True):
        theirs = strengths(BINS, 32, 32)
        expected = torch.zeros(BINS) if theirs is None else theirs.float()
        # Translations are whole pixels: torchvision truncates the strength when it applies them.
        torch.testing.assert_close(
            row, expected.trunc() if expected.max() == 32 else expected, rtol=0, atol=0
        )


@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 28), (2, 9)])
@pytest.mark.parametrize("operation", range(14), ids=OPERATIONS)
def test_every_operation_equals_torchvision(operation: int, height: int, width: int) -> None:
    strengths = trivial_augment.magnitudes()[operation]
    _, signed = list(_WIDE._AUGMENTATION_SPACE.values())[operation]
    magnitude = torch.cat([strengths, -strengths]) if signed else strengths
    images = pictures(4, height, width).repeat_interleave(len(magnitude), 0)
    magnitude = magnitude.repeat(4)
    plan = TrivialPlan(
        torch.full((len(images),), operation), magnitude, (height, width), torch.device("cpu")
    )
    ours = plan.apply(images.clone(), slice(None))
    theirs = torch.stack(
        [
            torchvisions(image, operation, m.item())
            for image, m in zip(images, magnitude, strict=True)
        ]
    )
    equal = (ours - theirs).abs() <= TOLERANCE
    # half-way between two pixels, either may be taken as the nearest
    if OPERATIONS[operation] in ("shear_x", "shear_y", "rotate"):
        assert equal.float().mean() > 0.999
    else:
        assert equal.all()


def test_each_image_gets_its_own_and_the_others_are_left_alone() -> None:
    operation, magnitude = draw_trivial(
        torch.rand(200, 3, generator=torch.Generator().manual_seed(1))
    )
    images = pictures(200, 24, 24)
    plan = TrivialPlan(operation, magnitude, (24, 24), torch.device("cpu"))
    ours = torch.cat(
        [plan.apply(images[part].clone(), part) for part in (slice(0, 77), slice(77, 200))]
    )
    for i in range(200):
        theirs = torchvisions(images[i], int(operation[i]), magnitude[i].item())
        assert ((ours[i] - theirs).abs() <= TOLERANCE).float().mean() > 0.98, OPERATIONS[
            operation[i]
        ]
    assert set(operation.tolist()) == set(range(14))


def test_draws_are_distributed_as_in_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = Augment(PRESETS["trivial"][0], 32).draw(14_000, torch.Generator().manual_seed(2))
    ours = Counter(zip(draws.operation.tolist(), draws.magnitude.tolist(), strict=True))
    drawn: Counter[tuple[int, float]] = Counter()

    def record(self: object, image: Tensor, name: str, magnitude: float, **_: object) -> Tensor:
        drawn[
            _NAMES.index(name), float(np.trunc(magnitude)) if "Translate" in name else magnitude
        ] += 1
        return image

    monkeypatch.setattr(v2.TrivialAugmentWide, "_apply_image_or_video_transform", record)
    torch.manual_seed(3)
    image = torch.zeros(3, 8, 8)
    for _ in range(14_000):
        _WIDE(image)
    assert (
        chisquare([sum(n for (o, _), n in ours.items() if o == k) for k in range(14)]).pvalue > 1e-3
    )
    for k in range(14):  # per operation: the same strengths and the same share of negative ones
        mine, theirs = (
            [(m, n) for (o, m), n in counts.items() if o == k] for counts in (ours, drawn)
        )
        assert {round(m, 4) for m, _ in mine} == {round(m, 4) for m, _ in theirs}
        negative = [
            sum(n for m, n in some if m < 0) / sum(n for _, n in some) for some in (mine, theirs)
        ]
        assert abs(negative[0] - negative[1]) < 0.08


def test_a_constant_channel_with_float_noise_is_not_stretched() -> None:
    image = torch.full((1, 3, 8, 8), 0.7) + 1e-6 * torch.rand(
        1, 3, 8, 8, generator=torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(trivial_augment.autocontrast(image), image)
