"""Building blocks that the search spaces share.

A block asks an Optuna trial, or any object with its three `suggest_*` methods, and returns nothing.
The parameter names are dotted config paths, so the answers form the config.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Suggest(Protocol):
    """The part of `optuna.trial.Trial` that a search space uses."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


Ranges = Mapping[str, tuple[tuple[float, float], tuple[float, float]]]
"""Optimizer -> (learning rate low, high), (weight decay low, high)."""


def optimizer(trial: Suggest, ranges: Ranges) -> None:
    """Asks for the optimizer, then for learning rate and weight decay in its ranges, on a log
    scale."""
    name = trial.suggest_categorical("optim.name", sorted(ranges))
    (low, high), (low_decay, high_decay) = ranges[name]
    trial.suggest_float("optim.lr", low, high, log=True)
    trial.suggest_float("optim.weight_decay", low_decay, high_decay, log=True)


def lr_schedule(trial: Suggest) -> None:
    """Asks for the learning rate schedule, and only for the parameters of that schedule."""
    names = ["constant", "cosine", "warmup_cosine", "step", "polynomial"]
    name = trial.suggest_categorical("schedule.name", names)
    if name == "warmup_cosine":
        trial.suggest_float("schedule.warmup_frac", 0.01, 0.2)
    elif name == "step":
        trial.suggest_float("schedule.step_gamma", 0.1, 0.5, log=True)
    elif name == "polynomial":
        trial.suggest_float("schedule.power", 0.5, 2.0)


def orientations(trial: Suggest, up: str) -> None:
    """Asks for the flips and quarter turns that the data's `data.up` allows; "off" is always a
    choice.

    Args:
        up: "none", "horizontal" or "all". "unset": flips and turns follow the policy or the preset,
            as in studies made before this option existed.
    """
    if up in ("horizontal", "all"):
        trial.suggest_categorical("aug.hflip", [0.0, 0.5])
    if up == "all":
        trial.suggest_categorical("aug.vflip", [0.0, 0.5])
        trial.suggest_categorical("aug.rot90", [0.0, 0.75])


def view_strengths(trial: Suggest, *, colour: bool) -> None:
    """Asks how much the two views of a policy differ. `colour`: the images are coloured."""
    trial.suggest_float("aug.crop_scale_min", 0.08, 0.9)
    trial.suggest_float("aug.crop_ratio", 1.0, 1.4)
    # Blur and solarize keep the policy's values. These differ between the two views, and one number
    # for both would undo that.
    if colour:
        trial.suggest_float("aug.strength", 0.2, 1.5)
        trial.suggest_float("aug.grayscale", 0.0, 0.4)
    else:
        trial.suggest_float("aug.blur", 0.0, 1.0)


def supervised_views(trial: Suggest, *, colour: bool, up: str = "unset") -> None:
    """Asks for the single view of supervised training. `colour`: the images are coloured; `up`: as
    in `orientations`."""
    orientations(trial, up)
    trial.suggest_float("aug.crop_scale_min", 0.2, 1.0)
    if colour:
        policies = ["none", "reports-r0", "reports-r1", "simclr", "trivial"]
        policy = trial.suggest_categorical("aug.policy", policies)
        if policy not in ("none", "trivial"):
            trial.suggest_float("aug.strength", 0.2, 1.5)
    else:
        trial.suggest_float("aug.rotate", 0.0, 20.0)


def supervised_loss(trial: Suggest, *, mixing: bool) -> None:
    """Asks for label smoothing and, if `mixing`, for mixup and CutMix."""
    trial.suggest_float("loss.label_smoothing", 0.0, 0.2)
    if mixing:
        trial.suggest_categorical("loss.mixup", [0.0, 0.2, 0.8])
        trial.suggest_categorical("loss.cutmix", [0.0, 1.0])


def class_balance(trial: Suggest) -> None:
    """Asks how images are weighted by the size of their class."""
    by = trial.suggest_categorical("balance.by", ["none", "inverse", "effective", "sampling"])
    if by == "effective":
        trial.suggest_categorical("balance.beta", [0.9, 0.99, 0.999, 0.9999])


def fine_tuning(trial: Suggest) -> None:
    """Asks how a pretrained backbone is unfrozen, and for its learning rate."""
    policy = trial.suggest_categorical("freeze.policy", ["none", "probe_first", "gradual"])
    trial.suggest_float("freeze.backbone_lr", 0.01, 1.0, log=True)
    trial.suggest_float("freeze.layer_decay", 0.5, 1.0)
    trial.suggest_categorical("freeze.batchnorm", ["train", "frozen"])
    if policy in ("probe_first", "gradual"):
        trial.suggest_float("freeze.thaw_frac", 0.1, 0.6)
