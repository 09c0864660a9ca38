"""The printed architecture of a trial's network: every layer with its output shape, its parameters
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

# A bottleneck's convolutions in a segmentation network's encoder are five deep.
_DEPTH = 6
# torch's BatchNorm without storage brings torch's compiler, 2 s of CPU time to import: more than a
# copy of a network of so many numbers, and an image through it, ever take.
_SMALL = 1_000_000
# A rate of dropout is in the text of a network, where each trial has another, and not in the table.
_DROPOUT = re.compile(r"Dropout\(p=[^,)]*")
# Tables of this process: a warm one serves many trials of few architectures.
_tables: dict[tuple[str, tuple[bool, ...], int], str] = {}


def write_architecture(trainable: Trainable[Any, Any], directory: Path) -> None:
    """Write `architecture.txt`, unless it exists or the trainable has no network of images. After a
    kill it is whole or missing; what a power cut takes of it is written by the next start.

    Changes nothing of the trainable, and draws no random number: an image goes through a copy, of a
    large network through one without storage.
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
    parameters and whether they train; in eval mode."""
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
    """Copy a network onto the meta device: its shapes without its numbers."""
    # What deepcopy finds in its memo it takes as copied already.
    memo: dict[int, Any] = {}
    for parameter in network.parameters():
        hollow = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
        memo[id(parameter)] = hollow
    for buffer in network.buffers():
        memo[id(buffer)] = buffer.to("meta")
    return copy.deepcopy(network, memo)
