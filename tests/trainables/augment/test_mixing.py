"""Mixup and CutMix against NumPy, and the distribution of their mixing shares."""

import numpy as np
import pytest
import torch
from scipy import stats

from trainables.augment.mixing import Mix, cutmix_boxes, draw_mix, mix_views
from trainables.augment.view_config import AugmentConfig
from trainables.augment.views import Augment


def drawn(count: int, mixup: float, cutmix: float, size: int = 8) -> tuple[Mix, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    view = Augment(AugmentConfig(), size).draw(count, generator)
    return draw_mix(images, view, torch.arange(count), mixup, cutmix, generator), images


def test_mixup_is_equation_1() -> None:
    mix, images = drawn(32, 0.8, 0.0)
    # an image and its label come from the same partner
    np.testing.assert_array_equal(mix.images.numpy(), images.numpy()[mix.targets.numpy()])
    assert sorted(mix.targets.tolist()) == list(range(32))
    x, partners = torch.rand(32, 3, 8, 8), torch.rand(32, 3, 8, 8)
    views, share = mix_views(x, partners, mix)
    weight = mix.share.numpy()[:, None, None, None]
    np.testing.assert_allclose(
        views.numpy(), weight * x.numpy() + (1 - weight) * partners.numpy(), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(share.numpy(), mix.share.numpy())


def test_cutmix_pastes_boxes_and_counts_pixels() -> None:
    mix, _ = drawn(64, 0.0, 1.0, size=16)
    x, partners = torch.zeros(64, 3, 16, 16), torch.ones(64, 3, 16, 16)
    views, share = mix_views(x, partners, mix)
    for i, (top, bottom, left, right) in enumerate(np.round(mix.boxes.numpy() * 16).astype(int)):
        expected = np.zeros((3, 16, 16), np.float32)
        expected[:, top:bottom, left:right] = 1
        np.testing.assert_array_equal(views[i].numpy(), expected)
        assert share[i].item() == pytest.approx(1 - expected[0].mean())
    assert 0 < (views == 1).float().mean() < 1


def test_boxes_have_the_area_of_the_paper() -> None:
    share = np.array([0.0, 0.19, 0.75, 1.0])
    inside = cutmix_boxes(share, np.full((4, 2), 0.5))
    np.testing.assert_allclose(
        (inside[:, 1] - inside[:, 0]) * (inside[:, 3] - inside[:, 2]), 1 - share
    )
    np.testing.assert_allclose(inside[1], [0.05, 0.95, 0.05, 0.95])
    corner = cutmix_boxes(np.array([0.75]), np.array([[0.0, 0.9]]))
    np.testing.assert_allclose(corner, [[0, 0.25, 0.65, 1]])


def test_shares_are_beta_and_both_kinds_equally_likely() -> None:
    mix, _ = drawn(4000, 0.4, 1.0, size=8)
    blended = mix.blended.numpy()
    assert stats.binomtest(int(blended.sum()), 4000).pvalue > 1e-3
    assert stats.kstest(mix.share.numpy()[blended], stats.beta(0.4, 0.4).cdf).pvalue > 1e-3
    assert stats.kstest(mix.share.numpy()[~blended], stats.beta(1, 1).cdf).pvalue > 1e-3


def test_a_slice_mixes_as_the_whole() -> None:
    mix, _ = drawn(12, 0.4, 1.0)
    x, partners = torch.rand(12, 3, 8, 8), torch.rand(12, 3, 8, 8)
    whole, shares = mix_views(x, partners, mix)
    part, share = mix_views(x[5:9], partners[5:9], mix[5:9])
    assert torch.equal(whole[5:9], part)
    assert torch.equal(shares[5:9], share)
    assert len(mix[5:9]) == len(mix[5:9].draws) == 4


def test_no_alpha_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mixup=0\.0, cutmix=0\.0"):
        drawn(4, 0.0, 0.0)
