"""The printed architecture of a trial's network: every layer with its output shape, its parameters
and whether they train.

>>> print(layer_table(model.network(), image_size=64))
"""

import copy
from pathlib import Path

import torch
from torch import nn
from torchinfo import summary

from trainables.base import Trainable
from trainables.files import ARCHITECTURE, write_atomically

_DEPTH = 6  # a bottleneck's convolutions in a segmentation network's encoder are five deep
# of this process: a warm one serves many trials of few architectures
_tables: dict[tuple[str, tuple[bool, ...], int], str] = {}


def write_architecture(trainable: Trainable, directory: Path) -> None:
    """Write `architecture.txt`, unless it is there or the trainable has no network of images. After
    a kill it is whole or missing.

    Changes nothing of the trainable, draws no random number and computes nothing: shapes alone go
    through a copy without storage.
    """
    path, network = directory / ARCHITECTURE, trainable.network()
    if network is None or path.exists():
        return
    size = trainable.config.data.image_size
    key = repr(network), tuple(p.requires_grad for p in network.parameters()), size
    if key not in _tables:
        _tables[key] = layer_table(network, size)
    write_atomically(path, _tables[key])


def layer_table(network: nn.Module, image_size: int) -> str:
    """Of one image (1, 3, image_size, image_size), in eval mode."""
    hollow: dict[int, torch.Tensor] = {
        id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in network.parameters()
    }
    hollow |= {id(b): b.to("meta") for b in network.buffers()}
    table = summary(
        copy.deepcopy(network, hollow),
        input_data=torch.empty(1, 3, image_size, image_size, device="meta"),
        device="meta",
        mode="eval",
        depth=_DEPTH,
        col_names=("output_size", "num_params", "trainable"),
        row_settings=("var_names", "depth"),
        verbose=0,
    )
    return f"{table}\n"
