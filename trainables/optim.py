"""Optimizers, learning-rate schedules, and the parameters that weight decay leaves out.

The engine uses them like this:

    optimizer = build_optimizer(param_groups(model, config.weight_decay), config)
    for group in optimizer.param_groups:
        group["lr"] = lr_at(step, total_steps, config.lr, schedule) * group.get("lr_scale", 1)
    optimizer.step()
"""

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trainables.config import Annotated, Field, config

THAW_WARMUP = 0.05
"""Share of the steps left to a layer that thaws over which its learning rate rises."""

Fraction = Annotated[float, Field(ge=0, le=1)]


@config
class OptimConfig:
    """One optimizer. `momentum`, `nesterov` and `trust` are read by sgd and lars, `beta1` and
    `beta2` by adam and adamw."""

    name: Literal["sgd", "adamw", "lars", "adam"] = "adamw"
    """sgd, adam: weight decay is an L2 term of the gradient; adamw: decoupled; lars: L2 term, then
    scaled layer by layer."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate, > 0, at the batch size used: nothing scales it behind the scenes."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """>= 0; biases and norm parameters are exempt (see `param_groups`)."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """sgd and lars, in [0, 1)."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """adam and adamw: decay of the first moment, in [0, 1)."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """adam and adamw: decay of the second moment, in [0, 1)."""
    nesterov: bool = False
    """sgd only: Nesterov's momentum."""
    trust: Annotated[float, Field(gt=0)] = 0.001
    """lars: trust coefficient, > 0 (eta of You et al. 2017; BYOL uses 0.001)."""
    clip_grad_norm: Annotated[float, Field(ge=0)] = 0.0
    """Largest global L2 norm of the gradient, >= 0; 0 = off."""

    def __post_init__(self) -> None:
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise ValueError(
                "nesterov=True needs name='sgd' and momentum > 0, "
                f"got name={self.name!r}, momentum={self.momentum}"
            )


@config
class ScheduleConfig:
    """Learning rate over a run, as a fraction of the peak. Every length is a fraction of all steps,
    so a schedule fits any run."""

    name: Literal[
        "constant",
        "cosine",
        "warmup_cosine",
        "step",
        "polynomial",
        "one_cycle",
        "cosine_restarts",
        "plateau",
    ] = "warmup_cosine"
    """Shape; see `lr_at`, for plateau `plateau_factor`."""
    warmup_frac: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Share of the steps that rise to the peak, in [0, 0.5]; warmup_cosine: linearly, one_cycle:
    along a cosine."""
    final_frac: Fraction = 0.0
    """cosine, warmup_cosine, polynomial, one_cycle: rate at the end of the run over the peak, in
    [0, 1]; cosine_restarts: at the end of each period."""
    initial_frac: Annotated[float, Field(gt=0, le=1)] = 0.04
    """one_cycle: rate of the first step over the peak, in (0, 1]."""
    restarts: Annotated[int, Field(ge=1, le=20)] = 2
    """cosine_restarts: returns to the peak after the first period, in [1, 20]."""
    period_growth: Annotated[float, Field(ge=1, le=4)] = 2.0
    """cosine_restarts: length of every period over that of the one before, in [1, 4]."""
    step_gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    """step: factor of every drop, in (0, 1]."""
    step_every_frac: Annotated[float, Field(gt=0, le=1)] = 0.3
    """step: share of the steps between two drops, in (0, 1]."""
    plateau_gamma: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """plateau: factor of every drop, in (0, 1)."""
    plateau_patience_frac: Fraction = 0.1
    """plateau: share of the epochs that may pass without a better objective before a drop, in
    [0, 1]."""
    plateau_threshold: Annotated[float, Field(ge=0, lt=1)] = 1e-4
    """plateau: share of the best objective by which another must exceed it to be better."""
    power: Annotated[float, Field(gt=0)] = 0.9
    """polynomial: exponent, > 0 (0.9 is usual in segmentation)."""


def lr_at(step: int, total_steps: int, peak: float, schedule: ScheduleConfig) -> float:
    """Learning rate of optimizer step `step`, counted from 0, of a run of `total_steps`.

    With t = step / total_steps, and f the final fraction, the rate over the peak is
        constant       1, and the same in plateau, where `plateau_factor` lowers the peak
        cosine         f + (1 - f) (1 + cos(pi t)) / 2
                       (Loshchilov & Hutter 2017, equation 5, one period)
        warmup_cosine  (step + 1) / (W + 1) for step < W, the warm-up;
                       then a cosine over the other steps
        step           gamma ^ floor(step / every)
        polynomial     f + (1 - f) (1 - t) ^ power
        one_cycle      half a cosine from the initial fraction to 1 up to the last step of the
                       warm-up, then half a cosine to f at the last step (Smith & Topin 2018)
        cosine_restarts  the cosine in each of several periods, each `period_growth` times as long
                       as the one before, all of them the run (Loshchilov & Hutter 2017, equation 5)
    Equal to torch's CosineAnnealingLR, LinearLR + CosineAnnealingLR, StepLR, PolynomialLR,
    OneCycleLR (without its cycle of the momentum) and CosineAnnealingWarmRestarts.
    `step` is in [0, total_steps]; a warm-up starts above 0, and step W is the peak.
    """
    if schedule.name in ("constant", "plateau"):
        return peak
    if schedule.name == "step":
        every = max(1, round(schedule.step_every_frac * total_steps))
        drops = step // every
        factor: float = schedule.step_gamma**drops
        return peak * factor
    if schedule.name == "one_cycle":
        return peak * _one_cycle(step, total_steps, schedule)
    if schedule.name == "cosine_restarts":
        return peak * _cosine_restarts(step, total_steps, schedule)

    warmup = 0
    if schedule.name == "warmup_cosine":
        warmup = round(schedule.warmup_frac * total_steps)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)

    t = (step - warmup) / (total_steps - warmup)
    if schedule.name != "polynomial":
        return peak * _half_cosine(t, 1.0, schedule.final_frac)
    shape: float = (1 - t) ** schedule.power
    return peak * (schedule.final_frac + (1 - schedule.final_frac) * shape)


def _half_cosine(t: float, first: float, last: float) -> float:
    """Fall, or rise, from `first` at t = 0 to `last` at t = 1 along half a cosine."""
    shape = (1 + math.cos(math.pi * t)) / 2
    return last + (first - last) * shape


def _one_cycle(step: int, total_steps: int, schedule: ScheduleConfig) -> float:
    """Rate over the peak. The peak is at the step before the first that the warm-up leaves out, as
    torch counts, and at the first step where there is no warm-up."""
    last_step = max(1, total_steps - 1)
    top = max(0.0, schedule.warmup_frac * total_steps - 1)
    if step < top:
        return _half_cosine(step / top, schedule.initial_frac, 1.0)

    t = (step - top) / (last_step - top)
    return _half_cosine(min(1.0, t), 1.0, schedule.final_frac)


def _cosine_restarts(step: int, total_steps: int, schedule: ScheduleConfig) -> float:
    """Rate over the peak. Periods begin at whole steps; one without any, in a short run, is left
    out."""
    lengths = [schedule.period_growth**period for period in range(schedule.restarts + 1)]
    ends = [round(total_steps * end / sum(lengths)) for end in itertools.accumulate(lengths)]

    start = 0
    for end in ends:
        if step < end:
            return _half_cosine((step - start) / (end - start), 1.0, schedule.final_frac)
        start = end
    return schedule.final_frac


def plateau_factor(values: Sequence[float], epochs: int, schedule: ScheduleConfig) -> float:
    """Rate over the peak after epochs of these objectives, larger being better: `plateau_gamma` to
    the number of drops.

    The rate drops after more than `plateau_patience_frac` of a run's epochs in a row without a
    better objective, and they are counted anew. Equal to torch's ReduceLROnPlateau with mode "max",
    a relative threshold and no cooldown, for objectives above 0.
    """
    patience = round(schedule.plateau_patience_frac * epochs)
    best: float | None = None
    without = drops = 0
    for value in values:
        if best is None or value > best + schedule.plateau_threshold * abs(best):
            best = value
            without = 0
            continue
        without += 1
        if without > patience:
            drops += 1
            without = 0
    factor: float = schedule.plateau_gamma**drops
    return factor


def thawed_lr_at(
    step: int, total_steps: int, peak: float, schedule: ScheduleConfig, thaws_at: float
) -> float:
    """Learning rate of a layer that trains from the fraction `thaws_at` of the steps on: the
    schedule over the steps that are left to it, as a fine-tuning of its own (Kumar et al. 2022,
    section 3.4), after a short warm-up where the schedule has none.

    `lr_at` would hand it the rest of a rate that has decayed meanwhile. With thaws_at = 0 this is
    `lr_at`.
    """
    first = round(thaws_at * total_steps)
    if first == 0:
        return lr_at(step, total_steps, peak, schedule)

    own_steps = total_steps - first
    own_step = max(0, step - first)
    rate = lr_at(own_step, own_steps, peak, schedule)
    if schedule.name in ("warmup_cosine", "one_cycle"):
        return rate
    warmup = round(THAW_WARMUP * own_steps)
    return rate * min(1.0, (own_step + 1) / (warmup + 1))


def param_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in at most two groups: matrices and kernels, and the exempt ones
    (biases, scales of norms and layers, and what a network of timm exempts: position
    embeddings and class tokens).

    Exempt parameters are neither decayed nor adapted by LARS (BYOL, Grill et al. 2020, section
    3.3). A shared parameter appears once.
    """
    params = [p for p in module.parameters() if p.requires_grad]
    kernels = [p for p in params if not _is_exempt(p)]
    exempt = [p for p in params if _is_exempt(p)]
    groups: list[dict[str, Any]] = [
        {"params": kernels, "weight_decay": weight_decay, "lars_adapt": True},
        {"params": exempt, "weight_decay": 0.0, "lars_adapt": False},
    ]
    return [group for group in groups if group["params"]]


def _is_exempt(param: Tensor) -> bool:
    """Tell whether weight decay and LARS leave a parameter alone."""
    return _is_vector(param) or getattr(param, "decay_exempt", False)


def _is_vector(param: Tensor) -> bool:
    """Tell whether a parameter is one number a channel, or one in all: (C,), or (C, 1, 1) as the
    layer scale of ConvNeXt."""
    is_channel_scale = param.ndim == 3 and param.shape[1:] == (1, 1)
    return param.ndim <= 1 or is_channel_scale


def build_optimizer(groups: Iterable[dict[str, Any]], config: OptimConfig) -> torch.optim.Optimizer:
    """Optimizer over the groups of `param_groups`; a group may carry its own `weight_decay`,
    `lr_scale` and `lars_adapt`.

    Clipping (`config.clip_grad_norm`) is left to the training step, which knows when the gradients
    are complete.
    """
    groups = [{**group, "lr": config.lr * group.get("lr_scale", 1)} for group in groups]
    decay = config.weight_decay
    # torch's default is foreach on GPUs and a plain loop on CPUs. Not fused=True: its CPU kernels
    # ignore strides, so a gradient or a restored moment in another memory format than its parameter
    # (channels_last) is silently applied to the wrong elements.
    if config.name == "sgd":
        return eager(torch.optim.SGD)(
            groups,
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=decay,
            nesterov=config.nesterov,
        )
    if config.name == "lars":
        return eager(LARS)(
            groups, lr=config.lr, momentum=config.momentum, weight_decay=decay, trust=config.trust
        )
    adam = eager(torch.optim.Adam if config.name == "adam" else torch.optim.AdamW)
    betas = (config.beta1, config.beta2)
    return adam(groups, lr=config.lr, betas=betas, weight_decay=decay)


_BOOKKEEPING = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
"""Methods of every optimizer of torch that its compiler must not trace."""


@functools.cache
def eager(optimizer: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """Return the optimizer without the marks that torch puts into it for `torch.compile`.

    The marks import the compiler, 2 s of CPU time in every process of trials that never asks for
    it. What the optimizer computes is untouched, and it must not be compiled.
    """
    methods: dict[str, Any] = {
        name: inspect.unwrap(getattr(optimizer, name)) for name in _BOOKKEEPING
    }
    methods["step"] = torch.no_grad()(inspect.unwrap(optimizer.step))
    return type(optimizer.__name__, (optimizer,), methods)


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You et al. 2017, algorithm 1), in the order of operations
    of BYOL's code (Grill et al. 2020).

    For every tensor w with gradient g:
        u = g + weight_decay w
        u = u trust |w| / |u|      where both norms are > 0, in groups with lars_adapt (default)
        m = momentum m + u
        w = w - lr m
    A group with lars_adapt=False is thus SGD with momentum. The rate multiplies m, not u, so a new
    rate applies to the whole update at once.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
    ):
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust": trust,
            "lars_adapt": True,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            self._update(params, group)
        return loss

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """Step all parameters of a group: weight decay, trust ratios, momentum, then the step."""
        if not params:
            return
        updates = [p.grad for p in params if p.grad is not None]
        if group["weight_decay"]:
            updates = list(torch._foreach_add(updates, params, alpha=group["weight_decay"]))
        if group["lars_adapt"]:
            ratios = _trust_ratios(params, updates, group["trust"])
            updates = list(torch._foreach_mul(updates, ratios))
        if group["momentum"]:
            buffers = [self._buffer(p) for p in params]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, updates)
            updates = buffers
        torch._foreach_add_(params, updates, alpha=-group["lr"])

    def _buffer(self, param: Tensor) -> Tensor:
        """Momentum of a parameter, zero at first."""
        state = self.state[param]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(param)
        buffer: Tensor = state["momentum_buffer"]
        return buffer


def _trust_ratios(params: list[Tensor], updates: list[Tensor], trust: float) -> list[Tensor]:
    """trust |w| / |u| for every tensor, 1 where either norm is 0. The ratios stay on the device, so
    that nothing waits for them."""
    weight_norms = torch.stack(torch._foreach_norm(params))
    update_norms = torch.stack(torch._foreach_norm(updates))
    ratios = trust * weight_norms / update_norms
    defined = (weight_norms > 0) & (update_norms > 0)
    return list(torch.where(defined, ratios, torch.ones_like(ratios)).unbind())
