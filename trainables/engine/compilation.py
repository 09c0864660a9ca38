"""torch.compile of networks: their kernels, or kernels that CUDA graphs replay."""

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from trainables.base import TrainConfig


def compile_networks(networks: Iterable[nn.Module], train: TrainConfig) -> None:
    """Have networks compiled when they are first called, if the config says so."""
    if train.compile:
        for network in networks:
            network.compile(mode=train.compile_mode)


def replays_graphs(train: TrainConfig) -> bool:
    """True if training steps replay CUDA graphs, on a device that has them."""
    return train.compile and train.compile_mode == "reduce-overhead"


def allocate_gradients(module: nn.Module) -> None:
    """Give each parameter in training a gradient of zeros, to which every micro-batch adds.

    Otherwise torch takes the gradients of the first micro-batch as they are: in the memory of a
    CUDA graph, which the next micro-batch overwrites.
    """
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)


@contextlib.contextmanager
def evaluating(train: TrainConfig) -> Iterator[None]:
    """A block that evaluates a network: nothing in it replays a CUDA graph.

    A graph overwrites its last outputs when it runs again, and an evaluation collects the outputs
    of many batches. Within a training step this does no harm: torch keeps what the backward pass
    still needs.
    """
    if not replays_graphs(train):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
