"""Floating-point types of training, chosen by the device in one place.

With `train.numerics=auto`, a GPU with bfloat16 runs networks in bfloat16, in the memory format that
its tensor cores read. Parameters, moments, losses, distances and positions in an image stay in
float32 on purpose; their matrix products are never rounded to TF32.
"""

from dataclasses import replace
from typing import Any, TypeVar

import torch

from trainables.base import TrainConfig
from trainables.devices import describe_device

IN_BFLOAT16 = "train/bf16"
"""Metric of an epoch or a run computed in bfloat16; its value is 1."""

ConfigT = TypeVar("ConfigT", bound=Any)  # a dataclass with a block `train`


def has_bfloat16(device: torch.device) -> bool:
    """True if a device is a GPU with native bfloat16: NVIDIA's from Ampere (2020) on."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def settle_numerics(config: ConfigT, device: torch.device) -> ConfigT:
    """Resolve `auto` for a device: turn on bf16 and channels_last if the device supports them."""
    train = config.train
    if train.numerics == "as_set" or not has_bfloat16(device):
        return config
    settled = replace(train, bf16=True, channels_last=True)
    return replace(config, train=settled)


def describe_numerics(
    train: TrainConfig,  # of a settled config
    device: torch.device,
) -> str:
    """One line for `--plan`: device, dtypes, memory format, compilation, optimizer."""
    types = "bfloat16 autocast over float32 weights" if train.bf16 else "float32"
    memory = "channels_last" if train.channels_last else "channels first"
    compiled = "not compiled"
    if train.compile:
        compiled = f"torch.compile of the backbone (train.compile_mode={train.compile_mode})"
    update = "one tensor after the other" if device.type == "cpu" else "all tensors at once"
    return (
        f"device: {describe_device(device)} (train.device={train.device}); {types}, {memory}, "
        f"{compiled} (train.numerics={train.numerics}); the optimizer updates {update}"
    )
