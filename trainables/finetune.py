"""What trainables share that put a head on a backbone: where its weights come from, what of it
trains when, and its features."""

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from trainables.augment.evaluation import PIXELS, evaluation_batches
from trainables.augment.views import Augment
from trainables.backbone.freezing import frozen_modules, set_eval_mode, set_frozen, stage_groups
from trainables.backbone.networks import (
    build_backbone,
    load_backbone_state,
    load_head_state,
    save_backbone,
    stages,
)
from trainables.backbone.weights import Loaded, load_backbone
from trainables.base import Metrics, Trainable
from trainables.config import config
from trainables.data import DataConfig, DataSet, Split, Task, load_dataset
from trainables.engine import distributed
from trainables.metrics import calibrate_batchnorm
from trainables.plots.snapshots import Part, shown_rows

_CALIBRATION_IMAGES = 4096
# Side in px that survives every halving.
_SMALLEST = {
    "cnn": 4,
    "conv4": 16,
    "resnet12": 16,
    "vgg16": 32,
    "vgg16_bn": 32,
    "vgg19": 32,
    "convnext_base": 32,
}


@config
class InitConfig:
    """Where the backbone's weights come from."""

    source: Literal["scratch", "supervised", "ssl", "given"] = "scratch"
    """scratch: at random; supervised, ssl: from `file`, which labels, or no labels, have trained;
    given: from `file`, however trained."""
    file: str = ""
    """Path of the weights."""
    sha256: str = ""
    """Of the file's content; "" is not compared."""
    origin: str = ""
    """STUDY/TRIAL that wrote the file, for the record."""

    def __post_init__(self) -> None:
        if (self.source == "scratch") != (not self.file):
            raise ValueError(
                f"source={self.source!r} with file={self.file!r}: every source but scratch needs a file, and scratch none"
            )


def check_image_size(config: Any) -> None:
    """Raises ValueError where images of `config.data` are too small for `config.backbone`."""
    if config.data.image_size < (least := _SMALLEST.get(config.backbone.name, 8)):
        raise ValueError(
            f"backbone.name={config.backbone.name} needs data.image_size >= {least}, but got {config.data.image_size}"
        )


class FineTuned(Trainable):
    """A backbone, from scratch or loaded, under a head, with a policy of what stays frozen.

    Subclasses set `task`, `make_head` and `evaluate`; their configs have blocks data, backbone, init,
    freeze, aug, train, and `normalize`.
    """

    task: ClassVar[Task]
    _eval_pixels: ClassVar[int] = PIXELS

    def __init__(self, config: Any, data: DataSet):
        super().__init__()
        self.config, self.data = config, data
        self.backbone = build_backbone(config.backbone)
        feature_dim: int = self.backbone.feature_dim  # type: ignore[assignment]
        self.head = self.make_head(feature_dim)
        # after every random draw: from all files the same head begins
        self.loaded: Loaded | None = None
        if config.init.file:
            self.loaded = load_backbone(
                self.backbone, config.backbone, Path(config.init.file), config.init.sha256
            )
        self.stages = stages(self.backbone)
        self.augment = Augment(
            replace(config.aug.views()[0], normalize=config.normalize), config.data.image_size
        )
        self._freeze(0)
        if config.train.channels_last:
            self.to(memory_format=torch.channels_last)
        if config.train.compile:
            self.backbone.compile()

    @abstractmethod
    def make_head(self, feature_dim: int) -> nn.Module:
        """What stands on features (B, feature_dim), randomly initialised."""

    @classmethod
    def load_data(cls, config: DataConfig, progress: bool = False) -> DataSet:
        return load_dataset(config, task=cls.task, progress=progress)

    def network(self) -> nn.Module:
        return nn.Sequential(OrderedDict(backbone=self.backbone, head=self.head))

    def describe_start(self) -> str:
        """What was loaded, "" from scratch."""
        init = self.config.init
        return (
            ""
            if self.loaded is None
            else f"backbone {init.origin or init.file} (sha256 {init.sha256[:12]}): {self.loaded}"
        )

    def param_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        # policies only thaw: what trains in the last epoch is all that ever trains
        self._freeze(self.config.train.epochs - 1)
        groups = stage_groups(self.stages, self.own_head(), weight_decay, self.config.freeze)
        self._freeze(0)
        return groups

    def own_head(self) -> nn.Module:
        """The part of the head that is no stage."""
        return self.head

    def before_step(self, step: int, total_steps: int) -> None:
        if self._freeze(step * self.config.train.epochs // total_steps):
            self.train()

    @cached_property
    def _head_trains(self) -> bool:
        return any(True for _ in self.head.parameters())

    def _freeze(self, epoch: int) -> bool:
        """Whether this has changed what trains."""
        frozen = frozen_modules(
            epoch,
            self.config.train.epochs,
            tuple(self.stages),
            self.config.freeze,
            self._head_trains,
        )
        if frozen == getattr(self, "frozen", None):
            return False
        self.frozen = frozen
        set_frozen(self.stages, frozen)
        return True

    def train(self, mode: bool = True) -> Self:
        # to walk it at every step takes as long as the step
        if self.config.freeze.policy == "all" and not self.backbone.training:
            self.training = mode
            self.head.train(mode)
            return self
        super().train(mode)
        set_eval_mode(self.stages, self.frozen, self.config.freeze)
        if self.config.freeze.policy == "all":
            self.backbone.eval()
        return self

    def validate(self) -> Metrics:
        return self.evaluate(self.data.val, "val")

    def test(self) -> Metrics:
        return self.evaluate(self.data.test, "test")

    @abstractmethod
    def evaluate(self, split: Split, prefix: str) -> Metrics:
        """Metrics `<prefix>/...` on a split."""

    def _features(self, split: Split) -> Tensor:
        """Penultimate features (n, D), float32, of the evaluation view."""
        return distributed.gather_rows(
            torch.cat(list(self._through(self._eval_batches(split, shared=True)))), len(split)
        )

    @torch.no_grad()
    def _through(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Penultimate features (b, D), float32, in eval mode, of views (b, 3, S, S)."""
        self.backbone.eval()
        for views in batches:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.train.bf16):
                features = self.backbone(self.to_memory_format(views)).float()
            yield features

    def _eval_batches(
        self, split: Split, limit: int | None = None, shared: bool = False
    ) -> Iterator[Tensor]:
        """Of the whole split, or of this worker's share of it."""
        n = len(split) if limit is None else min(limit, len(split))
        mine = distributed.shard(n) if shared else range(n)
        return evaluation_batches(
            split, mine, self.config, self.config.normalize, self.device, self._eval_pixels
        )

    def to_memory_format(self, views: Tensor) -> Tensor:
        return (
            views.contiguous(memory_format=torch.channels_last)
            if self.config.train.channels_last
            else views
        )

    def embeddings(self, part: Part) -> tuple[np.ndarray, np.ndarray | None]:
        split = self.data.train if part == "train" else self.data.val
        rows = shown_rows(split.targets())
        return self._features(
            replace(split, indices=split.indices[rows])
        ).cpu().numpy(), split.targets()[rows]

    def calibrate(self) -> None:
        if self.loaded is None:  # loaded statistics are part of what was trained
            calibrate_batchnorm(
                self.backbone, self._eval_batches(self.data.train, limit=_CALIBRATION_IMAGES)
            )

    def changing_state(self) -> dict[str, Tensor]:
        """A wholly frozen backbone is what the config makes it: hundreds of megabytes that no
        checkpoint needs."""
        return self.head.state_dict() if self.config.freeze.policy == "all" else self.state_dict()

    def load_changing_state(self, state: dict[str, Tensor]) -> None:
        (self.head if self.config.freeze.policy == "all" else self).load_state_dict(state)

    def export(self, path: Path, meta: dict[str, Any]) -> None:
        about = {"backbone": asdict(self.config.backbone), "normalize": self.config.normalize}
        save_backbone(path, self.backbone, meta | about, head=self.head)

    def load_export(self, path: Path) -> None:
        self.backbone.load_state_dict(load_backbone_state(path))
        self.head.load_state_dict(load_head_state(path))
