"""What the workers of one trial tell each other. Every function is for all ranks at once, and an
identity where there is only one: without a process group, and inside `alone()`. Sums and order are
such that N workers compute what one would."""

import contextlib
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

T = TypeVar("T")
_alone = 0


def world_size() -> int:
    """Workers of this trial, >= 1."""
    return (
        dist.get_world_size() if not _alone and dist.is_available() and dist.is_initialized() else 1
    )


def rank() -> int:
    """Number of this worker, in [0, world_size)."""
    return dist.get_rank() if world_size() > 1 else 0


@contextlib.contextmanager
def no_collectives() -> Iterator[None]:
    """What is inside is done by this worker only (pictures, the baseline); the others wait at the
    next exchange."""
    global _alone
    _alone += 1
    try:
        yield
    finally:
        _alone -= 1


def shard(length: int, grain: int = 1) -> range:
    """Places in [0, length) that are this rank's. Shares are contiguous, in the order of ranks, and
    differ by at most one grain.

    Args:
        grain: places that belong together, such as an episode; divides `length`.
    """
    grains, number, count = length // grain, rank(), world_size()
    return range(grains * number // count * grain, grains * (number + 1) // count * grain)


def all_sum(x: Tensor) -> Tensor:
    """Sum over ranks, the same on all of them; of any shape, such as a confusion matrix (C, C)."""
    if world_size() == 1:
        return x
    total = x.clone()
    dist.all_reduce(total)
    return total


def gather_rows(
    rows: Tensor,  # (n_r, ...): those of `shard(length)`
    length: int,
) -> Tensor:  # (length, ...), on every rank
    """All shards in their order."""
    count = world_size()
    if count == 1:
        return rows
    padded = rows.new_zeros(-(-length // count), *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(count)]
    dist.all_gather(parts, padded)
    sizes = [length * (r + 1) // count - length * r // count for r in range(count)]
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def broadcast(value: T) -> T:
    """Rank 0's value on every rank; anything that pickles, so for small things. Nobody goes on
    before rank 0 has come here."""
    if world_size() == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def lost_peer(error: BaseException) -> bool:
    """Whether a failed exchange, and no fault of the trial, is behind `error`: another worker's
    process, or the way to it, is gone."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(
        word in str(error) for word in ("gloo", "Gloo", "NCCL", "Connection closed by peer")
    )


# -- BatchNorm


class CrossRankBatchNorm(_BatchNorm):
    """BatchNorm over the batches of all ranks. torch's own SyncBatchNorm, which refuses a CPU, says
    the same on GPUs."""

    def _check_input_dim(self, input: Tensor) -> None:
        """The class that this one took the place of knew its inputs."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(input)
        momentum = 0.0
        if self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            momentum = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        output, mean, variance, count = _CrossRankNormalize.apply(
            input, self.weight, self.bias, self.eps
        )
        if momentum and self.running_mean is not None and self.running_var is not None:
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_(
                (variance * count / (count - 1)).to(self.running_var.dtype), momentum
            )
        return output


class _CrossRankNormalize(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, with mean and biased variance over all
    ranks (Ioffe & Szegedy 2015, algorithm 1).

    One exchange forward (count, mean and sum of squares about it: Chan et al. 1983, equation 2.1,
    which no large mean cancels out) and one backward. Gradients of weight and bias are this rank's
    own: they are averaged with all others.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # (B, C, ...)
        weight: Tensor | None,  # (C,)
        bias: Tensor | None,  # (C,)
        eps: float,
        # (B, C, ...), mean (C,), biased variance (C,), count (1,)
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        exact = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        dims = [d for d in range(x.ndim) if d != 1]
        own = x.numel() // x.shape[1]
        mean = exact.mean(dims)
        about = (exact - _spread(mean, x)).square().sum(dims)
        message = torch.cat([mean.new_full((1,), own), mean, about])
        parts = [torch.empty_like(message) for _ in range(world_size())]
        dist.all_gather(parts, message)
        # (N, 1), (N, C), (N, C)
        counts, means, abouts = torch.stack(parts).split([1, x.shape[1], x.shape[1]], dim=1)
        count = counts.sum(0)
        mean = (counts * means).sum(0) / count
        variance = (abouts + counts * (means - mean).square()).sum(0) / count
        inverse = (variance + eps).rsqrt()
        normal = (exact - _spread(mean, x)) * _spread(inverse, x)
        output = normal if weight is None else normal * _spread(weight, x)
        output = output if bias is None else output + _spread(bias, x)
        ctx.save_for_backward(normal, weight, inverse, count)
        ctx.mark_non_differentiable(mean, variance, count)
        return output.to(x.dtype), mean, variance, count

    @staticmethod
    def backward(
        ctx: Any, gradient: Tensor, *_: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        normal, weight, inverse, count = ctx.saved_tensors
        exact = gradient.to(normal.dtype)
        dims = [d for d in range(normal.ndim) if d != 1]
        bias_gradient, weight_gradient = exact.sum(dims), (exact * normal).sum(dims)
        sums = torch.cat([bias_gradient, weight_gradient])
        dist.all_reduce(sums)
        of_one, of_normal = (sums / count).chunk(2)
        scale = inverse if weight is None else inverse * weight
        x_gradient = (
            exact - _spread(of_one, normal) - normal * _spread(of_normal, normal)
        ) * _spread(scale, normal)
        needs = ctx.needs_input_grad
        return (
            x_gradient.to(gradient.dtype),
            weight_gradient if needs[1] else None,
            bias_gradient if needs[2] else None,
            None,
        )


def _spread(
    values: Tensor,  # (C,)
    like: Tensor,  # (B, C, ...)
) -> Tensor:  # (1, C, 1, ...)
    return values.view(1, -1, *[1] * (like.ndim - 2))


def synchronize_batchnorm(module: nn.Module, device: torch.device) -> None:
    """Make every BatchNorm layer take its statistics over all ranks, in place: nothing that refers
    to a layer or its parameters notices.

    So the config, not the number of workers, decides what a batch is: N workers train as one would.
    """
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.__class__ = nn.SyncBatchNorm if device.type == "cuda" else CrossRankBatchNorm
            if device.type == "cuda":
                part.process_group = None  # type: ignore[assignment]
