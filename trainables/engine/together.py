"""Several heads on cached features, trained as one: a step of all of them is one batched operation
(`torch.func.vmap` over configurations).

A step of one head takes a millisecond, nearly all of it the way through Python and the dispatcher.
Heads of one shape, batch size and optimizer share that way; learning rates, weight decays, momenta,
smoothings and classes' weights are tensors with one entry per head. Each trial keeps its own
`TrainingState`: parameters and the optimizer's moments are stacked for a stretch of steps and
written back after it, so that checkpoints, reports and resumption are those of any trial.

The numbers are those of `fit.train_step` but for the order of floating-point sums.
"""

import math
from collections.abc import Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import vmap

from trainables.base import Batch, RunConfig, Runtime
from trainables.devices import send
from trainables.engine import stacked_optimizers, watchdog
from trainables.engine.checkpoint import TrainingState
from trainables.engine.stacked_optimizers import Owner, per_trial, stacked_optimizer
from trainables.engine.step import seed_forward_pass
from trainables.errors import TrialFailed
from trainables.head_job import HeadJob
from trainables.optim import lr_at

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
        _Stack(group).train(steps)


def _shape_key(member: Member) -> Hashable:
    """Name all that members must have in common for one batched step."""
    job = member.job
    optim = member.config.optim
    shapes = tuple(tuple(parameter.shape) for parameter in job.head.parameters())
    return (
        shapes,
        member.config.train.batch_size,
        optim.name,
        optim.nesterov,
        bool(optim.momentum),
        bool(optim.clip_grad_norm),
        bool(job.focal_gamma),
        bool(job.dropout),
        str(member.runtime.device),
    )


class _Stack:
    """K members whose parameters are stacked, (K, ...)."""

    def __init__(self, members: list[Member]):
        self.members = members
        self.device = members[0].runtime.device
        self.job = members[0].job  # for what all have in common

        each = [member.parameters for member in members]
        names = list(each[0])
        self.params: dict[str, Tensor] = {}
        for name in names:
            stacked = torch.stack([parameters[name].detach() for parameters in each])
            self.params[name] = stacked.requires_grad_()

        owners = []
        for member, parameters in zip(members, each, strict=True):
            owner = Owner(parameters, member.state.optimizer, member.config.optim)
            owners.append(owner)
        self.optimizer = stacked_optimizer(names, owners)

        self.smoothing = self._numbers([member.job.label_smoothing for member in members])
        self.gamma = self._numbers([member.job.focal_gamma for member in members])
        self.clip = self._numbers([member.config.optim.clip_grad_norm for member in members])
        self.weights = self._class_weights()

    def _numbers(self, values: list[float]) -> Tensor:  # (K,)
        return send(torch.tensor(values, dtype=torch.float32), self.device)

    def _class_weights(self) -> Tensor:  # (K, C)
        equal = torch.ones(self.job.classes, device=self.device)
        rows = []
        for member in self.members:
            weights = member.job.weights
            rows.append(equal if weights is None else weights)
        return torch.stack(rows)

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
        batches = self._draw(k)
        features, features_dim = _stacked_or_shared([batch.images for batch in batches])
        targets = [batch.targets for batch in batches if batch.targets is not None]
        labels, labels_dim = _stacked_or_shared(targets)
        truth = nn.functional.one_hot(labels, self.job.classes).float()
        masks = self._masks(k, len(batches[0]))

        of_each = vmap(self._loss, in_dims=(0, features_dim, labels_dim, 0, 0, 0, 0))
        losses = of_each(
            self.params,
            features,
            truth,
            self.smoothing,
            self.gamma,
            self.weights,
            masks,
        )

        # A member's loss depends on its own parameters alone, so that the sum has each one's
        # gradient.
        found = torch.autograd.grad(losses.sum(), list(self.params.values()))
        gradients = dict(zip(self.params, found, strict=True))
        with torch.no_grad():
            if self.members[0].config.optim.clip_grad_norm:
                self._clip(gradients)
            self.optimizer.step(self.params, gradients, rates)
        return losses.detach().double()

    def _draw(self, k: int) -> list[Batch]:
        """The batch of each member's step; members of one key share theirs."""
        drawn: dict[Hashable, Batch] = {}
        batches = []
        for member in self.members:
            step = member.state.progress.step + k
            key = member.job.draw_key, step
            if key in drawn:
                member.job.drawn(len(drawn[key]))
            else:
                drawn[key] = member.state.batches.feed.batch(step)
            batches.append(drawn[key])
        return batches

    def _loss(
        self,
        params: dict[str, Tensor],
        features: Tensor,  # (B, D)
        truth: Tensor,  # (B, C)
        smoothing: Tensor,  # ()
        gamma: Tensor,  # ()
        weights: Tensor,  # (C,)
        mask: Tensor,  # (B, H) of the hidden units, or nothing
    ) -> Tensor:
        """The loss of one member."""
        last = len(self.job.head) - 1
        hidden = features
        if last > 0:
            hidden = nn.functional.linear(features, params["0.weight"], params["0.bias"])
            hidden = hidden.relu()
            if self.job.dropout:
                hidden = hidden * mask

        weight = params[f"{last}.weight"]
        bias = params[f"{last}.bias"]
        logits = nn.functional.linear(hidden, weight, bias)

        focal_gamma: Tensor | float = 0.0
        if self.job.focal_gamma:
            focal_gamma = gamma
        return self.job.loss(logits, truth, smoothing, focal_gamma, weights)

    def _masks(self, k: int, batch_size: int) -> Tensor:  # (K, B, H)
        """Dropout of each member's step: the numbers that its own step would draw."""
        if not self.job.dropout:
            return torch.zeros(len(self.members), 1, device=self.device)

        width = self.params["0.weight"].shape[1]
        masks = []
        for member in self.members:
            step = member.state.progress.step + k
            seed_forward_pass(member.config.seed, step, member.runtime)
            keep = 1 - member.job.dropout
            mask = torch.empty(batch_size, width, device=self.device)
            mask.bernoulli_(keep)
            mask.div_(keep)
            masks.append(mask)
        return torch.stack(masks)

    def _clip(self, gradients: dict[str, Tensor]) -> None:
        """Scale down the gradients of members whose norm is above their limit, as
        `clip_grad_norm_` does."""
        squares = torch.zeros_like(self.clip)
        for gradient in gradients.values():
            squares += gradient.square().flatten(1).sum(1)

        norms = squares.sqrt()
        factors = self.clip / (norms + 1e-6)
        factors.clamp_(max=1.0)
        for name, gradient in gradients.items():
            gradients[name] = gradient * per_trial(factors, gradient)

    @torch.no_grad()
    def _write_back(
        self,
        steps: int,
        losses: Tensor,  # (steps, K)
    ) -> None:
        sums = losses.sum(0)
        for place, member in enumerate(self.members):
            for name, parameter in member.parameters.items():
                trained = self.params[name][place]
                parameter.copy_(trained)
            self.optimizer.write_back(place)

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


def _stacked_or_shared(each: list[Tensor]) -> tuple[Tensor, int | None]:
    """Return K tensors as one (K, ...), and the dimension of the members, 0; or the one tensor that
    all share, and None."""
    first = each[0]
    if all(tensor is first for tensor in each):
        return first, None
    return torch.stack(each), 0
