"""Cost of torchmetrics against a few lines of torch, for the metrics of a validation.

    python benchmarks/torchmetrics_cost.py

Both must compute the same numbers, which is checked. They take turns in one process. Times are its
CPU times, and a line shows the median over the turns, in milliseconds. The cost of the import comes
first; torch and torchvision, which a trial has anyway, are imported before it is measured.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision  # noqa: F401
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
started = time.process_time()
from torchmetrics.functional.classification import (  # noqa: E402
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_jaccard_index,
    multiclass_stat_scores,
)

IMPORT_S = time.process_time() - started

from trainables.data.splits import IGNORE  # noqa: E402
from trainables.miou import confusion_matrix, mean_iou  # noqa: E402

TURNS = 15


def bincount_matrix(predictions: Tensor, masks: Tensor, classes: int) -> Tensor:
    """Return the (C, C + 1) int64 confusion matrix in four lines of torch."""
    truth = masks.long()
    truth = torch.where(truth == IGNORE, classes, truth)
    cell = predictions.long() * (classes + 1) + truth
    counts = torch.bincount(cell.flatten(), minlength=classes * (classes + 1))
    return counts.view(classes, classes + 1)


def their_matrix(predictions: Tensor, masks: Tensor, classes: int) -> Tensor:
    truth = masks.long()
    truth = torch.where(truth == IGNORE, classes, truth)
    matrix = multiclass_confusion_matrix(predictions, truth, classes + 1, validate_args=False)
    return matrix.T[:classes]


def our_accuracy(logits: Tensor, labels: Tensor) -> float:
    return (logits.argmax(1) == labels).double().mean().item()


def their_counts(logits: Tensor, labels: Tensor) -> float:
    scores = multiclass_stat_scores(
        logits, labels, logits.shape[1], average="micro", validate_args=False
    )
    return scores[0].item() / len(labels)


def our_top5(logits: Tensor, labels: Tensor) -> float:
    return (logits.topk(5).indices == labels[:, None]).any(1).double().mean().item()


def their_top5(logits: Tensor, labels: Tensor) -> float:
    return multiclass_accuracy(
        logits, labels, logits.shape[1], average="micro", top_k=5, validate_args=False
    ).item()


def seconds(run: Callable[[], object], repeats: int) -> float:
    started = time.process_time()
    for _ in range(repeats):
        run()
    return (time.process_time() - started) / repeats


def compare(
    name: str, ours: Callable[[], object], theirs: Callable[[], object], repeats: int
) -> None:
    ours_ms, theirs_ms = [], []
    for _ in range(TURNS):
        ours_ms.append(1e3 * seconds(ours, repeats))
        theirs_ms.append(1e3 * seconds(theirs, repeats))
    mine, other = statistics.median(ours_ms), statistics.median(theirs_ms)
    print(f"{name:40} {mine:9.3f} ms {other:9.3f} ms   ratio {other / mine:.2f}", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"import of torchmetrics: {IMPORT_S:.2f} s CPU")
    print(f"{'':40} {'torch':>12} {'torchmetrics':>12}")

    logits, labels = torch.randn(1000, 20), torch.randint(20, (1000,))
    assert our_accuracy(logits, labels) == their_counts(logits, labels)
    compare(
        "top1, 1,000 images, 20 classes",
        lambda: our_accuracy(logits, labels),
        lambda: their_counts(logits, labels),
        20,
    )
    assert abs(our_top5(logits, labels) - their_top5(logits, labels)) < 1e-6
    compare(
        "top5, 1,000 images, 20 classes",
        lambda: our_top5(logits, labels),
        lambda: their_top5(logits, labels),
        20,
    )

    for batch, side in ((64, 64), (16, 256)):
        scores = torch.randn(batch, 6, side, side)
        predictions = scores.argmax(1)
        masks = torch.randint(6, (batch, side, side), dtype=torch.uint8)
        masks[:, :4] = IGNORE
        expected = bincount_matrix(predictions, masks, 6)
        assert torch.equal(expected, their_matrix(predictions, masks, 6))
        assert torch.equal(expected, confusion_matrix(predictions, masks, 6))
        masked = multiclass_jaccard_index(predictions, masks.long(), 6, ignore_index=IGNORE)
        assert abs(mean_iou(expected, masked=True) - masked.item()) < 1e-6
        compare(
            f"confusion matrix, {batch} x {side} x {side}",
            lambda predictions=predictions, masks=masks: bincount_matrix(predictions, masks, 6),
            lambda predictions=predictions, masks=masks: their_matrix(predictions, masks, 6),
            5,
        )
        compare(
            f"  the same beside the softmax, {batch} x {side}",
            lambda s=scores, m=masks: bincount_matrix(functional.softmax(s, 1).argmax(1), m, 6),
            lambda s=scores, m=masks: their_matrix(functional.softmax(s, 1).argmax(1), m, 6),
            5,
        )


if __name__ == "__main__":
    main()
