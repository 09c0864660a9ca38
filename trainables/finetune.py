"""Base of all trainables with a head on a backbone: it loads the backbone, freezes and thaws its
stages, and computes its features of a split.

Users' own experiments import `InitConfig` and related names from here
(docs/adding-a-trainable.md).
"""

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from trainables.augment.evaluation import PIXELS, evaluation_batches
from trainables.augment.image_ops import Normalization
from trainables.augment.views import Augment
from trainables.backbone.export import (
    load_backbone_state,
    load_head_state,
    load_seen,
    save_backbone,
)
from trainables.backbone.freezing import (
    FreezeConfig,
    frozen_modules,
    set_eval_mode,
    set_frozen,
    stage_groups,
    thaws_at,
)
from trainables.backbone.initial import InitConfig as InitConfig
from trainables.backbone.initial import InitialBackbone as InitialBackbone
from trainables.backbone.initial import check_image_size as check_image_size
from trainables.backbone.initial import initial_backbone as initial_backbone
from trainables.backbone.networks import BackboneConfig
from trainables.base import Metrics, RunConfig, Trainable
from trainables.data import DataConfig, DataSet, Split, Task, load_dataset
from trainables.data.seen import SeenRecord, Training
from trainables.engine import distributed
from trainables.engine.compilation import compile_networks
from trainables.metrics import calibrate_batchnorm
from trainables.outcomes import ImageOutcomes
from trainables.plots.snapshots import Part, shown_rows

_CALIBRATION_IMAGES = 4096


def labels_of(split: Split) -> np.ndarray:  # (n,) int64
    """Labels of a split in which every image has one."""
    labels = split.targets()
    assert labels is not None  # loading refuses supervised data sets without labels
    return labels


class FineTuneConfig(RunConfig, Protocol):
    """Blocks in the config of every `FineTuned`."""

    @property
    def data(self) -> DataConfig: ...
    @property
    def backbone(self) -> BackboneConfig: ...
    @property
    def init(self) -> InitConfig: ...
    @property
    def freeze(self) -> FreezeConfig: ...
    @property
    def aug(self) -> Any: ...  # a `ViewConfig`, unless the subclass overrides `augment`
    @property
    def normalize(self) -> Normalization: ...


ConfigT = TypeVar("ConfigT", bound=FineTuneConfig)
DataT = TypeVar("DataT", bound=DataSet)


class FineTuned(Trainable[ConfigT, DataT]):
    """A backbone, from scratch or loaded, under a head, with a freeze policy.

    Subclasses build both, pass them to `__init__`, and define `task` and `evaluate`.

    Args:
        backbone: result of `initial_backbone`.
        head: takes features (B, D), randomly initialised.
        net: a network that contains both parts under its own names, if there is one. The
            state_dict then has keys `net.*` instead of `backbone.*` and `head.*`.
    """

    task: ClassVar[Task] = "classify"
    max_eval_pixels: ClassVar[int] = PIXELS
    """Largest number of pixels in an evaluation batch."""
    backbone: nn.Module
    head: nn.Module

    def __init__(
        self,
        config: ConfigT,
        data: DataT,
        backbone: InitialBackbone,
        head: nn.Module,
        net: nn.Module | None = None,
    ):
        super().__init__()
        self.config = config
        self.data = data
        self.backbone_config = backbone.config
        self.loaded = backbone.loaded
        self.stages = backbone.stages

        if net is None:
            self.backbone = backbone.module
            self.head = head
        else:
            self.net = net
            # `net` registers both parts already; a second registration doubles the state_dict.
            object.__setattr__(self, "backbone", backbone.module)
            object.__setattr__(self, "head", head)

        self.frozen: tuple[str, ...] = ()
        self._freeze(epoch=0)
        self._outcomes: ImageOutcomes | None = None  # of the last `test`

        if config.train.channels_last:
            self.to(memory_format=torch.channels_last)
        compile_networks([backbone.module if net is None else net], config.train)

    @classmethod
    def load_data(cls, config: DataConfig, progress: bool = False) -> DataT:
        # The task decides the returned class: "fewshot" returns `FewShotData`.
        return cast(DataT, load_dataset(config, task=cls.task, progress=progress))

    @cached_property
    def augment(self) -> Augment:
        """Training view: the first view of policy `aug`, normalised as the config says."""
        view = self.config.aug.views()[0]
        view = replace(
            view,
            normalize=self.config.normalize,
            jitter_first=self.config.train.rules > 1,
        )
        return Augment(view, self.config.data.image_size)

    def network(self) -> nn.Module:
        return nn.Sequential(OrderedDict(backbone=self.backbone, head=self.head))

    def describe_start(self) -> str:
        """One clause about the loaded weights; "" for training from scratch."""
        if self.loaded is None:
            return ""

        init = self.config.init
        origin = init.origin or init.file
        return f"backbone {origin} (sha256 {init.sha256[:12]}): {self.loaded}"

    # -- freezing

    def param_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        # Policies only thaw: the parameters that train in the last epoch are all that ever train.
        self._freeze(epoch=self.config.train.epochs - 1)
        groups = stage_groups(
            self.stages,
            self.head_outside_stages(),
            weight_decay,
            self.config.freeze,
            self._thaws(),
        )
        self._freeze(epoch=0)
        return groups

    def _thaws(self) -> dict[str, float]:
        """Fraction of the run after which each stage trains. Empty under version 1 of the rules,
        when all layers shared one schedule."""
        if self.config.train.rules == 1:
            return {}
        epochs = self.config.train.epochs
        names = tuple(self.stages)
        return {
            name: thaws_at(name, epochs, names, self.config.freeze, self._head_trains)
            for name in names
        }

    def head_outside_stages(self) -> nn.Module:
        """The part of the head that is in no stage and always trains."""
        return self.head

    def before_step(self, step: int, total_steps: int) -> None:
        epoch = step * self.config.train.epochs // total_steps
        if self._freeze(epoch):
            self.train()

    @cached_property
    def _head_trains(self) -> bool:
        return any(True for _ in self.head.parameters())

    def _freeze(self, epoch: int) -> bool:
        """Freeze and thaw stages by the policy; return True if anything changed."""
        frozen = frozen_modules(
            epoch,
            self.config.train.epochs,
            tuple(self.stages),
            self.config.freeze,
            self._head_trains,
        )
        if frozen == self.frozen:
            return False

        self.frozen = frozen
        set_frozen(self.stages, frozen)
        return True

    def train(self, mode: bool = True) -> Self:
        never_trains = self.config.freeze.policy == "all"
        if never_trains and not self.backbone.training:
            # The backbone is in eval mode already. Walking through all its modules would take as
            # long as a step on cached features.
            self.training = mode
            self.head.train(mode)
            return self

        super().train(mode)
        set_eval_mode(self.stages, self.frozen, self.config.freeze)
        if never_trains:
            self.backbone.eval()
        return self

    # -- evaluation

    def validate(self) -> Metrics:
        return self.evaluate(self.data.val, "val")

    def test(self) -> Metrics:
        return self.evaluate(self.data.test, "test")

    def test_outcomes(self) -> ImageOutcomes | None:
        return self._outcomes

    @abstractmethod
    def evaluate(self, split: Split, prefix: str) -> Metrics:
        """Metrics `<prefix>/...` on a split. With prefix "test" it may set `_outcomes` to the
        outcomes of the images."""

    def split_features(self, split: Split) -> Tensor:
        """Penultimate features (n, D), float32, of a split's evaluation views, on every rank."""
        views = self.evaluation_views(split, shared=True)
        features = torch.cat(list(self.backbone_features(views)))
        return distributed.gather_rows(features, len(split))

    @torch.no_grad()
    def backbone_features(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Penultimate features (b, D), float32, of views (b, 3, S, S), in eval mode."""
        self.backbone.eval()
        for views in batches:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.train.bf16):
                features = self.backbone(self.to_memory_format(views)).float()
            yield features

    def evaluation_views(
        self, split: Split, limit: int | None = None, shared: bool = False
    ) -> Iterator[Tensor]:
        """Views (b, 3, S, S) without augmentation, in order.

        Args:
            limit: use only this many images, from the first; None for all.
            shared: yield only this worker's share of them.
        """
        count = len(split) if limit is None else min(limit, len(split))
        rows = distributed.shard(count) if shared else range(count)
        return evaluation_batches(
            split, rows, self.config, self.config.normalize, self.device, self.max_eval_pixels
        )

    def to_memory_format(self, views: Tensor) -> Tensor:
        if self.config.train.channels_last:
            return views.contiguous(memory_format=torch.channels_last)
        return views

    def embeddings(self, part: Part) -> tuple[np.ndarray, np.ndarray | None]:
        split = self.data.train if part == "train" else self.data.val
        labels = labels_of(split)
        rows = shown_rows(labels)

        shown = replace(split, indices=split.indices[rows])
        features = self.split_features(shown)
        return features.cpu().numpy(), labels[rows]

    def calibrate(self) -> None:
        # Loaded statistics are part of the trained weights.
        if self.loaded is None:
            views = self.evaluation_views(self.data.train, limit=_CALIBRATION_IMAGES)
            calibrate_batchnorm(self.backbone, views)

    # -- checkpoints and exports

    def changing_state(self) -> dict[str, Tensor]:
        """Return only the head's state if the backbone never trains. The config restores the
        backbone, so no checkpoint needs its hundreds of megabytes."""
        return self._changing_part.state_dict()

    def load_changing_state(self, state: dict[str, Tensor]) -> None:
        self._changing_part.load_state_dict(state)

    @property
    def _changing_part(self) -> nn.Module:
        return self.head if self.config.freeze.policy == "all" else self

    def export(self, path: Path, meta: dict[str, Any]) -> None:
        about = {"backbone": asdict(self.backbone_config), "normalize": self.config.normalize}
        save_backbone(path, self.backbone, meta | about, head=self.head, seen=self.seen)

    @cached_property
    def seen(self) -> SeenRecord:
        """All data that the backbone has been trained on, including this training. A frozen
        backbone learns nothing here."""
        init = self.config.init
        before = load_seen(Path(init.file)) if init.file else SeenRecord()
        if self.config.freeze.policy == "all":
            return before
        return before.then(Training.on(self.data, self.config.data.seed, labels=True))

    def load_export(self, path: Path) -> None:
        self.backbone.load_state_dict(load_backbone_state(path))
        self.head.load_state_dict(load_head_state(path))
