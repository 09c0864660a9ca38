"""Freeze policies: which stages of a backbone train in which epoch, and how fast.

Policies are pure functions of the epoch; stages are those of `networks.stages`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainables.config import Annotated, Field, config
from trainables.errors import UserError
from trainables.optim import param_groups


@config
class FreezeConfig:
    """Stages that keep their loaded weights, and learning rates of the others. The head always
    trains, at `optim.lr`."""

    policy: Literal["none", "all", "until", "gradual", "probe_first"] = "none"
    """none: everything trains. all: the backbone never trains. until: the stages before `until`
    never train. gradual: first only the head, then stage after stage from the last one (Howard &
    Ruder 2018, section 3.3). probe_first: first only the head, then everything (Kumar et al. 2022,
    section 3.4). If the head has no parameters (few-shot, Euclidean), the last stage takes its
    place."""
    until: str = ""
    """until: the first stage that trains, such as layer4, stage4 or block5; see
    `networks.stages`."""
    thaw_frac: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """gradual, probe_first: fraction of the epochs after which everything trains, in (0, 1)."""
    batchnorm: Literal["train", "frozen"] = "train"
    """frozen: the backbone's BatchNorm layers keep the loaded statistics even if their stage
    trains."""
    backbone_lr: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Learning rate of the backbone's last stage as a multiple of the head's, in (0, 10]."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning rate of each stage as a multiple of the next stage's, in (0, 1] (Clark et al. 2020,
    section 3.3)."""

    def __post_init__(self) -> None:
        if (self.policy == "until") != bool(self.until):
            raise ValueError(
                "policy='until' and a stage in `until` go together, "
                f"but got policy={self.policy!r}, until={self.until!r}"
            )


def frozen_modules(
    epoch: int, epochs: int, stages: Sequence[str], config: FreezeConfig, head_trains: bool = True
) -> tuple[str, ...]:
    """Names of the stages that do not train in `epoch` of `epochs`, counted from 0. Policies only
    thaw; they never freeze a stage again.

    Args:
        head_trains: the head has parameters. If it has none, the last stage takes its place in
            `gradual` and `probe_first`.
    Raises:
        UserError: `until` is not in `stages`.
    """
    if config.policy == "none":
        return ()
    if config.policy == "all":
        return tuple(stages)
    if config.policy == "until":
        return _stages_before(config.until, stages)

    thaw_end = max(1, round(config.thaw_frac * epochs))
    if epoch >= thaw_end:
        return ()
    thawed = 0 if head_trains else 1
    if config.policy == "gradual":
        thawed = max(thawed, len(stages) * epoch // thaw_end)
    return tuple(stages[: len(stages) - thawed])


def _stages_before(first: str, stages: Sequence[str]) -> tuple[str, ...]:
    """The stages before the first one that trains.

    Raises:
        UserError: the backbone has no such stage.
    """
    if first not in stages:
        raise UserError(
            f"freeze.until={first!r} is not a stage of this backbone; valid: {', '.join(stages)}"
        )
    return tuple(stages[: stages.index(first)])


def thaws_at(
    stage: str, epochs: int, stages: Sequence[str], config: FreezeConfig, head_trains: bool = True
) -> float:
    """Fraction of the epochs, in [0, 1), after which a stage trains; 0 if it always or never
    does."""
    for epoch in range(epochs):
        if stage not in frozen_modules(epoch, epochs, stages, config, head_trains):
            return epoch / epochs
    return 0.0


def lr_scale(stage: int, count: int, config: FreezeConfig) -> float:
    """Learning rate of a stage (0 is the stem, count - 1 the last) relative to the head's.

    It is backbone_lr layer_decay^(count - 1 - stage).
    """
    return config.backbone_lr * config.layer_decay ** (count - 1 - stage)


def stage_groups(
    stages: Mapping[str, Sequence[nn.Module]],
    head: nn.Module,
    weight_decay: float,
    config: FreezeConfig,
    thaws: Mapping[str, float] | None = None,  # stage -> result of `thaws_at`
) -> list[dict[str, Any]]:
    """Parameter groups of the head and of every stage with parameters that require gradients. Each
    group has `lr_scale` and `name`, and `thaws_at` if `thaws` has the stage."""
    groups: list[dict[str, Any]] = []
    for group in param_groups(head, weight_decay):
        groups.append({**group, "lr_scale": 1.0, "name": "head"})

    for number, (name, modules) in enumerate(stages.items()):
        scale = lr_scale(number, len(stages), config)
        for group in param_groups(nn.ModuleList(modules), weight_decay):
            groups.append({**group, "lr_scale": scale, "name": name})
            if thaws and thaws.get(name):
                groups[-1]["thaws_at"] = thaws[name]
    return groups


def set_frozen(stages: Mapping[str, Sequence[nn.Module]], frozen: Sequence[str]) -> None:
    """Set requires_grad of every parameter of the stages: False in `frozen`, True elsewhere."""
    for name, modules in stages.items():
        for parameter in nn.ModuleList(modules).parameters():
            parameter.requires_grad_(name not in frozen)
            if name in frozen:
                # Without a gradient, the optimizer skips it, including weight decay and momentum.
                parameter.grad = None


def set_eval_mode(
    stages: Mapping[str, Sequence[nn.Module]], frozen: Sequence[str], config: FreezeConfig
) -> None:
    """Set frozen stages to eval mode, and every BatchNorm if its statistics are frozen.

    Call it after every `.train()`; otherwise the statistics would drift.
    """
    for name, modules in stages.items():
        for module in modules:
            if name in frozen:
                module.eval()
            elif config.batchnorm == "frozen":
                _set_batchnorm_eval(module)


def _set_batchnorm_eval(module: nn.Module) -> None:
    """Keep running statistics as they are, even after `train()`."""
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.eval()
