"""Segmentation metrics against NumPy, torchmetrics and scikit-learn, with unknown pixels, absent
classes and empty classes."""

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from trainables.data import IGNORE
from trainables.miou import (
    class_iou,
    confusion_matrix,
    mean_iou,
    pixel_accuracy,
    segmentation_metrics,
)
from trainables.plots.masks import class_ious

C = 6


def drawn(
    seed: int, truth_has: tuple[int, ...], called: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:  # predictions, masks
    rng = np.random.default_rng(seed)
    truth = rng.choice(truth_has, (7, 9, 11)).astype(np.uint8)
    guess = np.where(
        (rng.random(truth.shape) < 0.6) & np.isin(truth, called),
        truth,
        rng.choice(called, truth.shape),
    )
    return torch.from_numpy(guess), torch.from_numpy(truth)


def course(guess: np.ndarray, truth: np.ndarray) -> float:
    """Return the IoU pooled over the set, averaged over classes. Classes in neither mask are left
    out."""
    ious = []
    for c in range(C):
        hits, predicted, true = (
            np.sum((guess == c) & (truth == c)),
            np.sum(guess == c),
            np.sum(truth == c),
        )
        if predicted + true:
            ious.append(hits / (predicted + true - hits))
    return float(np.mean(ious))


CASES = [
    ((0, 1, 2, 3, 4, 5, IGNORE), (0, 1, 2, 3, 4, 5)),
    ((0, 1, 2, 3, 4, 5), (0, 1, 2, 3, 4, 5)),
    ((0, 1, 3, IGNORE), (0, 1, 2, 3, 4, 5)),  # 2, 4 and 5 are only predicted
    ((0, 1, 2, 3, 4, 5, IGNORE), (0, 1, 2)),  # 3, 4 and 5 are never predicted
    ((0, 1, 2, 3, IGNORE), (0, 1, 2, 3)),  # 4 and 5 are in neither
]


@pytest.mark.parametrize(("truth_has", "called"), CASES)
def test_against_references(truth_has: tuple[int, ...], called: tuple[int, ...]) -> None:
    guess, truth = drawn(0, truth_has, called)
    confusion = sum(confusion_matrix(g, t, C) for g, t in zip(guess, truth, strict=True))
    assert mean_iou(confusion) == pytest.approx(course(guess.numpy(), truth.numpy()), abs=1e-12)
    known = truth != IGNORE
    assert mean_iou(confusion, masked=True) == pytest.approx(
        course(guess[known].numpy(), truth[known].numpy()), abs=1e-12
    )
    theirs = MulticlassJaccardIndex(C, ignore_index=IGNORE)(guess, truth.long())
    assert mean_iou(confusion, masked=True) == pytest.approx(theirs.item(), abs=1e-6)
    ious = class_iou(confusion, masked=True).numpy()
    present = np.flatnonzero(~np.isnan(ious))
    np.testing.assert_allclose(
        ious[present],
        jaccard_score(truth[known], guess[known], labels=present, average=None),
        atol=1e-12,
    )
    shown = class_ious(confusion.numpy())
    np.testing.assert_allclose(shown, class_iou(confusion).numpy(), atol=1e-12)
    accuracy = MulticlassAccuracy(C, average="micro", ignore_index=IGNORE)(guess, truth.long())
    assert pixel_accuracy(confusion) == pytest.approx(accuracy.item(), abs=1e-6)


def test_known_answer() -> None:
    guess, truth = (
        torch.tensor([0, 0, 1, 1, 2]),
        torch.tensor([0, IGNORE, 1, 0, 0], dtype=torch.uint8),
    )
    confusion = confusion_matrix(guess, truth, 4)
    assert confusion.tolist() == [
        [1, 0, 0, 0, 1],
        [1, 1, 0, 0, 0],
        [1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]
    found = segmentation_metrics(confusion, ("a", "b", "c", "d"), "val")
    assert found == pytest.approx(
        {
            "val/miou": (1 / 4 + 1 / 2 + 0) / 3,
            "val/miou_masked": (1 / 3 + 1 / 2 + 0) / 3,
            "val/pixel_accuracy": 2 / 4,
            "val/iou/a": 1 / 4,
            "val/iou/b": 1 / 2,
            "val/iou/c": 0.0,
        },
        abs=1e-12,
    )


def test_nothing_known() -> None:
    confusion = confusion_matrix(
        torch.zeros(3, dtype=torch.int64), torch.full((3,), IGNORE, dtype=torch.uint8), 2
    )
    assert mean_iou(confusion) == 0
    assert np.isnan(mean_iou(confusion, masked=True))
    assert np.isnan(pixel_accuracy(confusion))


@pytest.mark.parametrize(("truth_has", "called"), CASES)
def test_confusion_matrix_same_as_numpy(
    truth_has: tuple[int, ...], called: tuple[int, ...]
) -> None:
    guess, truth = drawn(1, truth_has, called)
    expected = np.zeros((C, C + 1), np.int64)
    for p, t in zip(guess.flatten().tolist(), truth.flatten().tolist(), strict=True):
        expected[p, C if t == IGNORE else t] += 1
    confusion = confusion_matrix(guess, truth, C)
    assert confusion.dtype == torch.int64
    np.testing.assert_array_equal(confusion.numpy(), expected)
