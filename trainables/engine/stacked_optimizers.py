"""SGD, Adam and AdamW of several trials at once.

Parameters of K trials are stacked, (K, ...). What their optimizers keep between steps is stacked
with them, and what their configs say is a tensor (K,). One step is that of torch's optimizer, for
each trial with numbers of its own.

The moments come from the optimizers of the trials, and `write_back` returns them there, so that a
checkpoint cannot tell how they were computed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainables.devices import send
from trainables.optim import OptimConfig

NAMES = ("sgd", "adam", "adamw")
"""Optimizers that can be stacked."""
_EPS = 1e-8


@dataclass(frozen=True, eq=False)
class Owner:
    """A trial, as its share of a stacked optimizer knows it."""

    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    config: OptimConfig

    def kept(self, name: str) -> dict[str, Any]:
        """The state that the optimizer keeps for a parameter; empty before the first step."""
        parameter = self.parameters[name]
        # Asked for with [], torch would make an entry.
        state: dict[str, Any] = self.optimizer.state.get(parameter, {})
        return state

    def group(self, name: str) -> dict[str, Any]:
        """The group of the optimizer that a parameter is in."""
        parameter = self.parameters[name]
        for group in self.optimizer.param_groups:
            if any(parameter is each for each in group["params"]):
                return group
        raise AssertionError(f"{name} always trains")


def per_trial(
    values: Tensor,  # (K,)
    like: Tensor,  # (K, ...)
) -> Tensor:
    """Return `values` in a shape that multiplies `like`."""
    ones = [1] * (like.dim() - 1)
    shaped = values.view(-1, *ones)
    return shaped.to(like.dtype)


def padded(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """Return a tensor with zeros behind its last entries, in a shape that may be larger."""
    if tuple(tensor.shape) == tuple(shape):
        return tensor
    larger = tensor.new_zeros(tuple(shape))
    larger[within(tensor)] = tensor
    return larger


def within(tensor: Tensor) -> tuple[slice, ...]:
    """Return the place of a tensor in its padded form."""
    return tuple(slice(0, size) for size in tensor.shape)


class StackedOptimizer:
    """The optimizers of K trials.

    Args:
        shapes: name of each parameter -> its shape in the stack, to which those of a trial are
            padded.
        owners: the trials, which have an optimizer of one name in common.
    """

    moments: tuple[str, ...] = ()
    """Names of the tensors that torch's optimizer keeps for each parameter."""

    def __init__(self, shapes: Mapping[str, Sequence[int]], owners: Sequence[Owner]):
        self.names = list(shapes)
        self.shapes = shapes
        self.owners = owners
        self.common = owners[0].config

        first = self.names[0]
        self.taken = [int(owner.kept(first).get("step", 0)) for owner in owners]
        """Steps that each trial has taken."""

        self.kept: dict[str, dict[str, Tensor]] = {}
        self.decay: dict[str, Tensor] = {}
        self.scale: dict[str, Tensor] = {}
        for name in self.names:
            self.kept[name] = {}
            for moment in self.moments:
                self.kept[name][moment] = self._stacked(name, moment)
            self.decay[name] = self._of_groups(name, "weight_decay")
            self.scale[name] = self._of_groups(name, "lr_scale")

    def step(
        self,
        parameters: dict[str, Tensor],  # each (K, ...)
        gradients: dict[str, Tensor],
        rates: Tensor,  # (K,) float64
    ) -> None:
        """Take one step with the parameters of all trials, in place."""
        self.taken = [taken + 1 for taken in self.taken]
        for name, parameter in parameters.items():
            scaled = rates * self.scale[name].double()
            rate = per_trial(scaled, parameter)
            decay = per_trial(self.decay[name], parameter)
            self._update(name, parameter.detach(), gradients[name], rate, decay)

    def _update(
        self,
        name: str,
        parameter: Tensor,
        gradient: Tensor,
        rate: Tensor,
        decay: Tensor,
    ) -> None:
        raise NotImplementedError

    def write_back(self, place: int) -> None:
        """Give one trial's optimizer what its own steps would have left there."""
        owner = self.owners[place]
        if not self.keeps_state(owner):
            return

        for name in self.names:
            parameter = owner.parameters[name]
            state = owner.optimizer.state[parameter]
            for moment, stacked in self.kept[name].items():
                part = stacked[place][within(parameter)]
                state[moment] = part.clone()
            if "exp_avg" in state:
                taken = float(self.taken[place])
                state["step"] = torch.tensor(taken)

    def keeps_state(self, owner: Owner) -> bool:
        """Tell whether a trial's optimizer keeps anything between steps."""
        return True

    def of_configs(self, field_name: str) -> Tensor:  # (K,)
        """A value of each trial's config."""
        values = [float(getattr(owner.config, field_name)) for owner in self.owners]
        return self._tensor(values)

    def _of_groups(self, name: str, key: str) -> Tensor:  # (K,)
        """A value of the group that each trial's parameter is in; 1 where the group has none."""
        values = []
        for owner in self.owners:
            group = owner.group(name)
            value = group.get(key, 1.0)
            values.append(float(value))
        return self._tensor(values)

    def _stacked(self, name: str, moment: str) -> Tensor:  # (K, ...)
        """Stack a moment of a parameter; zero before the first step."""
        each = []
        for owner in self.owners:
            kept = owner.kept(name).get(moment)
            if kept is None:
                parameter = owner.parameters[name]
                kept = torch.zeros_like(parameter)
            each.append(padded(kept.detach(), self.shapes[name]))
        return torch.stack(each)

    def _tensor(self, values: list[float]) -> Tensor:
        first = self.names[0]
        device = self.owners[0].parameters[first].device
        return send(torch.tensor(values, dtype=torch.float32), device)


class StackedSGD(StackedOptimizer):
    """torch.optim.SGD."""

    moments = ("momentum_buffer",)

    def __init__(self, shapes: Mapping[str, Sequence[int]], owners: Sequence[Owner]):
        super().__init__(shapes, owners)
        self.momentum = self.of_configs("momentum")
        self.nesterov = self.of_configs("nesterov")

    def keeps_state(self, owner: Owner) -> bool:
        return owner.config.momentum > 0

    def _update(
        self,
        name: str,
        parameter: Tensor,
        gradient: Tensor,
        rate: Tensor,
        decay: Tensor,
    ) -> None:
        gradient = gradient + decay * parameter

        momentum = per_trial(self.momentum, parameter)
        buffer = self.kept[name]["momentum_buffer"]
        buffer.mul_(momentum)
        buffer.add_(gradient)

        if self.nesterov.any():
            looks_ahead = per_trial(self.nesterov, parameter)
            ahead = gradient + momentum * buffer
            buffer = torch.where(looks_ahead > 0, ahead, buffer)
        parameter.sub_(rate * buffer)


class StackedAdam(StackedOptimizer):
    """torch.optim.Adam and AdamW."""

    moments = ("exp_avg", "exp_avg_sq")

    def __init__(self, shapes: Mapping[str, Sequence[int]], owners: Sequence[Owner]):
        super().__init__(shapes, owners)
        self.beta1 = self.of_configs("beta1")
        self.beta2 = self.of_configs("beta2")

    def step(
        self,
        parameters: dict[str, Tensor],
        gradients: dict[str, Tensor],
        rates: Tensor,
    ) -> None:
        number = send(torch.tensor(self.taken), rates.device) + 1.0
        number = number.double()
        self.mean_bias = 1 - self.beta1.double() ** number
        square_bias = 1 - self.beta2.double() ** number
        self.width_bias = square_bias.sqrt()
        super().step(parameters, gradients, rates)

    def _update(
        self,
        name: str,
        parameter: Tensor,
        gradient: Tensor,
        rate: Tensor,
        decay: Tensor,
    ) -> None:
        if self.common.name == "adamw":
            parameter.mul_(1 - rate * decay)
        else:
            gradient = gradient + decay * parameter

        beta1 = per_trial(self.beta1, parameter)
        mean = self.kept[name]["exp_avg"]
        mean.mul_(beta1)
        mean.add_((1 - beta1) * gradient)

        beta2 = per_trial(self.beta2, parameter)
        square = self.kept[name]["exp_avg_sq"]
        square.mul_(beta2)
        square.add_((1 - beta2) * gradient * gradient)

        width = square.sqrt() / per_trial(self.width_bias, parameter)
        rate = rate / per_trial(self.mean_bias, parameter)
        parameter.sub_(rate * mean / (width + _EPS))


def stacked_optimizer(
    shapes: Mapping[str, Sequence[int]], owners: Sequence[Owner]
) -> StackedOptimizer:
    """Build the stacked optimizer of the name that the trials have in common."""
    if owners[0].config.name == "sgd":
        return StackedSGD(shapes, owners)
    return StackedAdam(shapes, owners)
