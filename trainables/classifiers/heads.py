"""Heads of classifiers, from a backbone's features to logits."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from torch import nn

from trainables.backbone.export import load_fc_state
from trainables.backbone.initial import InitConfig, InitialBackbone
from trainables.backbone.networks import FC_UNITS
from trainables.config import Annotated, Field, config
from trainables.errors import UserError


@config
class ClassifierHeadConfig:
    """The head of a classifier, from features to logits."""

    kind: Literal["linear", "mlp", "fc1000"] = "linear"
    """linear: one layer. mlp: two, with ReLU and dropout between them. fc1000: the 1000-unit layer
    at the end of ImageNet networks, with one layer on top. If the weights file has these units,
    they start from it and are the last stage, `fc`, for freeze policies; otherwise they start from
    random values and always train."""
    hidden: Annotated[int, Field(ge=8, le=8192)] = 256
    """mlp only: hidden width, in units."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """mlp only: probability of dropping a hidden unit, in [0, 1)."""
    zero_init: bool = False
    """Start the last layer at zero, so the first step leaves the backbone unchanged."""


def build_head(config: ClassifierHeadConfig, feature_dim: int, classes: int) -> nn.Sequential:
    """Build the layers from features (B, feature_dim) to logits (B, classes)."""
    width = {"linear": feature_dim, "mlp": config.hidden, "fc1000": FC_UNITS}[config.kind]
    # Create it before the layers in front of it: results of a seed depend on this order of draws.
    last = nn.Linear(width, classes)
    if config.zero_init:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    if config.kind == "linear":
        return nn.Sequential(last)
    if config.kind == "fc1000":
        return nn.Sequential(nn.Linear(feature_dim, FC_UNITS), last)
    return nn.Sequential(
        nn.Linear(feature_dim, config.hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(config.dropout),
        last,
    )


def with_fc_stage(backbone: InitialBackbone, layer: nn.Module, init: InitConfig) -> InitialBackbone:
    """Load ImageNet's 1000-unit layer into `layer` if the backbone's file has it, and make it the
    last stage, `fc`.

    Raises:
        UserError: the layer in the file has values that are not finite.
    """
    if backbone.loaded is None:
        return backbone
    state = load_fc_state(Path(init.file), backbone.module, backbone.config.name)
    if state is None:
        return backbone

    if not all(value.isfinite().all() for value in state.values()):
        raise UserError(
            f"backbone file {init.file}: its layer of {FC_UNITS} units has values that are not "
            "finite; give another file"
        )
    layer.load_state_dict(state)
    return replace(
        backbone,
        stages={**backbone.stages, "fc": [layer]},
        loaded=replace(backbone.loaded, ignored=()),
    )
