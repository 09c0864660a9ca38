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
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

from trainables.base import Batch, RunConfig, Runtime
from trainables.engine.checkpoint import TrainingState
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
_OPTIMIZERS = ("sgd", "adam", "adamw")


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


def member_of(
    state: TrainingState, config: RunConfig, runtime: Runtime, epoch_end: int, total_steps: int
) -> Member | None:
    """The trial as a member of a batched job; None where it has to train by itself."""
    if runtime.world_size > 1 or not _is_plain(config):
        return None

    job = state.trainable.head_job()
    if job is None:
        return None
    return Member(state, config, runtime, job, epoch_end, total_steps)


def _is_plain(config: RunConfig) -> bool:
    """True for what a batched step knows how to do."""
    train = config.train
    known = config.schedule.name in _SCHEDULES and config.optim.name in _OPTIMIZERS
    return known and not train.bf16 and not train.micro_batch


def advance(members: list[Member]) -> None:
    """Train all members until the one that has the fewest steps left ends its epoch, and write the
    result back into their states."""
    steps = min(_LONGEST_STRETCH, *(member.steps_left for member in members))
    draws = _Draws()
    for group in _groups(members):
        _Stack(group).train(steps, draws)


def _groups(members: list[Member]) -> Iterator[list[Member]]:
    groups: dict[Hashable, list[Member]] = {}
    for member in members:
        groups.setdefault(_shape_key(member), []).append(member)
    yield from groups.values()


def _shape_key(member: Member) -> Hashable:
    """What members must have in common for one batched step."""
    job, optim = member.job, member.config.optim
    shapes = tuple(tuple(parameter.shape) for parameter in job.head.parameters())
    update = (optim.name, optim.nesterov, bool(optim.momentum), bool(optim.clip_grad_norm))
    loss = (bool(job.focal_gamma), bool(job.dropout))
    return shapes, member.config.train.batch_size, update, loss, str(member.runtime.device)


class _Draws:
    """Batches of one stretch of steps: members of one key share theirs."""

    def __init__(self) -> None:
        self._batches: dict[Hashable, Batch] = {}

    def batch(self, member: Member, step: int) -> Batch:
        """The batch of a member's step."""
        key = (member.job.draw_key, step)
        if key in self._batches:
            member.job.drawn(len(self._batches[key]))
        else:
            self._batches[key] = member.state.batches.draw(step)
        return self._batches[key]

    def forget(self) -> None:
        self._batches.clear()


class _Stack:
    """K members whose parameters are stacked, (K, ...)."""

    def __init__(self, members: list[Member]):
        self.members = members
        self.device = members[0].runtime.device
        self.optim = members[0].config.optim  # the parts that all have in common
        self.names = [name for name, _ in members[0].job.head.named_parameters()]
        self.params = {name: self._stacked(name).requires_grad_() for name in self.names}
        self.updates = _update_of(self)

        jobs = [member.job for member in members]
        classes = jobs[0].classes
        ones = torch.ones(classes, device=self.device)
        self.weights = torch.stack([ones if j.weights is None else j.weights for j in jobs])
        self.smoothing = self.numbers([job.label_smoothing for job in jobs])
        self.gamma = self.numbers([job.focal_gamma for job in jobs])
        self.clip = self.numbers([member.config.optim.clip_grad_norm for member in members])

    def numbers(self, values: list[float]) -> Tensor:
        """(K,) float32."""
        return torch.tensor(values, dtype=torch.float32, device=self.device)

    def parameter(self, member: Member, name: str) -> nn.Parameter:
        return member.job.head.get_parameter(name)

    def _stacked(self, name: str) -> Tensor:
        each = [self.parameter(member, name).detach() for member in self.members]
        return torch.stack(each)

    def train(self, steps: int, draws: _Draws) -> None:
        """Take so many steps with every member, and write them back."""
        losses = torch.empty(steps, len(self.members), dtype=torch.float64, device=self.device)
        rates = self._rates(steps)
        for k in range(steps):
            losses[k] = self._step(k, rates[k], draws)
            draws.forget()
        self._write_back(steps, losses)

    def _rates(self, steps: int) -> Tensor:  # (steps, K)
        """Learning rate of each step and member."""
        table = []
        for k in range(steps):
            row = []
            for member in self.members:
                step = member.state.progress.step + k
                config = member.config
                row.append(lr_at(step, member.total_steps, config.optim.lr, config.schedule))
            table.append(row)
        return torch.tensor(table, dtype=torch.float64, device=self.device)

    def _step(self, k: int, rates: Tensor, draws: _Draws) -> Tensor:  # (K,) float64
        """One optimizer step of every member; returns their losses."""
        batches = [draws.batch(m, m.state.progress.step + k) for m in self.members]
        features, one = _stacked_or_shared([batch.images for batch in batches])
        targets = [batch.targets for batch in batches if batch.targets is not None]
        labels, also_one = _stacked_or_shared(targets)
        truth = nn.functional.one_hot(labels, self.weights.shape[1]).float()
        masks = self._masks(k, len(batches[0]))  # (K, B, H)

        of_each = vmap(self._loss, in_dims=(0, one, also_one, 0, 0, 0, 0))
        losses = of_each(
            self.params, features, truth, self.smoothing, self.gamma, self.weights, masks
        )
        grads = torch.autograd.grad(losses.sum(), list(self.params.values()))
        with torch.no_grad():
            clipped = self._clipped(dict(zip(self.names, grads, strict=True)))
            self.updates.apply(clipped, rates)
        return losses.detach().double()

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
        job = self.members[0].job
        last = str(len(job.head) - 1)
        hidden = features
        if last != "0":
            hidden = nn.functional.linear(features, params["0.weight"], params["0.bias"]).relu()
            if job.dropout:
                hidden = hidden * mask
        logits = nn.functional.linear(hidden, params[f"{last}.weight"], params[f"{last}.bias"])
        return job.loss(logits, truth, smoothing, gamma if job.focal_gamma else 0.0, weights)

    def _masks(self, k: int, batch_size: int) -> Tensor:
        """Dropout of each member's step, (K, B, H): the numbers that its own step would draw."""
        if not self.members[0].job.dropout:
            return torch.zeros(len(self.members), 1, device=self.device)

        width = self.params["0.weight"].shape[1]
        masks = []
        for member in self.members:
            seed_forward_pass(member.config.seed, member.state.progress.step + k, member.runtime)
            keep = 1 - member.job.dropout
            mask = torch.empty(batch_size, width, device=self.device).bernoulli_(keep)
            masks.append(mask.div_(keep))
        return torch.stack(masks)

    def _clipped(self, grads: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scale down the gradients of members whose norm is above their limit, as
        `clip_grad_norm_` does."""
        if not self.optim.clip_grad_norm:
            return grads
        squares = sum(grad.square().flatten(1).sum(1) for grad in grads.values())
        norms = torch.as_tensor(squares).sqrt()
        factors = (self.clip / (norms + 1e-6)).clamp(max=1.0)
        return {name: grad * _per_member(factors, grad) for name, grad in grads.items()}

    @torch.no_grad()
    def _write_back(self, steps: int, losses: Tensor) -> None:
        sums = losses.sum(0)
        for place, member in enumerate(self.members):
            for name in self.names:
                self.parameter(member, name).copy_(self.params[name][place])
            self.updates.write_back(place, member)

            state = member.state
            first = state.progress.step
            state.progress.step += steps
            state.loss_sum += sums[place]
            if not math.isfinite(float(sums[place])):
                member.error = _not_finite(member, first, losses[:, place])


def _not_finite(member: Member, first: int, losses: Tensor) -> TrialFailed:
    """The failure of a member, as the step that met it would have said."""
    bad = int((~losses.isfinite()).nonzero()[0])
    step = first + bad + 1
    return TrialFailed(
        "nan", f"the loss is {float(losses[bad])} at step {step} of {member.total_steps}"
    )


def _stacked_or_shared(each: list[Tensor]) -> tuple[Tensor, int | None]:
    """K tensors as one (K, ...), and the dimension of the members, 0; or the one tensor that all
    share, and None."""
    first = each[0]
    if all(tensor is first for tensor in each):
        return first, None
    return torch.stack(each), 0


def _per_member(values: Tensor, like: Tensor) -> Tensor:
    """Values (K,) in a shape that multiplies `like` (K, ...)."""
    return values.view(-1, *[1] * (like.dim() - 1)).to(like.dtype)


class _Update:
    """The update rule of a stack, with the moments of its members."""

    moments: tuple[str, ...] = ()
    """Names of the tensors that torch's optimizer keeps for each parameter."""

    def __init__(self, stack: _Stack):
        self.stack = stack
        self.taken = [self._steps_taken(member) for member in stack.members]
        self.kept = {
            name: {moment: self._stacked(name, moment) for moment in self.moments}
            for name in stack.names
        }
        self.decay = {name: self._of_groups(name, "weight_decay") for name in stack.names}
        self.scale = {name: self._of_groups(name, "lr_scale") for name in stack.names}

    def apply(self, grads: dict[str, Tensor], rates: Tensor) -> None:
        """Take one step with every parameter."""
        self.taken = [taken + 1 for taken in self.taken]
        for name, param in self.stack.params.items():
            rate = _per_member(rates * self.scale[name].double(), param)
            decay = _per_member(self.decay[name], param)
            self.step(name, param.detach(), grads[name], rate, decay)

    def step(self, name: str, param: Tensor, grad: Tensor, rate: Tensor, decay: Tensor) -> None:
        raise NotImplementedError

    def write_back(self, place: int, member: Member) -> None:
        """Give a member's optimizer the moments that its own steps would have left."""
        for name in self.stack.names:
            state = member.state.optimizer.state[self.stack.parameter(member, name)]
            for moment, stacked in self.kept[name].items():
                state[moment] = stacked[place].clone()
            if "exp_avg" in state:
                state["step"] = torch.tensor(float(self.taken[place]))

    def of_config(self, field_name: str) -> Tensor:
        """A value of each member's optimizer config, (K,)."""
        configs = [member.config.optim for member in self.stack.members]
        return self.stack.numbers([float(getattr(config, field_name)) for config in configs])

    def _of_groups(self, name: str, key: str) -> Tensor:
        """A value of the parameter group that each member's parameter is in, (K,)."""
        values = []
        for member in self.stack.members:
            parameter = self.stack.parameter(member, name)
            group = _group_of(member.state.optimizer, parameter)
            values.append(float(group.get(key, 1.0)))
        return self.stack.numbers(values)

    def _stacked(self, name: str, moment: str) -> Tensor:
        each = []
        for member in self.stack.members:
            parameter = self.stack.parameter(member, name)
            kept = member.state.optimizer.state[parameter].get(moment)
            each.append(torch.zeros_like(parameter) if kept is None else kept)
        return torch.stack([tensor.detach() for tensor in each])

    def _steps_taken(self, member: Member) -> int:
        first = self.stack.parameter(member, self.stack.names[0])
        return int(member.state.optimizer.state[first].get("step", 0))


def _group_of(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, Any]:
    for group in optimizer.param_groups:
        if any(parameter is each for each in group["params"]):
            return group
    raise AssertionError("the head always trains")


class _Sgd(_Update):
    """torch.optim.SGD."""

    def __init__(self, stack: _Stack):
        self.moments = ("momentum_buffer",) if stack.optim.momentum else ()
        super().__init__(stack)
        self.momentum = self.of_config("momentum")

    def step(self, name: str, param: Tensor, grad: Tensor, rate: Tensor, decay: Tensor) -> None:
        grad = grad + decay * param
        if self.moments:
            momentum = _per_member(self.momentum, param)
            buffer = self.kept[name]["momentum_buffer"]
            buffer.mul_(momentum).add_(grad)
            grad = grad + momentum * buffer if self.stack.optim.nesterov else buffer
        param.sub_(rate * grad)


class _Adam(_Update):
    """torch.optim.Adam and AdamW."""

    moments = ("exp_avg", "exp_avg_sq")
    _EPS = 1e-8

    def __init__(self, stack: _Stack):
        super().__init__(stack)
        self.beta1 = self.of_config("beta1")
        self.beta2 = self.of_config("beta2")

    def apply(self, grads: dict[str, Tensor], rates: Tensor) -> None:
        taken = torch.tensor([n + 1 for n in self.taken], device=rates.device).double()
        self.correction1 = 1 - self.beta1.double() ** taken
        self.correction2 = (1 - self.beta2.double() ** taken).sqrt()
        super().apply(grads, rates)

    def step(self, name: str, param: Tensor, grad: Tensor, rate: Tensor, decay: Tensor) -> None:
        if self.stack.optim.name == "adamw":
            param.mul_(1 - rate * decay)
        else:
            grad = grad + decay * param

        beta1, beta2 = _per_member(self.beta1, param), _per_member(self.beta2, param)
        mean, square = self.kept[name]["exp_avg"], self.kept[name]["exp_avg_sq"]
        mean.mul_(beta1).add_((1 - beta1) * grad)
        square.mul_(beta2).add_((1 - beta2) * grad * grad)

        width = square.sqrt() / _per_member(self.correction2, param) + self._EPS
        param.sub_(rate / _per_member(self.correction1, param) * mean / width)


def _update_of(stack: _Stack) -> _Update:
    return _Sgd(stack) if stack.optim.name == "sgd" else _Adam(stack)
