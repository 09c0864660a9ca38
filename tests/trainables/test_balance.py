"""Class weights against closed forms and torch, and batches balanced over classes."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch.nn import functional

from trainables.balance import BalanceConfig, BalancedSampler, image_weights
from trainables.classifiers.losses import soft_loss
from trainables.data.sampling import Sampler

COUNTS = np.array([500, 20, 1, 0, 80])


def test_inverse_frequency_gives_every_class_the_same_weight() -> None:
    weights = image_weights(COUNTS, BalanceConfig(by="inverse"))
    assert weights is not None
    of_classes = weights.numpy() * COUNTS
    np.testing.assert_allclose(of_classes[COUNTS > 0], COUNTS.sum() / 4, rtol=1e-6)
    assert weights[3] == 0


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999, 0.999999])
def test_effective_numbers_are_those_of_the_paper(beta: float) -> None:
    weights = image_weights(COUNTS, BalanceConfig(by="effective", beta=beta))
    assert weights is not None
    present = COUNTS > 0
    expected = (1 - beta) / (1 - beta ** COUNTS[present].astype(float))
    ratio = weights.numpy()[present] / expected
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)


def test_towards_1_the_effective_number_is_the_frequency_and_at_0_nothing() -> None:
    inverse = image_weights(COUNTS, BalanceConfig(by="inverse"))
    near = image_weights(COUNTS, BalanceConfig(by="effective", beta=1 - 1e-9))
    none = image_weights(COUNTS, BalanceConfig(by="effective", beta=0))
    assert inverse is not None
    assert near is not None
    assert none is not None
    torch.testing.assert_close(near, inverse, rtol=1e-4, atol=0)
    assert none.tolist() == [1, 1, 1, 0, 1]


@pytest.mark.parametrize("by", ["inverse", "effective"])
def test_the_mean_over_training_images_is_1(by: str) -> None:
    weights = image_weights(COUNTS, BalanceConfig(by=by))  # type: ignore[arg-type]
    assert weights is not None
    assert float((weights.numpy() * COUNTS).sum() / COUNTS.sum()) == pytest.approx(1)


@pytest.mark.parametrize("by", ["none", "sampling"])
def test_without_weights_there_are_none(by: str) -> None:
    assert image_weights(COUNTS, BalanceConfig(by=by)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_weighted_loss_is_torchs_sum_over_images(smoothing: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(32, 5)
    targets = torch.randint(0, 5, (32,))
    weights = torch.tensor([0.2, 1.0, 3.0, 0.0, 0.7])
    truth = functional.one_hot(targets, 5).float()
    expected = functional.cross_entropy(
        logits, targets, weights, reduction="sum", label_smoothing=smoothing
    )
    found = soft_loss(logits, truth, smoothing, 0.0, weights)
    torch.testing.assert_close(found, expected / 32)


# ---------------------------------------------------------------- sampling


LABELS = np.repeat([0, 2, 5], [40, 3, 7])


def test_every_class_comes_equally_often() -> None:
    sampler = BalancedSampler(LABELS, batch_size=16, seed=1)
    stream = np.concatenate([sampler.positions(step) for step in range(30)])
    counts = Counter(LABELS[stream].tolist())
    assert set(counts.values()) == {160}
    first_rounds = LABELS[stream[:30]].reshape(10, 3)
    assert all(sorted(round_) == [0, 2, 5] for round_ in first_rounds.tolist())


def test_no_image_comes_again_before_all_of_its_class_have_come() -> None:
    sampler = BalancedSampler(LABELS, batch_size=15, seed=1)
    stream = np.concatenate([sampler.positions(step) for step in range(40)])
    for label in (0, 2, 5):
        own = stream[LABELS[stream] == label]
        size = int((label == LABELS).sum())
        for start in range(0, len(own) - size + 1, size):
            assert len(set(own[start : start + size].tolist())) == size


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    one = BalancedSampler(LABELS, batch_size=16, seed=1)
    other = BalancedSampler(LABELS, batch_size=16, seed=1)
    later = [one.positions(step) for step in range(8)][7]
    np.testing.assert_array_equal(other.positions(7), later)
    assert not np.array_equal(BalancedSampler(LABELS, 16, seed=2).positions(7), later)


def test_orders_differ_from_those_of_plain_shuffling() -> None:
    alike = np.zeros(50, int)
    balanced = BalancedSampler(alike, batch_size=50, seed=1).positions(0)
    plain = Sampler(50, 50, seed=1).positions(0)
    assert sorted(balanced.tolist()) == sorted(plain.tolist()) == list(range(50))
    assert not np.array_equal(balanced, plain)
