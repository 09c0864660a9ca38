"""Training steps of a configuration, to see what they cost; nothing of them is kept."""

import time
from typing import Any

import torch

from trainables.base import Runtime, Trainable
from trainables.engine import checkpoint
from trainables.engine.fit import steps_per_epoch, train_step
from trainables.engine.step import BatchSplitter
from trainables.optim import build_optimizer


class TimedSteps:
    """A network in training.

    Args:
        data: the data that it trains on; its device is the runtime's.
        config: config, settled for that device.
        images: number of training images, which sets the steps of an epoch; default: those of
            `data`.
    """

    def __init__(
        self,
        kind: type[Trainable[Any, Any]],
        config: Any,
        data: Any,
        runtime: Runtime,
        images: int | None = None,
    ):
        torch.manual_seed(config.seed)
        self.trainable = kind(config, data).to(runtime.device)
        groups = self.trainable.param_groups(config.optim.weight_decay)
        optimizer = build_optimizer(groups, config.optim)
        sampler = self.trainable.sampler()
        trained = len(data.train) if images is None else images
        self.epoch_steps = steps_per_epoch(config, trained, sampler.batch_size)
        self.total_steps = self.epoch_steps * config.train.epochs

        batches = BatchSplitter(self.trainable, config, runtime, sampler)
        self.state = checkpoint.restore(self.trainable, optimizer, batches, runtime)
        self._config = config
        self._runtime = runtime
        self._step = 0

    def seconds(self, count: int) -> float:
        """Take `count` steps, and return the seconds that they took."""
        self.trainable.train()
        started = time.perf_counter()
        for _ in range(count):
            # One more step is always to come, so that the next batch is sent ahead, as in a trial.
            total = max(self.total_steps, self._step + 2)
            loss = train_step(self.state, self._config, self._runtime, self._step, total)
            self._step += 1
        float(loss)  # waits for the GPU's queue
        return time.perf_counter() - started
