"""A head on cached features as plain data: what a batched step (`engine/together.py`) needs of each
trial whose backbone never trains."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

SoftLosses = Callable[[Tensor, Tensor, Tensor, Tensor | float, Tensor | None], Tensor]
"""(logits (K, B, C), truth (K, B, C), label smoothing (K, 1, 1), focal gamma (K, 1, 1) or 0, class
weights (K, 1, C) or None) -> losses (K, B) of K heads."""


@dataclass(frozen=True, eq=False)
class HeadJob:
    """One trial's head and loss."""

    head: nn.Sequential
    """One linear layer, or two with ReLU and dropout between them."""
    dropout: float
    """Probability of dropping a hidden unit, in [0, 1); 0 without a hidden layer."""
    classes: int
    losses: SoftLosses
    label_smoothing: float
    focal_gamma: float
    weights: Tensor | None  # (C,) of the classes; None: all 1
    features: Tensor  # (n, D) of all views of the training images, on the CPU
    labels: Tensor  # of the training images, on the CPU
    choose: Callable[[np.ndarray, torch.Generator], np.ndarray]
    """(positions of training images (B,), generator of the step) -> rows of `features` (B,)."""
    draw_key: Hashable
    """Jobs with equal keys draw the same batch at the same step."""
    drawn: Callable[[int], None]
    """Called with the number of features that the job took from another job's draw; the job counts
    them in its costs."""
