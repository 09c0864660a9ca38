"""Counts over the images of a split, from which a segmentation network is evaluated."""

import numpy as np
import torch
from torch import Tensor

from trainables.data import IGNORE
from trainables.devices import sum_dtype
from trainables.engine import distributed
from trainables.miou import confusion_matrix, image_overlaps
from trainables.segmenters.losses import cross_entropy


class Tally:
    """Counts over the images that this worker has processed. Counts of single images are returned
    for the whole split, in its order, on every worker.

    Args:
        keeps_overlaps: also count each image by class.

    Attributes:
        confusion: (C, C + 1) int64, [predicted, true]; the last column is unknown truth.
        loss: cross-entropy, summed over pixels of known class.
    """

    def __init__(self, classes: int, device: torch.device, *, keeps_overlaps: bool):
        self.confusion = torch.zeros(classes, classes + 1, dtype=torch.int64, device=device)
        self.loss = torch.zeros((), dtype=sum_dtype(device), device=device)
        self._classes = classes
        self._keeps_overlaps = keeps_overlaps
        # Start with empty arrays, because a worker may have no images.
        self._positions = [np.empty(0, np.int64)]
        self._accuracies = [torch.empty(0, device=device)]
        self._overlaps = [torch.empty(0, classes, 2, dtype=torch.int64, device=device)]

    def add(
        self,
        positions: np.ndarray,  # (b,) in the split
        logits: Tensor,  # (b, C, h, w)
        masks: Tensor,  # (b, h, w) uint8
    ) -> None:
        """Count a batch of images."""
        self._positions.append(positions)
        predicted = logits.argmax(1)
        self.confusion += confusion_matrix(predicted, masks, self._classes)
        self.loss += cross_entropy(logits, masks.long()).to(self.loss.dtype) * masks.numel()

        right = (predicted == masks).flatten(1).sum(1)
        known = (masks != IGNORE).flatten(1).sum(1)
        self._accuracies.append(right / known.clamp_min(1))
        if self._keeps_overlaps:
            self._overlaps.append(image_overlaps(predicted, masks, self._classes))

    def accuracies(self, images: int) -> np.ndarray:  # (n,)
        """Pixel accuracy of each of the split's images."""
        return self._in_order(self._accuracies, images)

    def overlaps(self, images: int) -> np.ndarray:  # (n, C, 2)
        """Intersection and union by class of each of the split's images."""
        return self._in_order(self._overlaps, images)

    def _in_order(self, counted: list[Tensor], images: int) -> np.ndarray:
        rows = torch.cat(counted)
        order = torch.from_numpy(np.concatenate(self._positions).argsort()).to(rows.device)
        return distributed.gather_rows(rows[order], images).cpu().numpy()
