"""Several heads on cached features, trained as one: a step of all of them is one batched operation
(`torch.func.vmap` over configurations).

A step of one head takes a millisecond, nearly all of it the way through Python and the dispatcher.
Heads of as many layers share that way; learning rates, weight decays, momenta, smoothings and
classes' weights are tensors with one entry per head, and smaller heads and batches are padded.

Each trial keeps its own `TrainingState`: parameters and the optimizer's moments are stacked for a
stretch of steps and written back after it, so that checkpoints, reports and resumption are those of
any trial.

The numbers are those of `fit.train_step` but for the order of floating-point sums.
"""

import itertools
import math
import time
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import vmap

from trainables.base import Batch, RunConfig, Runtime
from trainables.devices import send
from trainables.engine import stacked_optimizers, watchdog
from trainables.engine.checkpoint import TrainingState
from trainables.engine.stacked_optimizers import (
    Owner,
    StackedOptimizer,
    padded,
    per_trial,
    stacked_optimizer,
    within,
)
from trainables.engine.step import seed_forward_pass
from trainables.errors import TrialFailed
from trainables.head_job import HeadJob
from trainables.schedules import lr_at

_LONGEST_STRETCH = 500  # steps after which a trial may save a checkpoint within its epoch
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
    """Set where the trial's loss is not finite any more."""
    share_s: float = 0.0
    """The trial's share of the time that its last steps took, seconds."""

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
    """Return the trial as a member of a batched job; None where it has to train by itself."""
    if runtime.world_size > 1:
        return None
    if runtime.device.type == "mps":  # sums are float64, which it lacks
        return None
    if not _is_plain(config):
        return None

    job = state.trainable.head_job()
    if job is None:
        return None
    return Member(state, config, runtime, job, epoch_end, total_steps)


def _is_plain(config: RunConfig) -> bool:
    """Tell whether a batched step knows all that the config asks for."""
    if config.schedule.name not in _SCHEDULES:
        return False
    if config.optim.name not in stacked_optimizers.NAMES:
        return False
    train = config.train
    return not train.bf16 and not train.micro_batch and not train.ema


def advance(members: list[Member]) -> None:
    """Train all members until the one that has the fewest steps left ends its epoch, and write the
    result back into their states."""
    fewest = min(member.steps_left for member in members)
    steps = min(fewest, _LONGEST_STRETCH)

    groups: dict[Hashable, list[Member]] = {}
    for member in members:
        key = _shape_key(member)
        groups.setdefault(key, []).append(member)

    for group in groups.values():
        began = time.perf_counter()
        _Stack(group).train(steps)
        share_s = (time.perf_counter() - began) / len(group)
        for member in group:
            member.share_s = share_s
            member.state.batched = max(member.state.batched, len(members))


def _shape_key(member: Member) -> Hashable:
    """Name all that members must have in common for one batched step."""
    job = member.job
    first = next(job.head.parameters())
    inputs = first.shape[1]
    return len(job.head), inputs, job.classes, str(member.runtime.device)


class _Stack:
    """K members whose parameters are stacked, (K, ...), those of one optimizer side by side.

    Hidden layers of different widths, and batches of different sizes, are padded with zeros. A
    padded unit has no gradient and stays zero; a padded image has no weight.
    """

    def __init__(self, members: list[Member]):
        self.members = sorted(members, key=lambda member: member.config.optim.name)
        self.device = members[0].runtime.device
        self.job = members[0].job  # for what all have in common
        self.batch_size = max(member.config.train.batch_size for member in members)
        self.params = self._stacked_parameters()
        self.optimizers = list(self._stacked_optimizers())

        self.smoothing = self._numbers([member.job.label_smoothing for member in self.members])
        self.gamma = self._numbers([member.job.focal_gamma for member in self.members])
        self.clip = self._numbers([member.config.optim.clip_grad_norm for member in self.members])
        self.weights = self._class_weights()
        self.shares = self._image_shares()

    def _stacked_parameters(self) -> dict[str, Tensor]:
        """Name -> (K, ...)."""
        each = [member.parameters for member in self.members]
        stacked = {}
        for name in each[0]:
            tensors = [parameters[name].detach() for parameters in each]
            sizes = [tensor.shape for tensor in tensors]
            largest = [max(size) for size in zip(*sizes, strict=True)]
            rows = [padded(tensor, largest) for tensor in tensors]
            stacked[name] = torch.stack(rows).requires_grad_()
        return stacked

    def _stacked_optimizers(self) -> Iterator[tuple[slice, StackedOptimizer]]:
        """The optimizers, and the members that each of them steps."""
        shapes = {name: tensor.shape[1:] for name, tensor in self.params.items()}
        start = 0
        for _, group in itertools.groupby(self.members, lambda m: m.config.optim.name):
            owners = []
            for member in group:
                owner = Owner(member.parameters, member.state.optimizer, member.config.optim)
                owners.append(owner)
            stop = start + len(owners)
            yield slice(start, stop), stacked_optimizer(shapes, owners)
            start = stop

    def _numbers(self, values: list[float]) -> Tensor:  # (K,)
        return send(torch.tensor(values, dtype=torch.float32), self.device)

    def _class_weights(self) -> Tensor:  # (K, C)
        equal = torch.ones(self.job.classes, device=self.device)
        rows = []
        for member in self.members:
            weights = member.job.weights
            rows.append(equal if weights is None else weights)
        return torch.stack(rows)

    def _image_shares(self) -> Tensor:  # (K, B)
        """Weight of each image in its member's mean loss."""
        shares = torch.zeros(len(self.members), self.batch_size, device=self.device)
        for place, member in enumerate(self.members):
            images = member.config.train.batch_size
            shares[place, :images] = 1 / images
        return shares

    def train(self, steps: int) -> None:
        """Take so many steps with every member, and write them back."""
        shape = steps, len(self.members)
        losses = torch.empty(shape, dtype=torch.float64, device=self.device)
        rates = self._rates(steps)
        for k in range(steps):
            watchdog.beat()
            losses[k] = self._step(k, rates[k])
        self._write_back(steps, losses)

    def _rates(self, steps: int) -> Tensor:  # (steps, K) float64
        """Learning rate of each step and member."""
        columns = []
        for member in self.members:
            first = member.state.progress.step
            peak = member.config.optim.lr
            schedule = member.config.schedule
            column = [
                lr_at(step, member.total_steps, peak, schedule)
                for step in range(first, first + steps)
            ]
            columns.append(column)

        table = send(torch.tensor(columns, dtype=torch.float64), self.device)
        return table.T

    def _step(
        self,
        k: int,
        rates: Tensor,  # (K,)
    ) -> Tensor:  # (K,) float64
        """Take one optimizer step with every member; returns their losses."""
        features, labels = self._draw(k)
        truth = nn.functional.one_hot(labels, self.job.classes).float()

        of_each = vmap(self._loss)
        losses = of_each(
            self.params,
            features,
            truth,
            self.smoothing,
            self.gamma,
            self.weights,
            self.shares,
            self._masks(k),
        )

        # A member's loss depends on its own parameters alone, so that the sum has each one's
        # gradient.
        found = torch.autograd.grad(losses.sum(), list(self.params.values()))
        gradients = dict(zip(self.params, found, strict=True))
        with torch.no_grad():
            if self.clip.any():
                self._clip(gradients)
            for part, optimizer in self.optimizers:
                params = {name: tensor.detach()[part] for name, tensor in self.params.items()}
                parts = {name: gradient[part] for name, gradient in gradients.items()}
                optimizer.step(params, parts, rates[part])
        return losses.detach().double()

    def _draw(self, k: int) -> tuple[Tensor, Tensor]:  # (K, B, D), (K, B)
        """The batch of each member's step; members of one key share theirs."""
        drawn: dict[Hashable, Batch] = {}
        features, labels = [], []
        for member in self.members:
            step = member.state.progress.step + k
            key = member.job.draw_key, step
            if key in drawn:
                member.job.drawn(member.config.train.batch_size)
            else:
                drawn[key] = self._padded_batch(member.state.batches.feed.batch(step))
            batch = drawn[key]
            assert batch.targets is not None
            features.append(batch.images)
            labels.append(batch.targets)
        return torch.stack(features), torch.stack(labels)

    def _padded_batch(self, batch: Batch) -> Batch:
        assert batch.targets is not None
        images = padded(batch.images, (self.batch_size, batch.images.shape[1]))
        targets = padded(batch.targets, (self.batch_size,))
        return Batch(images, (), targets)

    def _loss(
        self,
        params: dict[str, Tensor],
        features: Tensor,  # (B, D)
        truth: Tensor,  # (B, C)
        smoothing: Tensor,  # ()
        gamma: Tensor,  # ()
        weights: Tensor,  # (C,)
        shares: Tensor,  # (B,)
        mask: Tensor,  # (B, H) of the hidden units, or nothing
    ) -> Tensor:
        """The loss of one member."""
        last = len(self.job.head) - 1
        hidden = features
        if last > 0:
            hidden = nn.functional.linear(features, params["0.weight"], params["0.bias"])
            hidden = hidden.relu() * mask

        weight = params[f"{last}.weight"]
        bias = params[f"{last}.bias"]
        logits = nn.functional.linear(hidden, weight, bias)

        focal_gamma: Tensor | float = 0.0
        if any(member.job.focal_gamma for member in self.members):
            focal_gamma = gamma
        losses = self.job.losses(logits, truth, smoothing, focal_gamma, weights)
        return (losses * shares).sum()

    def _masks(self, k: int) -> Tensor:  # (K, B, H)
        """Dropout of each member's step: the numbers that its own step would draw."""
        if len(self.job.head) == 1:
            return torch.zeros(len(self.members), 1, device=self.device)

        width = self.params["0.weight"].shape[1]
        shape = len(self.members), self.batch_size, width
        masks = torch.ones(shape, device=self.device)
        for place, member in enumerate(self.members):
            if not member.job.dropout:
                continue
            step = member.state.progress.step + k
            seed_forward_pass(member.config.seed, step, member.runtime)
            images = member.config.train.batch_size
            units = len(member.parameters["0.bias"])
            # Torch's own function: on a GPU it draws other numbers than `bernoulli_`.
            every = torch.ones(images, units, device=self.device)
            masks[place, :images, :units] = nn.functional.dropout(every, member.job.dropout)
        return masks

    def _clip(self, gradients: dict[str, Tensor]) -> None:
        """Scale down the gradients of members whose norm is above their limit, as
        `clip_grad_norm_` does."""
        squares = torch.zeros_like(self.clip)
        for gradient in gradients.values():
            squares += gradient.square().flatten(1).sum(1)

        norms = squares.sqrt()
        factors = self.clip / (norms + 1e-6)
        factors.clamp_(max=1.0)
        factors = torch.where(self.clip > 0, factors, torch.ones_like(factors))
        for name, gradient in gradients.items():
            gradients[name] = gradient * per_trial(factors, gradient)

    @torch.no_grad()
    def _write_back(
        self,
        steps: int,
        losses: Tensor,  # (steps, K)
    ) -> None:
        for part, optimizer in self.optimizers:
            for place in range(part.stop - part.start):
                optimizer.write_back(place)

        sums = losses.sum(0)
        for place, member in enumerate(self.members):
            for name, parameter in member.parameters.items():
                trained = self.params[name][place]
                parameter.copy_(trained[within(parameter)])

            state = member.state
            first = state.progress.step
            state.progress.step += steps
            state.loss_sum += sums[place]
            if not math.isfinite(float(sums[place])):
                member.error = _not_finite(member, first, losses[:, place])


def _not_finite(
    member: Member,
    first: int,
    losses: Tensor,  # (steps,)
) -> TrialFailed:
    """The failure of a member, as the step that met it would have said."""
    bad = (~losses.isfinite()).nonzero()
    place = int(bad[0])
    step = first + place + 1
    return TrialFailed(
        "nan", f"the loss is {float(losses[place])} at step {step} of {member.total_steps}"
    )
