"""Several heads on cached features, trained together: a step of all heads of one shape is one
batched matrix product forward and one backward.

A step of one head takes a millisecond, nearly all of it overhead of Python and the dispatcher.
Heads of one shape and batch size share that overhead, whatever their losses and schedules are.
Batches are gathered for several steps at a time.

Each trial keeps its own `TrainingState`. Parameters are stacked for a number of steps and then
written back, so checkpoints, reports and resume work as for any other trial.

Results equal those of `fit.train_step` up to the order of floating-point sums.
"""

import math
import time
from collections.abc import Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from trainables.base import RunConfig, Runtime
from trainables.data.sampling import generator
from trainables.devices import send
from trainables.engine import fused_optimizers, watchdog
from trainables.engine.checkpoint import TrainingState
from trainables.engine.fused_optimizers import FusedOptimizer
from trainables.engine.step import forward_seed, seed_generators
from trainables.errors import TrialFailed
from trainables.head_job import HeadJob
from trainables.processors import available_processors
from trainables.schedules import lr_at

_LONGEST_STRETCH = 500  # steps until a trial can save a checkpoint within its epoch
_GATHERED_BYTES = 4 << 20  # features gathered at a time, which fit into a CPU cache
_SCHEDULES = (
    "constant",
    "cosine",
    "warmup_cosine",
    "step",
    "polynomial",
    "one_cycle",
    "cosine_restarts",
)


@dataclass(eq=False)
class Member:
    """A trial that wants to train up to the end of its epoch."""

    state: TrainingState
    config: RunConfig
    runtime: Runtime
    job: HeadJob
    epoch_end: int
    """Step at which the epoch ends."""
    total_steps: int
    error: TrialFailed | None = field(default=None)
    """Set when the trial's loss is no longer finite."""
    share_s: float = 0.0
    """The trial's share of the time of its last steps, in seconds."""

    @property
    def steps_left(self) -> int:
        return self.epoch_end - self.state.progress.step

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Parameters of the head, by name."""
        return dict(self.job.head.named_parameters())


def member_of(
    state: TrainingState,
    config: RunConfig,
    runtime: Runtime,
    epoch_end: int,
    total_steps: int,
) -> Member | None:
    """Return the trial as a member of a batched job; None if it must train alone."""
    if runtime.world_size > 1:
        return None
    if runtime.device.type == "mps":  # has no float64, which sums use
        return None
    if not _is_plain(config):
        return None

    job = state.trainable.head_job()
    if job is None:
        return None
    return Member(state, config, runtime, job, epoch_end, total_steps)


def _is_plain(config: RunConfig) -> bool:
    """True if a batched step supports everything that the config asks for."""
    if config.schedule.name not in _SCHEDULES:
        return False
    if config.optim.name not in fused_optimizers.NAMES:
        return False
    train = config.train
    return not train.bf16 and not train.micro_batch and not train.ema


def advance(members: list[Member]) -> None:
    """Train all members, and write the results back into their states. Within each group of one
    shape, all take as many steps as the member with the fewest steps left in its epoch, at most
    500."""
    groups: dict[Hashable, list[Member]] = {}
    for member in members:
        groups.setdefault(_shape_key(member), []).append(member)

    for member in members:
        member.state.batched = max(member.state.batched, len(members))

    cores = _cores(members[0])
    most = math.ceil(len(members) / cores)
    jobs: list[tuple[list[Member], int]] = []
    for group in groups.values():
        steps = min(_LONGEST_STRETCH, *(member.steps_left for member in group))
        jobs += [(group[start : start + most], steps) for start in range(0, len(group), most)]
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(lambda job: _train(*job), jobs))


def _cores(member: Member) -> int:
    """Number of stacks that train in parallel. torch releases the GIL in its operations, and no
    stack uses more threads than a trial does. On a GPU: 1."""
    if member.runtime.device.type != "cpu":
        return 1
    return max(1, available_processors() // member.config.train.threads)


def _train(members: list[Member], steps: int) -> None:
    """Take this many steps with members of one shape."""
    began = time.perf_counter()
    _Stack(members).train(steps)
    share_s = (time.perf_counter() - began) / len(members)
    for member in members:
        member.share_s = share_s


def _shape_key(member: Member) -> Hashable:
    """Everything that members of one batched step must have in common."""
    shapes = [parameter.shape for parameter in member.parameters.values()]
    return tuple(shapes), member.config.train.batch_size, str(member.runtime.device)


class _Stack:
    """K members of one shape, with parameters stacked to (K, ...)."""

    def __init__(self, members: list[Member]):
        self.members = members
        self.device = members[0].runtime.device
        self.batch_size = members[0].config.train.batch_size
        self.job = members[0].job  # read only for what all members have in common

        each = [member.parameters for member in members]
        self.params: dict[str, Tensor] = {}
        for name in each[0]:
            rows = [parameters[name].detach() for parameters in each]
            self.params[name] = torch.stack(rows).requires_grad_()
        self.optimizers = self._optimizers()

        jobs = [member.job for member in members]
        self.smoothing = self._numbers([job.label_smoothing for job in jobs])[:, None, None]
        self.gamma: Tensor | float = 0.0
        if any(job.focal_gamma for job in jobs):
            self.gamma = self._numbers([job.focal_gamma for job in jobs])[:, None, None]
        self.weights = self._class_weights()
        self.limits = [member.config.optim.clip_grad_norm for member in members]
        self.drops = any(job.dropout for job in jobs)

    def _optimizers(self) -> list[FusedOptimizer]:
        optimizers = []
        for place, member in enumerate(self.members):
            rows = {name: stack.detach()[place] for name, stack in self.params.items()}
            state, config = member.state, member.config
            optimizers.append(
                FusedOptimizer(state.optimizer, config.optim, member.parameters, rows)
            )
        return optimizers

    def _numbers(self, values: list[float]) -> Tensor:  # (K,)
        return send(torch.tensor(values, dtype=torch.float32), self.device)

    def _class_weights(self) -> Tensor | None:  # (K, 1, C)
        each = [member.job.weights for member in self.members]
        if all(weights is None for weights in each):
            return None
        equal = torch.ones(self.job.classes, device=self.device)
        rows = [equal if weights is None else weights for weights in each]
        return torch.stack(rows)[:, None]

    def train(self, steps: int) -> None:
        """Take this many steps with every member, and write the results back."""
        shape = steps, len(self.members)
        losses = torch.empty(shape, dtype=torch.float64, device=self.device)
        rates = [self._rates(member, steps) for member in self.members]
        for k, (features, truth) in enumerate(self._batches(steps)):
            watchdog.beat()
            losses[k], gradients = self._loss_and_gradients(features, truth, self._masks(k))
            self._step(gradients, [column[k] for column in rates])
        self._write_back(steps, losses)

    def _rates(self, member: Member, steps: int) -> list[float]:
        """Learning rate of each step."""
        first = member.state.progress.step
        peak = member.config.optim.lr
        schedule = member.config.schedule
        return [
            lr_at(step, member.total_steps, peak, schedule) for step in range(first, first + steps)
        ]

    # -- batches

    def _batches(self, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Features (K, B, D) and one-hot labels (K, B, C) of each step."""
        width = self.job.features.shape[1]
        step_bytes = 4 * len(self.members) * self.batch_size * width
        at_a_time = max(1, _GATHERED_BYTES // step_bytes)
        for start in range(0, steps, at_a_time):
            stop = min(start + at_a_time, steps)
            features, labels = self._gathered(range(start, stop))
            truth = nn.functional.one_hot(labels, self.job.classes).float()
            yield from zip(features, truth, strict=True)

    def _gathered(self, steps: range) -> tuple[Tensor, Tensor]:  # (S, K, B, D), (S, K, B)
        """Batches of the next steps; members with equal keys share theirs."""
        drawn: dict[Hashable, tuple[Tensor, Tensor]] = {}
        features, labels = [], []
        for member in self.members:
            first = member.state.progress.step + steps.start
            key = member.job.draw_key, first
            if key not in drawn:
                drawn[key] = self._drawn(member, range(first, first + len(steps)))
            member.job.drawn(len(steps) * self.batch_size)
            features.append(drawn[key][0])
            labels.append(drawn[key][1])
        return torch.stack(features, 1), torch.stack(labels, 1)

    def _drawn(self, member: Member, steps: range) -> tuple[Tensor, Tensor]:  # (S, B, D), (S, B)
        """A member's batches, each drawn as in `BatchSplitter.draw_share`."""
        job = member.job
        sampler = member.state.batches.sampler
        positions = [sampler.positions(step) for step in steps]
        rows = [
            job.choose(places, generator(member.config.seed, 2, step))
            for step, places in zip(steps, positions, strict=True)
        ]
        features = job.features[torch.from_numpy(np.concatenate(rows))]
        labels = job.labels[torch.from_numpy(np.stack(positions))]
        shape = len(steps), self.batch_size, -1
        return send(features.view(shape), self.device), send(labels, self.device)

    def _masks(self, k: int) -> Tensor | None:  # (K, B, H)
        """Dropout masks of each member's step: the numbers that a step of its own would draw."""
        if not self.drops:
            return None
        units = self.params["0.bias"].shape[1]
        masks = torch.ones(len(self.members), self.batch_size, units, device=self.device)
        for mask, member in zip(masks, self.members, strict=True):
            if member.job.dropout:
                step = member.state.progress.step + k
                _draw_mask(mask, member, forward_seed(member.config.seed, step, 0))
        return masks

    # -- a step

    def _loss_and_gradients(
        self,
        features: Tensor,  # (K, B, D)
        truth: Tensor,  # (K, B, C)
        mask: Tensor | None,  # (K, B, H) of the hidden units
    ) -> tuple[Tensor, dict[str, Tensor]]:  # (K,); name -> (K, ...)
        """Compute the mean loss of each member, and the gradients of its parameters."""
        *hidden_layer, last = range(0, len(self.job.head), 3)
        for layer in hidden_layer:
            features = self._linear(layer, features).relu()
            if mask is not None:
                features = features * mask
        logits = self._linear(last, features)
        losses = self.job.losses(logits, truth, self.smoothing, self.gamma, self.weights)
        means = losses.mean(1)

        # A member's loss depends only on its own parameters, so the gradient of the sum contains
        # the gradient of each member.
        found = torch.autograd.grad(means.sum(), list(self.params.values()))
        return means.detach(), dict(zip(self.params, found, strict=True))

    def _linear(
        self,
        layer: int,
        x: Tensor,  # (K, B, inputs)
    ) -> Tensor:  # (K, B, outputs)
        """Apply one linear layer of each member. Features are the columns of the product, so its
        gradient has the memory layout of the weights."""
        weight, bias = self.params[f"{layer}.weight"], self.params[f"{layer}.bias"]
        return torch.baddbmm(bias[:, :, None], weight, x.mT).mT

    @torch.no_grad()
    def _step(self, gradients: dict[str, Tensor], rates: list[float]) -> None:
        """Step each member's optimizer."""
        if any(self.limits):
            self._clip(gradients)
        names = list(gradients)
        rows = zip(*(gradient.unbind() for gradient in gradients.values()), strict=True)
        for optimizer, rate, row in zip(self.optimizers, rates, rows, strict=True):
            optimizer.step(dict(zip(names, row, strict=True)), rate)

    def _clip(self, gradients: dict[str, Tensor]) -> None:
        """Scale down the gradients of members whose norm exceeds their limit, as
        `clip_grad_norm_` does."""
        squares = [gradient.square().flatten(1).sum(1) for gradient in gradients.values()]
        norms = torch.stack(squares).sum(0).sqrt()
        limits = self._numbers([limit or math.inf for limit in self.limits])
        factors = (limits / (norms + 1e-6)).clamp(max=1.0)
        for gradient in gradients.values():
            ones = [1] * (gradient.dim() - 1)
            gradient.mul_(factors.view(-1, *ones))

    @torch.no_grad()
    def _write_back(
        self,
        steps: int,
        losses: Tensor,  # (steps, K)
    ) -> None:
        sums = losses.sum(0)
        for place, member in enumerate(self.members):
            self.optimizers[place].count_steps()
            for name, parameter in member.parameters.items():
                parameter.copy_(self.params[name][place])

            state = member.state
            first = state.progress.step
            state.progress.step += steps
            state.loss_sum += sums[place]
            if not math.isfinite(float(sums[place])):
                member.error = _not_finite(member, first, losses[:, place])


def _draw_mask(
    mask: Tensor,  # (B, H)
    member: Member,
    seed: int,
) -> None:
    """Fill a mask with the factors by which `dropout` multiplies after this seed."""
    kept = 1 - member.job.dropout
    if mask.device.type == "cpu":
        # Use a local generator, because other threads draw too.
        mask.bernoulli_(kept, generator=torch.Generator().manual_seed(seed)).div_(kept)
        return
    # On a GPU, `bernoulli_` draws other numbers than `dropout`.
    seed_generators(seed, mask.device)
    mask.copy_(nn.functional.dropout(mask, member.job.dropout))


def _not_finite(
    member: Member,
    first: int,
    losses: Tensor,  # (steps,)
) -> TrialFailed:
    """The failure of a member, with the message that its own step would have raised."""
    bad = (~losses.isfinite()).nonzero()
    place = int(bad[0])
    step = first + place + 1
    return TrialFailed(
        "nan", f"the loss is {float(losses[place])} at step {step} of {member.total_steps}"
    )
