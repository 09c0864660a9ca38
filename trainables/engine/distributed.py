"""Communication between the workers of one trial.

All ranks call each function together. With a single rank, each is the identity: without a process
group, and inside `no_collectives()`. Sums and order make N workers compute the same as one.
"""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

T = TypeVar("T")
_without_collectives = 0  # depth of `no_collectives` blocks


def world_size() -> int:
    """Number of workers of this trial, >= 1."""
    if _without_collectives or not dist.is_available() or not dist.is_initialized():
        return 1
    return dist.get_world_size()


def rank() -> int:
    """Number of this worker, in [0, world_size)."""
    return dist.get_rank() if world_size() > 1 else 0


@contextlib.contextmanager
def no_collectives() -> Iterator[None]:
    """Run a block on this worker alone (pictures, the baseline). The other workers wait at their
    next collective."""
    global _without_collectives
    _without_collectives += 1
    try:
        yield
    finally:
        _without_collectives -= 1


def shard(length: int, grain: int = 1) -> range:
    """This rank's share of [0, length). Shares are contiguous, in rank order, and differ by at most
    one grain.

    Args:
        grain: number of indices that stay together, such as an episode's; divides `length`.
    """
    grains = length // grain
    number = rank()
    count = world_size()
    start = grains * number // count
    stop = grains * (number + 1) // count
    return range(start * grain, stop * grain)


def all_sum(x: Tensor) -> Tensor:
    """Sum of a tensor of any shape over ranks, the same on all of them."""
    if world_size() == 1:
        return x
    total = x.clone()
    dist.all_reduce(total)
    return total


def gather_rows(
    rows: Tensor,  # (n_r, ...): the rows of `shard(length)`
    length: int,
) -> Tensor:  # (length, ...), on every rank
    """Concatenate all shards in rank order."""
    count = world_size()
    if count == 1:
        return rows
    padded = rows.new_zeros(-(-length // count), *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(count)]
    dist.all_gather(parts, padded)
    edges = [length * rank // count for rank in range(count + 1)]
    sizes = [end - start for start, end in itertools.pairwise(edges)]
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def broadcast(value: T) -> T:
    """Send rank 0's value, a small picklable object, to every rank. All ranks wait for rank 0."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def wait_for_all() -> None:
    """Wait until every rank has arrived here."""
    if world_size() > 1:
        dist.barrier()


def lost_peer(error: BaseException) -> bool:
    """Return True if `error` comes from a failed collective, not from the trial: another worker's
    process or the connection to it is gone."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(
        word in str(error) for word in ("gloo", "Gloo", "NCCL", "Connection closed by peer")
    )


# -- BatchNorm


class CrossRankBatchNorm(_BatchNorm):
    """BatchNorm over the batches of all ranks on a CPU, where torch's SyncBatchNorm does not
    work."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept any shape: the layer that this class replaced has already checked the input."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(input)
        momentum = self._next_momentum()
        output: Tensor
        output, mean, variance, count = _CrossRankNormalize.apply(
            input, self.weight, self.bias, self.eps
        )
        if momentum and self.running_mean is not None and self.running_var is not None:
            unbiased = variance * count / (count - 1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
        return output

    def _next_momentum(self) -> float:
        """Weight of this batch in the running statistics; counts the batch."""
        if not self.track_running_stats or self.num_batches_tracked is None:
            return 0.0
        self.num_batches_tracked.add_(1)
        if self.momentum is None:  # None means a cumulative average in torch
            return 1 / int(self.num_batches_tracked)
        return self.momentum


class SyncedBatchNorm(nn.SyncBatchNorm):
    """torch's SyncBatchNorm, whose statistics cover all ranks on GPUs; inside `no_collectives` they
    cover the local batch."""

    def forward(self, input: Tensor) -> Tensor:
        if world_size() == 1:
            return _BatchNorm.forward(self, input)
        return super().forward(input)


class _CrossRankNormalize(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, with mean and biased variance over all
    ranks (Ioffe & Szegedy 2015, algorithm 1).

    The forward pass takes one collective, which exchanges count, mean and sum of squares about the
    mean. Equation 2.1 of Chan et al. 1983 combines them without cancellation for large means. The
    backward pass takes one more. Gradients of weight and bias are local: they are averaged with all
    other gradients.
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
        mean, variance, count = _statistics(exact)

        inverse = (variance + eps).rsqrt()
        normal = (exact - _spread(mean, x)) * _spread(inverse, x)
        output = normal
        if weight is not None:
            output = output * _spread(weight, x)
        if bias is not None:
            output = output + _spread(bias, x)

        ctx.save_for_backward(normal, weight, inverse, count)
        ctx.mark_non_differentiable(mean, variance, count)
        return output.to(x.dtype), mean, variance, count

    @staticmethod
    def backward(
        ctx: Any, gradient: Tensor, *_: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        normal, weight, inverse, count = ctx.saved_tensors
        exact = gradient.to(normal.dtype)
        dims = _all_but_channels(normal)
        bias_gradient = exact.sum(dims)
        weight_gradient = (exact * normal).sum(dims)

        sums = torch.cat([bias_gradient, weight_gradient])
        dist.all_reduce(sums)
        mean_gradient, mean_product = (sums / count).chunk(2)
        centred = exact - _spread(mean_gradient, normal) - normal * _spread(mean_product, normal)
        scale = inverse if weight is None else inverse * weight
        x_gradient = centred * _spread(scale, normal)

        _, needs_weight, needs_bias, _ = ctx.needs_input_grad
        return (
            x_gradient.to(gradient.dtype),
            weight_gradient if needs_weight else None,
            bias_gradient if needs_bias else None,
            None,
        )


def _statistics(
    x: Tensor,  # (B, C, ...), this rank's part
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), biased variance (C,) and count (1,) over all ranks."""
    channels = x.shape[1]
    dims = _all_but_channels(x)
    mean = x.mean(dims)
    squares = (x - _spread(mean, x)).square().sum(dims)
    own_count = mean.new_full((1,), x.numel() // channels)
    message = torch.cat([own_count, mean, squares])
    parts = [torch.empty_like(message) for _ in range(world_size())]
    dist.all_gather(parts, message)

    table = torch.stack(parts)  # (N, 1 + 2 C)
    counts, means, all_squares = torch.split(table, [1, channels, channels], dim=1)
    count = counts.sum(0)
    mean = (counts * means).sum(0) / count
    variance = (all_squares + counts * (means - mean).square()).sum(0) / count
    return mean, variance, count


def _all_but_channels(x: Tensor) -> list[int]:
    return [dim for dim in range(x.ndim) if dim != 1]


def _spread(
    values: Tensor,  # (C,)
    like: Tensor,  # (B, C, ...)
) -> Tensor:  # (1, C, 1, ...)
    """One value per channel, shaped to broadcast over `like`."""
    return values.view(1, -1, *[1] * (like.ndim - 2))


def synchronize_batchnorm(module: nn.Module, device: torch.device) -> None:
    """Make every BatchNorm layer take its statistics over all ranks, so that N workers train like
    one.

    Layers are changed in place: references to them and to their parameters stay valid.
    """
    for part in module.modules():
        if not isinstance(part, _BatchNorm):
            continue
        if device.type == "cuda":
            part.__class__ = SyncedBatchNorm
            part.process_group = None  # type: ignore[assignment]
        else:
            part.__class__ = CrossRankBatchNorm
