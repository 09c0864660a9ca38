"""An exponential moving average of the weights (Polyak & Juditsky 1992; `train.ema`). It is
evaluated beside the trained weights, and exported instead of them if its metric selects.

BatchNorm statistics are averaged too. The average is part of the checkpoint, so a resumed run has
the same average as an uninterrupted one.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainables.base import AVERAGED, Metrics, Trainable
from trainables.outcomes import ImageOutcomes


def decay_at(step: int, decay: float) -> float:
    """Decay of the update after optimizer step `step`, counted from 0: min(decay, (1 + n) / (10 +
    n)) with n earlier steps. Thus even a short run forgets its initial weights."""
    return min(decay, (1 + step) / (10 + step))


class WeightAverage:
    """The average of all parameters and BatchNorm statistics of a trainable that training can
    change."""

    def __init__(self, trainable: Trainable[Any, Any]):
        changing = {tensor.data_ptr() for tensor in trainable.changing_state().values()}
        self._decay = trainable.config.train.ema
        self._live = {
            name: tensor
            for name, tensor in averaged_tensors(trainable).items()
            if tensor.data_ptr() in changing
        }
        self.values = {name: tensor.detach().clone() for name, tensor in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the weights after optimizer step `step`."""
        weight = 1 - decay_at(step, self._decay)
        torch._foreach_lerp_([*self.values.values()], [*self._live.values()], weight)

    @torch.no_grad()
    def load(self, values: dict[str, Tensor]) -> None:
        """Load the average of a checkpoint."""
        for name, tensor in self.values.items():
            tensor.copy_(values[name])

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Replace the trainable's weights by the average within a block."""
        with torch.no_grad():
            kept = [tensor.detach().clone() for tensor in self._live.values()]
            _copy(self._live, [*self.values.values()])
        try:
            yield
        finally:
            _copy(self._live, kept)


def averaged_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Name -> parameter or running BatchNorm statistic; each tensor occurs once."""
    found: dict[str, Tensor] = dict(module.named_parameters())
    for name, part in module.named_modules():
        if not isinstance(part, _BatchNorm) or part.running_mean is None:
            continue
        assert part.running_var is not None
        found[f"{name}.running_mean"] = part.running_mean
        found[f"{name}.running_var"] = part.running_var
    return found


@torch.no_grad()
def _copy(targets: dict[str, Tensor], values: list[Tensor]) -> None:
    for target, value in zip(targets.values(), values, strict=True):
        target.copy_(value)


@contextlib.contextmanager
def judged_weights(
    trainable: Trainable[Any, Any], average: WeightAverage | None
) -> Iterator[Metrics]:
    """Evaluate the average, if there is one. Within the block, the trainable has the weights that
    the objective selects, and these are exported.

    Yields:
        `val/..._ema`: the metrics of the average.
    """
    if average is None:
        yield {}
        return

    if trainable.objective.endswith(AVERAGED):
        with average.in_place():
            yield averaged_names(trainable.validate())
        return

    with average.in_place():
        metrics = averaged_names(trainable.validate())
    yield metrics


def averaged_names(metrics: Metrics) -> Metrics:
    """The validation metrics, under the names used for averaged weights."""
    return {
        f"{name}{AVERAGED}": value for name, value in metrics.items() if name.startswith("val/")
    }


def with_objective(objective: str, metrics: Metrics) -> Metrics:
    """Metrics of an exported network. For an averaged objective, add its scores under the averaged
    name: `test/top1` also becomes `test/top1_ema`."""
    if not objective.endswith(AVERAGED):
        return metrics
    named = dict(metrics)
    for prefix in ("val", "test"):
        judged = prefix + objective.removeprefix("val")
        plain = judged.removesuffix(AVERAGED)
        if plain in metrics:
            named[judged] = metrics[plain]
    return named


def outcomes_with_objective(objective: str, outcomes: ImageOutcomes) -> ImageOutcomes:
    """The same for outcomes of images."""
    if not objective.endswith(AVERAGED):
        return outcomes
    judged = "test" + objective.removeprefix("val")
    plain = judged.removesuffix(AVERAGED)
    right, overlaps = dict(outcomes.right), dict(outcomes.overlaps)
    for arrays in (right, overlaps):
        if plain in arrays:
            arrays[judged] = arrays[plain]
    return replace(outcomes, right=right, overlaps=overlaps)
