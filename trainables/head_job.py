"""A head on cached features as pure data: what a batched step needs of each trial whose backbone
never trains (`engine/together.py`)."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from torch import Tensor, nn

SoftLosses = Callable[[Tensor, Tensor, Tensor, Tensor | float, Tensor], Tensor]
"""(logits (B, C), truth (B, C), label smoothing (), focal gamma, class weights (C,)) -> (B,)."""


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
    draw_key: Hashable
    """Jobs of one key draw the same batch at the same step."""
    drawn: Callable[[int], None]
    """Is told how many features the job has taken from another's draw, for its costs."""
