"""Common base of the methods that use heads and losses of lightly (Susmelj et al. 2020,
https://github.com/lightly-ai/lightly).

lightly is an extra, imported only when such a trial is built. Its losses need a whole batch at once
(negatives, statistics, centers), so a batch is not split into micro-batches.
"""

from importlib.util import find_spec
from typing import Any, TypeVar

import torch
from torch import Tensor

from trainables.config import config
from trainables.data import DataSet
from trainables.engine import distributed
from trainables.errors import TrialFailed, UserError
from trainables.packages import install
from trainables.self_supervised import SelfSupervised, SelfSupervisedConfig


@config
class LightlyConfig(SelfSupervisedConfig):
    """A pre-training run whose loss needs a whole batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train.micro_batch:
            raise ValueError(
                f"train.micro_batch={self.train.micro_batch}: this loss compares the images of a "
                "whole batch; leave it at 0, and lower train.batch_size where memory is short"
            )


LightlyConfigT = TypeVar("LightlyConfigT", bound=LightlyConfig)


class LightlyMethod(SelfSupervised[LightlyConfigT]):
    """A method with a loss of lightly on whole batches. Workers exchange the parts of each other's
    images that the loss needs."""

    loss: Any
    """Loss of lightly, set by `build_learner`."""

    @classmethod
    def check_startup(cls, config: LightlyConfigT, data: DataSet) -> str:
        cls.check_packages()
        return ""

    @classmethod
    def check_packages(cls) -> None:
        check_lightly()

    @classmethod
    def needs_equal_shares(cls) -> bool:
        return True

    @property
    def min_batch_size(self) -> int:
        """This worker's share of a batch, in images: it cannot be split."""
        return self.config.train.batch_size // distributed.world_size()

    def loss_of(self, *outputs: Any, **options: Any) -> Tensor:
        """Compute `self.loss` in float32, whatever precision the networks used.

        Raises:
            TrialFailed: `workers`, if their shares of the batch differ in size.
        """
        workers = distributed.world_size()
        images = self.config.train.batch_size
        if images % workers:
            raise TrialFailed(
                "workers",
                f"train.batch_size={images} for {workers} workers: this loss needs equal shares; "
                f"choose a multiple of {workers}",
            )
        with torch.autocast(self.device.type, enabled=False):
            loss: Tensor = self.loss(*outputs, **options)
        return loss


def check_lightly() -> None:
    """Raise UserError if lightly is not installed."""
    if find_spec("lightly") is None:
        raise UserError(
            "ssl-simclr, ssl-moco, ssl-vicreg and ssl-dino need the package lightly: "
            f"{install('lightly')}"
        )


def import_lightly() -> tuple[Any, Any]:
    """Import lightly's heads and losses.

    Raises:
        UserError: lightly is not installed.
    """
    check_lightly()
    from lightly import loss
    from lightly.models.modules import heads

    return heads, loss
