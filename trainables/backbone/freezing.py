"""Which parts of a backbone train, when, and how fast. Policies are pure functions of the epoch;
stages are those of `backbones.stages`."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainables.config import Annotated, Field, config
from trainables.errors import UserError
from trainables.optim import param_groups


@config
class FreezeConfig:
    """What stays as it was loaded, and the learning rates of what does not. The head always trains,
    at `optim.lr`."""

    policy: Literal["none", "all", "until", "gradual", "probe_first"] = "none"
    """none: everything trains. all: the backbone never does. until: the stages before `until` never
    do. gradual: the head alone at first, then stage after stage, the last first (Howard & Ruder
    2018, section 3.3). probe_first: the head alone, then everything (Kumar et al. 2022, section
    3.4). For a head without parameters (few-shot, Euclidean) the last stage stands in."""
    until: str = ""
    """until: the first stage that trains, such as layer4, stage4 or block5; see
    `backbones.stages`."""
    thaw_frac: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """gradual, probe_first: share of the epochs after which everything trains, in (0, 1)."""
    batchnorm: Literal["train", "frozen"] = "train"
    """frozen: the backbone's BatchNorm layers keep the loaded statistics even where their stage
    trains."""
    backbone_lr: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Learning rate of the backbone's last stage as a multiple of the head's, in (0, 10]."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Each stage learns this many times as fast as the one after it, in (0, 1] (Clark et al. 2020,
    section 3.3)."""

    def __post_init__(self) -> None:
        if (self.policy == "until") != bool(self.until):
            raise ValueError(
                f"policy='until' and a stage in `until` go together, but got policy={self.policy!r}, until={self.until!r}"
            )


def frozen_modules(
    epoch: int, epochs: int, stages: Sequence[str], config: FreezeConfig, head_trains: bool = True
) -> tuple[str, ...]:
    """Names of the stages that do not train in `epoch`, counted from 0, of `epochs`. Policies thaw
    and never freeze again.

    Args:
        head_trains: the head has parameters. Where it has none, the last stage stands in for it in
            `gradual` and `probe_first`.
    Raises:
        UserError: `until` is none of `stages`.
    """
    return tuple(stages[: len(stages) - _thawed(epoch, epochs, stages, config, head_trains)])


def _thawed(
    epoch: int, epochs: int, stages: Sequence[str], config: FreezeConfig, head_trains: bool
) -> int:
    """How many stages train, counted from the last."""
    if config.policy == "until":
        if config.until not in stages:
            raise UserError(
                f"freeze.until={config.until!r} is no stage of this backbone; valid: {', '.join(stages)}"
            )
        return len(stages) - list(stages).index(config.until)
    if config.policy in ("none", "all"):
        return len(stages) if config.policy == "none" else 0
    thawed_at = max(1, round(config.thaw_frac * epochs))
    if epoch >= thawed_at:
        return len(stages)
    return max(
        len(stages) * epoch // thawed_at if config.policy == "gradual" else 0, int(not head_trains)
    )


def lr_scale(stage: int, count: int, config: FreezeConfig) -> float:
    """Learning rate of a stage (0 is the stem, count - 1 the last) over the head's: backbone_lr
    layer_decay^(count - 1 - stage)."""
    return config.backbone_lr * config.layer_decay ** (count - 1 - stage)


def stage_groups(
    stages: Mapping[str, Sequence[nn.Module]],
    head: nn.Module,
    weight_decay: float,
    config: FreezeConfig,
) -> list[dict[str, Any]]:
    """Parameter groups of the head and of every stage that has parameters with requires_grad, each
    with its `lr_scale` and `name`."""
    groups = [
        group | {"lr_scale": 1.0, "name": "head"} for group in param_groups(head, weight_decay)
    ]
    for number, (name, modules) in enumerate(stages.items()):
        scale = lr_scale(number, len(stages), config)
        groups += [
            group | {"lr_scale": scale, "name": name}
            for group in param_groups(nn.ModuleList(modules), weight_decay)
        ]
    return groups


def set_frozen(stages: Mapping[str, Sequence[nn.Module]], frozen: Sequence[str]) -> None:
    """requires_grad of every parameter of the stages: False in `frozen`, True elsewhere. Gradients
    of frozen ones are dropped."""
    for name, modules in stages.items():
        for module in modules:
            for parameter in module.parameters():
                parameter.requires_grad_(name not in frozen)
                if name in frozen:
                    # an optimizer passes over it, and over its weight decay and momentum
                    parameter.grad = None


def set_eval_mode(
    stages: Mapping[str, Sequence[nn.Module]], frozen: Sequence[str], config: FreezeConfig
) -> None:
    """After every `.train()`: frozen stages to eval mode, and BatchNorm too where its statistics
    are frozen; otherwise they would drift."""
    for name, modules in stages.items():
        for module in modules:
            if name in frozen:
                module.eval()
            elif config.batchnorm == "frozen":
                for part in module.modules():
                    if isinstance(part, _BatchNorm):
                        part.eval()
