"""A single training step, for tests that look at one."""

from typing import Any

import torch

from trainables.base import Runtime, Trainable
from trainables.data.sampling import BatchSampler
from trainables.engine import checkpoint
from trainables.engine.checkpoint import TrainingState
from trainables.engine.step import BatchSplitter


def fresh_state(
    trainable: Trainable,
    config: Any,
    runtime: Runtime,
    optimizer: torch.optim.Optimizer | None = None,
    sampler: BatchSampler | None = None,
) -> TrainingState:
    """The state before the first step. The optimizer is plain SGD if none is given."""
    optimizer = optimizer or torch.optim.SGD(trainable.parameters(), 0.1)
    batches = BatchSplitter(trainable, config, runtime, sampler or trainable.sampler())
    return checkpoint.restore(trainable, optimizer, batches, runtime)
