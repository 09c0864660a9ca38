"""Optimizers, and the parameters that are exempt from weight decay. Learning rates:
`schedules.py`.

The engine uses them like this:

    optimizer = build_optimizer(param_groups(model, config.weight_decay), config)
    for group in optimizer.param_groups:
        group["lr"] = lr_at(step, total_steps, config.lr, schedule) * group.get("lr_scale", 1)
    optimizer.step()
"""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trainables.config import Annotated, Field, config
from trainables.schedules import ScheduleConfig as ScheduleConfig


@config
class OptimConfig:
    """One optimizer. Only sgd and lars use `momentum`, `nesterov` and `trust`; only adam and adamw
    use `beta1` and `beta2`."""

    name: Literal["sgd", "adamw", "lars", "adam"] = "adamw"
    """sgd, adam: weight decay is an L2 term of the gradient; adamw: decoupled; lars: L2 term, then
    scaled layer by layer."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate, > 0, at the batch size used; it is never scaled automatically."""
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


def param_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in at most two groups: matrices and kernels, and exempt parameters
    (biases, scales of norms and layers, and those that a timm network exempts, such as position
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
    """True if a parameter is exempt from weight decay and LARS."""
    return _is_vector(param) or getattr(param, "decay_exempt", False)


def _is_vector(param: Tensor) -> bool:
    """True if a parameter has one number per channel, or only one number: (C,), or (C, 1, 1) like
    the layer scale of ConvNeXt."""
    is_channel_scale = param.ndim == 3 and param.shape[1:] == (1, 1)
    return param.ndim <= 1 or is_channel_scale


def build_optimizer(groups: Iterable[dict[str, Any]], config: OptimConfig) -> torch.optim.Optimizer:
    """Build an optimizer over the groups of `param_groups`. A group may have its own
    `weight_decay`, `lr_scale` and `lars_adapt`.

    The training step clips gradients (`config.clip_grad_norm`), because it knows when they are
    complete.
    """
    groups = [{**group, "lr": config.lr * group.get("lr_scale", 1)} for group in groups]
    decay = config.weight_decay
    # torch's default is foreach on GPUs and a plain loop on CPUs. Not fused=True: its CPU kernels
    # ignore strides. If a gradient or a restored moment has another memory format than its
    # parameter (channels_last), they silently update the wrong elements.
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
"""Methods of all torch optimizers that torch marks as not to be compiled."""


@functools.cache
def eager(optimizer: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """Return the optimizer class without the marks that torch adds for `torch.compile`.

    The marks import the compiler, which costs 2 s of CPU time in every trial process, although
    none uses it. The computation is unchanged, but the result must not be compiled.
    """
    methods: dict[str, Any] = {
        name: inspect.unwrap(getattr(optimizer, name)) for name in _BOOKKEEPING
    }
    methods["step"] = torch.no_grad()(inspect.unwrap(optimizer.step))
    return type(optimizer.__name__, (optimizer,), methods)


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You et al. 2017, algorithm 1), with the order of operations
    of BYOL's code (Grill et al. 2020).

    For every tensor w with gradient g:
        u = g + weight_decay w
        u = u trust |w| / |u|      if both norms are > 0, in groups with lars_adapt (default)
        m = momentum m + u
        w = w - lr m
    So a group with lars_adapt=False is SGD with momentum. The rate multiplies m, not u, so a new
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
    """trust |w| / |u| of every tensor, 1 if either norm is 0. The ratios stay on the device, so
    nothing waits for them."""
    weight_norms = torch.stack(torch._foreach_norm(params))
    update_norms = torch.stack(torch._foreach_norm(updates))
    ratios = trust * weight_norms / update_norms
    defined = (weight_norms > 0) & (update_norms > 0)
    return list(torch.where(defined, ratios, torch.ones_like(ratios)).unbind())
