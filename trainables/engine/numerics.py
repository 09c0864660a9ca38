"""Floating point of training, chosen by the device in one place.

Under `train.numerics=auto` a GPU with bfloat16 computes networks in it, in the memory format that
its tensor cores read. What stays in float32 there (parameters, moments, losses, distances,
positions in an image) is so on purpose: products of matrices in it are never rounded to TF32.
"""

from dataclasses import replace
from typing import Any, TypeVar

import torch

from trainables.base import TrainConfig
from trainables.devices import describe_device

IN_BFLOAT16 = "train/bf16"
"""Metric of an epoch, and of a run, that was computed in bfloat16: 1."""

ConfigT = TypeVar("ConfigT", bound=Any)  # a dataclass with a block `train`


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether a device is a GPU with bfloat16 of its own: NVIDIA's from Ampere (2020) on."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def settle_numerics(config: ConfigT, device: torch.device) -> ConfigT:
    """The config as a device computes it: `auto` becomes bf16 and channels_last where they pay."""
    train = config.train
    if train.numerics == "as_set" or not has_bfloat16(device):
        return config
    settled = replace(train, bf16=True, channels_last=True)
    return replace(config, train=settled)


def describe_numerics(
    train: TrainConfig,  # of a settled config
    device: torch.device,
) -> str:
    """One line for `--plan`: device, types, memory format, compilation, optimizer."""
    types = "bfloat16 autocast over float32 weights" if train.bf16 else "float32"
    memory = "channels_last" if train.channels_last else "channels first"
    compiled = "torch.compile of the backbone" if train.compile else "not compiled"
    update = "one tensor after the other" if device.type == "cpu" else "all tensors at once"
    return (
        f"device: {describe_device(device)} (train.device={train.device}); {types}, {memory}, "
        f"{compiled} (train.numerics={train.numerics}); the optimizer updates {update}"
    )
