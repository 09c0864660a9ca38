"""SGD, Adam and AdamW by torch's fused kernels, for a head whose parameters are rows of stacked
tensors: one call for all tensors of a group, one pass through memory.

The kernels ignore strides, so everything passed to them here is contiguous: rows of a stack, their
gradients, and moments of the same shape.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trainables.optim import OptimConfig

NAMES = ("sgd", "adam", "adamw")
"""Optimizers that have a fused kernel."""
_EPS = 1e-8
_MOMENTS = {"sgd": ("momentum_buffer",), "adam": ("exp_avg", "exp_avg_sq")}
_MOMENTS["adamw"] = _MOMENTS["adam"]


class FusedOptimizer:
    """Updates the moments of a trial's own optimizer in place, so a checkpoint does not depend on
    how they were computed.

    Args:
        optimizer: the trial's optimizer.
        parameters: name -> the head's own parameter, as the optimizer knows it.
        rows: name -> the row of the stack that is trained instead.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        config: OptimConfig,
        parameters: Mapping[str, nn.Parameter],
        rows: Mapping[str, Tensor],
    ):
        self._optimizer = optimizer
        self._config = config
        self._parameters = parameters
        self._taken = torch.zeros((), device=next(iter(rows.values())).device)
        self._taken += self._steps_on_record()

        self._groups: list[_Group] = []
        for group in optimizer.param_groups:
            ours = {id(parameter) for parameter in group["params"]}
            names = [name for name, parameter in parameters.items() if id(parameter) in ours]
            if names:
                self._groups.append(_Group(names, rows, self._moments(names), group))

    def _steps_on_record(self) -> float:
        """Number of steps that the trial has taken, if the optimizer counts them; otherwise 0."""
        states = [self._optimizer.state.get(each, {}) for each in self._parameters.values()]
        return max(float(state.get("step", 0.0)) for state in states)

    def _moments(self, names: list[str]) -> list[list[Tensor]]:
        """Tensors that the optimizer keeps for each parameter; zero before the first step."""
        config = self._config
        if config.name == "sgd" and not config.momentum:
            return [[]]
        moments = []
        for moment in _MOMENTS[config.name]:
            tensors = []
            for name in names:
                state = self._optimizer.state[self._parameters[name]]
                if moment not in state:
                    state[moment] = torch.zeros_like(self._parameters[name])
                state[moment] = state[moment].contiguous()
                tensors.append(state[moment])
            moments.append(tensors)
        return moments

    def step(self, gradients: Mapping[str, Tensor], rate: float) -> None:
        """Take one step, in place.

        Args:
            gradients: name -> gradient of the row.
        """
        self._taken += 1
        for group in self._groups:
            found = [gradients[name].contiguous() for name in group.names]
            if self._config.name == "sgd":
                self._step_sgd(group, found, rate * group.scale)
            else:
                self._step_adam(group, found, rate * group.scale)

    def _step_sgd(self, group: "_Group", gradients: list[Tensor], rate: float) -> None:
        torch._fused_sgd_(
            group.rows,
            gradients,
            group.moments[0],
            weight_decay=group.decay,
            momentum=self._config.momentum,
            lr=rate,
            dampening=0.0,
            nesterov=self._config.nesterov,
            maximize=False,
            is_first_step=False,  # a zero buffer gives the same result
        )

    def _step_adam(self, group: "_Group", gradients: list[Tensor], rate: float) -> None:
        config = self._config
        step = torch._fused_adamw_ if config.name == "adamw" else torch._fused_adam_
        means, squares = group.moments
        step(
            group.rows,
            gradients,
            means,
            squares,
            [],
            [self._taken] * len(gradients),
            lr=rate,
            beta1=config.beta1,
            beta2=config.beta2,
            weight_decay=group.decay,
            eps=_EPS,
            amsgrad=False,
            maximize=False,
        )

    def count_steps(self) -> None:
        """Write the number of steps into the trial's optimizer."""
        if self._config.name == "sgd":
            return
        taken = float(self._taken)
        for parameter in self._parameters.values():
            self._optimizer.state[parameter]["step"] = torch.tensor(taken)


class _Group:
    """Parameters with the same weight decay and learning-rate scale."""

    def __init__(
        self,
        names: list[str],
        rows: Mapping[str, Tensor],
        moments: list[list[Tensor]],
        group: Mapping[str, float],
    ):
        self.names = names
        self.rows = [rows[name] for name in names]
        self.moments = moments
        self.decay = float(group["weight_decay"])
        self.scale = float(group.get("lr_scale", 1.0))
