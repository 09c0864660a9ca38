"""The backbone from which training starts: with random weights or those of a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from trainables.backbone.networks import BackboneConfig, build_backbone, stages
from trainables.backbone.timm_networks import check_timm_size, is_timm
from trainables.backbone.weights import Loaded, load_backbone
from trainables.config import config

# Image sides, in px, for which at least one pixel remains after all halvings.
_MIN_IMAGE_SIZE = {
    "cnn": 4,
    "conv4": 16,
    "resnet12": 16,
    "vgg16": 32,
    "vgg16_bn": 32,
    "vgg19": 32,
    "convnext_base": 32,
}
_MIN_IMAGE_SIZE_OF_OTHERS = 8


@config
class InitConfig:
    """Source of the backbone's weights."""

    source: Literal["scratch", "supervised", "ssl", "given"] = "scratch"
    """scratch: random weights. supervised, ssl: weights in `file`, trained with or without labels.
    given: weights in `file`, however trained."""
    file: str = ""
    """Path of the weights."""
    sha256: str = ""
    """SHA-256 that the file's content must have; "" accepts any."""
    origin: str = ""
    """STUDY/TRIAL that wrote the file, as a record."""

    def __post_init__(self) -> None:
        if (self.source == "scratch") != (not self.file):
            raise ValueError(
                f"source={self.source!r} with file={self.file!r}: "
                "every source but scratch needs a file, and scratch none"
            )


def check_image_size(config: Any) -> None:
    """Raise ValueError if images of `config.data` are too small for `config.backbone`, and
    UserError if a timm network does not accept their size."""
    name = config.backbone.name
    if is_timm(name):
        size = config.data.image_size
        check_timm_size(name, size, size)
        return

    smallest = _MIN_IMAGE_SIZE.get(name, _MIN_IMAGE_SIZE_OF_OTHERS)

    if config.data.image_size < smallest:
        raise ValueError(
            f"backbone.name={name} needs data.image_size >= {smallest}, "
            f"but got {config.data.image_size}"
        )


@dataclass(frozen=True, eq=False)
class InitialBackbone:
    """A backbone from which training starts."""

    module: nn.Module
    config: BackboneConfig
    stages: dict[str, list[nn.Module]]
    """Name -> modules, in forward order: the units that a freeze policy freezes and thaws."""
    loaded: Loaded | None
    """Result of loading a file; None for random weights."""

    @property
    def feature_dim(self) -> int:
        """Number of features D per image."""
        dim: Any = self.module.feature_dim
        return int(dim)


def initial_backbone(config: BackboneConfig, init: InitConfig) -> InitialBackbone:
    """Build the backbone of a config, and load its weights if `init` names a file.

    Raises:
        UserError: the file is unusable; see `load_backbone`.
    """
    module = build_backbone(config)
    loaded = load_initial_weights(module, config, init)
    return InitialBackbone(module, config, stages(module), loaded)


def load_initial_weights(
    module: nn.Module, config: BackboneConfig, init: InitConfig
) -> Loaded | None:
    """Load the weights that `init` names into a backbone; None if it starts from scratch.

    Draws no random numbers, so a head that is built afterwards starts the same for every file.
    """
    if not init.file:
        return None
    return load_backbone(module, config, Path(init.file), init.sha256)
