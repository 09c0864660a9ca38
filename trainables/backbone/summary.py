"""The printed architecture of a trial's network: every layer with its output shape and parameters,
and whether they train.

>>> print(layer_table(model.network(), image_size=64))
"""

import copy
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchinfo import summary

from trainables.base import Trainable
from trainables.files import ARCHITECTURE, write_atomically

# Convolutions of bottlenecks in a segmentation network's encoder are nested five levels deep.
_DEPTH = 6
# On the meta device, torch's BatchNorm imports torch's compiler, which takes 2 s of CPU time. For
# networks of up to this many parameters, a real copy and a forward pass are always faster.
_SMALL = 1_000_000
# The repr of a network contains its dropout rate, which differs between trials; the table does not.
_DROPOUT = re.compile(r"Dropout\(p=[^,)]*")
# Tables made by this process, which may run many trials with few architectures.
_tables: dict[tuple[str, tuple[bool, ...], int], str] = {}


def write_architecture(trainable: Trainable[Any, Any], directory: Path) -> None:
    """Write `architecture.txt`, unless it exists or the trainable has no network on images. After a
    kill, the file is complete or missing; the next start replaces one that a power cut emptied.

    The trainable is unchanged and no random numbers are drawn: the forward pass uses a copy, for a
    large network one without storage.
    """
    path = directory / ARCHITECTURE
    network = trainable.network()
    if network is None or (path.exists() and path.stat().st_size):
        return

    size = trainable.config.data.image_size
    trains = tuple(p.requires_grad for p in network.parameters())
    key = (_DROPOUT.sub("Dropout", repr(network)), trains, size)
    if key not in _tables:
        _tables[key] = layer_table(network, size)
    write_atomically(path, _tables[key], durable=False)


def layer_table(network: nn.Module, image_size: int) -> str:
    """Table of every layer with its output shape for one image (1, 3, image_size, image_size), its
    parameters, and whether they train; in eval mode."""
    numbers = sum(parameter.numel() for parameter in network.parameters())
    device = "cpu" if numbers <= _SMALL else "meta"
    copied = copy.deepcopy(network).cpu() if device == "cpu" else _copy_without_storage(network)
    table = summary(
        copied,
        input_data=torch.zeros(1, 3, image_size, image_size, device=device),
        device=device,
        mode="eval",
        depth=_DEPTH,
        col_names=("output_size", "num_params", "trainable"),
        row_settings=("var_names", "depth"),
        verbose=0,
    )
    return f"{table}\n"


def _copy_without_storage(network: nn.Module) -> nn.Module:
    """Copy a network to the meta device: shapes without values."""
    # deepcopy uses what is in its memo instead of copying it.
    memo: dict[int, Any] = {}
    for parameter in network.parameters():
        hollow = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
        memo[id(parameter)] = hollow
    for buffer in network.buffers():
        memo[id(buffer)] = buffer.to("meta")
    return copy.deepcopy(network, memo)
