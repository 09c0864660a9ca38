"""Quality of a segmentation, from one confusion matrix summed over batches and workers; never a
mean of per-batch scores.

>>> total = sum(confusion_matrix(predictions, masks, 6) for predictions, masks in batches)
>>> segmentation_metrics(total, classes, "val")["val/miou"]

Counts are int64, so the order of summation does not matter. `miou` is the course's definition:
pooled over the set, and a prediction on a pixel of unknown class is a false positive.
`miou_masked` excludes such pixels, as is common elsewhere (the void of Pascal VOC, Everingham et
al. 2010, section 3.2). torchmetrics counts the pixels; docs/notes/torchmetrics.md explains why IoU
is computed here.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from trainables.data.splits import IGNORE
from trainables.devices import to_double


@torch.no_grad()
def confusion_matrix(
    predictions: Tensor,  # (...) integer in [0, C)
    masks: Tensor,  # (...) the same shape, uint8 or int64: [0, C), or `IGNORE` = unknown
    classes: int,  # C
) -> Tensor:
    """(C, C + 1) int64, on the device of `predictions`: `[p, t]` counts pixels of true class t that
    were predicted as p. The last column counts pixels of unknown truth."""
    # Imported here: the import takes seconds, and only a validation needs it.
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    truth = masks.to(predictions.device, torch.int64)
    truth = torch.where(truth == IGNORE, classes, truth)
    by_truth = multiclass_confusion_matrix(predictions, truth, classes + 1, validate_args=False)

    # No prediction is "unknown".
    return by_truth.T[:classes].contiguous()


@torch.no_grad()
def image_overlaps(
    predictions: Tensor,  # (b, ...) integer in [0, C)
    masks: Tensor,  # (b, ...) the same shape, uint8 or int64: [0, C), or `IGNORE` = unknown
    classes: int,  # C
) -> Tensor:  # (b, C, 2) int64
    """Pixels in the intersection and the union of each class in each image. `mean_iou` is the mean
    over classes of intersection / union, each summed over images."""
    predicted = predictions.flatten(1).long()
    truth = masks.to(predictions.device, torch.int64).flatten(1)
    right = predicted == truth

    # Class c of image i is counted in cell i C + c.
    images = len(predicted)
    cells = images * classes
    first_cell = torch.arange(0, cells, classes, device=predictions.device)[:, None]
    predicted_cell = first_cell + predicted
    true_cell = (first_cell + truth)[truth != IGNORE]

    intersection = torch.bincount(predicted_cell[right], minlength=cells)
    predicted_pixels = torch.bincount(predicted_cell.flatten(), minlength=cells)
    true_pixels = torch.bincount(true_cell, minlength=cells)
    union = predicted_pixels + true_pixels - intersection
    return torch.stack([intersection, union], 1).view(images, classes, 2)


def class_iou(
    confusion: Tensor,  # (C, C + 1)
    masked: bool = False,
) -> Tensor:
    """(C,) float64 in [0, 1]: true positives / (predicted + true - true positives).

    0 for a class that was only predicted; NaN for one that is in neither truth nor prediction.

    Args:
        masked: exclude pixels of unknown truth; otherwise they are false positives.
    """
    known = to_double(confusion[:, :-1])
    counted = known if masked else to_double(confusion)
    predicted = counted.sum(1)
    hits = known.diagonal()
    return hits / (predicted + known.sum(0) - hits)


def mean_iou(confusion: Tensor, masked: bool = False) -> float:
    """Mean of `class_iou` over the classes for which it is defined, in [0, 1]; NaN if there are
    none."""
    return class_iou(confusion, masked).nanmean().item()


def pixel_accuracy(
    confusion: Tensor,  # (C, C + 1)
) -> float:
    """Share of pixels with known truth that were predicted right, in [0, 1]; NaN if there are
    none."""
    known = to_double(confusion[:, :-1])
    return (known.diagonal().sum() / known.sum()).item()


def segmentation_metrics(
    confusion: Tensor,  # (C, C + 1)
    classes: Sequence[str],  # C names
    prefix: str,  # "val" or "test"
) -> dict[str, float]:
    """`<prefix>/miou`, `/miou_masked`, `/pixel_accuracy` and `/iou/<class>`; a class in neither
    truth nor prediction has no entry."""
    metrics = {
        f"{prefix}/miou": mean_iou(confusion),
        f"{prefix}/miou_masked": mean_iou(confusion, masked=True),
        f"{prefix}/pixel_accuracy": pixel_accuracy(confusion),
    }
    for name, iou in zip(classes, class_iou(confusion).tolist(), strict=True):
        if iou == iou:  # not NaN
            metrics[f"{prefix}/iou/{name}"] = iou
    return metrics
