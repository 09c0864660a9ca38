"""Supervised image classification: a backbone, a head, and a policy of what stays frozen. `pretrain` and `classify` are both this.

    python tune/run.py pretrain                       # supervised pre-training on the pre-training classes
    python tune/run.py classify --setting C           # from the best backbone of the study `ssl`, all of it trained

The objective is val/top1. The settings A to E are in `search_spaces/classify.py`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from trainables.augment import Augment, evaluation_view
from trainables.backbones import (
    FC_UNITS,
    BackboneConfig,
    build_backbone,
    load_backbone_state,
    load_fc_state,
    load_head_state,
    save_backbone,
    stages,
)
from trainables.base import Batch, Metrics, Trainable, TrainConfig
from trainables.byol import ViewConfig
from trainables.config import Annotated, Field, config
from trainables.data import DataConfig, DataSet, Split, Task, load_dataset
from trainables.errors import UserError
from trainables.feature_store import Features
from trainables.features import FeaturesConfig, FixedViews, FrozenFeatures
from trainables.freezing import FreezeConfig, frozen_modules, keep_still, set_frozen, stage_groups
from trainables.image_ops import Normalization
from trainables.metrics import calibrate_batchnorm
from trainables.mixing import Mix, draw_mix, mix_views
from trainables.optim import OptimConfig, ScheduleConfig
from trainables.snapshots import Part, shown_rows
from trainables.weights import Loaded, load_backbone

EVAL_BATCH = 256  # images; bounds the memory of validation
_CALIBRATION_IMAGES = 4096
_TOP = 5
# Side in px that survives every halving.
_SMALLEST = {"cnn": 4, "conv4": 16, "resnet12": 16, "vgg16": 32, "vgg16_bn": 32, "vgg19": 32, "convnext_base": 32}

Alpha = Annotated[float, Field(ge=0, le=10)]


@config
class ClassifierHeadConfig:
    """From features to logits."""

    kind: Literal["linear", "mlp", "fc1000"] = "linear"
    """linear: one layer; mlp: two, with ReLU and dropout between them; fc1000: the layer of 1000 units that ImageNet's networks end in, and
    one layer on it. Those units come with the weights where their file has them, and are then the last stage, `fc`, of what a policy
    freezes; otherwise they start at random and always train."""
    hidden: Annotated[int, Field(ge=8, le=8192)] = 256
    """mlp only: hidden width, in units."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """mlp only: probability of dropping a hidden unit, in [0, 1)."""
    zero_init: bool = False
    """Start the last layer at zero: the first steps leave the backbone alone."""


@config
class InitConfig:
    """Where the backbone's weights come from."""

    source: Literal["scratch", "supervised", "ssl"] = "scratch"
    """scratch: at random; supervised, ssl: from `file`, which labels, or no labels, have trained."""
    file: str = ""
    """Path of the weights."""
    sha256: str = ""
    """Of the file's content; "" is not compared."""
    origin: str = ""
    """STUDY/TRIAL that wrote the file, for the record."""

    def __post_init__(self) -> None:
        if (self.source == "scratch") != (not self.file):
            raise ValueError(f"source={self.source!r} with file={self.file!r}: every source but scratch needs a file, and scratch none")


@config
class LossConfig:
    """Cross-entropy and what departs from it."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target that is spread over all classes, in [0, 1) (Szegedy et al. 2016, section 7)."""
    focal_gamma: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Exponent that turns the loss away from what is known (Lin et al. 2017, equation 4); 0 = cross-entropy."""
    mixup: Alpha = 0.0
    """alpha of mixup, in [0, 10]; 0 = off. With cutmix too, each image takes one of the two."""
    cutmix: Alpha = 0.0
    """alpha of CutMix, in [0, 10]; 0 = off."""


@config
class ClassifierConfig:
    """A supervised training run."""

    data: DataConfig = DataConfig()
    backbone: BackboneConfig = BackboneConfig()
    head: ClassifierHeadConfig = ClassifierHeadConfig()
    init: InitConfig = InitConfig()
    freeze: FreezeConfig = FreezeConfig()
    features: FeaturesConfig = FeaturesConfig()
    aug: ViewConfig = ViewConfig(policy="none")
    """The first view of a policy."""
    normalize: Normalization = "imagenet"
    """Mean and standard deviation taken off each channel, in every policy: those that a loaded backbone was trained with."""
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig = TrainConfig()
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of initialisation, order and augmentation."""

    def __post_init__(self) -> None:
        if self.data.image_size < (least := _SMALLEST.get(self.backbone.name, 8)):
            raise ValueError(f"backbone.name={self.backbone.name} needs data.image_size >= {least}, but got {self.data.image_size}")


class Classifier(Trainable):
    """A classifier on a `DataSet` whose images all have labels."""

    task: ClassVar[Task] = "classify"

    def __init__(self, config: ClassifierConfig, data: DataSet):
        super().__init__()
        self.config, self.data = config, data
        self.backbone = build_backbone(config.backbone)
        feature_dim: int = self.backbone.feature_dim  # type: ignore[assignment]
        self.head = build_head(config.head, feature_dim, len(data.classes))
        self.loaded: Loaded | None = None  # after every random draw: from all files the same head begins
        if config.init.file:
            self.loaded = load_backbone(self.backbone, config.backbone, Path(config.init.file), config.init.sha256)
        self.stages = stages(self.backbone)
        if self.loaded is not None and config.head.kind == "fc1000":
            self._take_fc(self.loaded)
        self.augment = Augment(replace(config.aug.views()[0], normalize=config.normalize), config.data.image_size)
        self.features = FrozenFeatures(config, data, self.augment)
        self._freeze(0)
        if config.train.channels_last:
            self.to(memory_format=torch.channels_last)
        if config.train.compile:
            self.backbone.compile()

    def _take_fc(self, loaded: Loaded) -> None:
        """The file's 1000 units, where it has them, become the last stage."""
        init = self.config.init
        if (state := load_fc_state(Path(init.file), self.config.backbone.name)) is None:
            return
        if not all(value.isfinite().all() for value in state.values()):
            raise UserError(f"backbone file {init.file}: its layer of {FC_UNITS} units holds values that are not finite; give another file")
        self.head[0].load_state_dict(state)
        self.stages["fc"] = [self.head[0]]
        self.loaded = replace(loaded, ignored=())

    @classmethod
    def load_data(cls, config: DataConfig, progress: bool = False) -> DataSet:
        return load_dataset(config, task=cls.task, progress=progress)

    @classmethod
    def prove(cls, config: ClassifierConfig, data: DataSet) -> str:
        model, init = cls(config, data), config.init
        start = "" if model.loaded is None else f"backbone {init.origin or init.file} (sha256 {init.sha256[:12]}): {model.loaded}"
        return "; ".join(filter(None, (start, model.features.describe(model.backbone))))

    @classmethod
    def objective_for(cls, data: DataSet) -> str:
        return "val/top1"

    def draw(self, positions: np.ndarray, generator: torch.Generator) -> Batch:
        targets = torch.from_numpy(self.data.train.labels[self.data.train.indices[positions]])
        if (views := self.features.views) is not None:
            rows = views.choose(positions, generator)
            if (kept := self._kept(views)) is not None:
                return self.features.batch(kept, rows, targets)
            return Batch(self.data.train.batch(positions), (views.draws[torch.from_numpy(rows)],), targets)
        images = self.data.train.batch(positions)
        view = self.augment.draw(len(positions), generator)
        loss = self.config.loss
        if not loss.mixup and not loss.cutmix:
            return Batch(images, (view,), targets)
        return Batch(images, (view, draw_mix(images, view, targets, loss.mixup, loss.cutmix, generator)), targets)

    def forward(self, batch: Batch) -> Tensor:
        assert batch.targets is not None  # `draw` gives them
        truth = nn.functional.one_hot(batch.targets, len(self.data.classes)).float()
        features = batch.images  # where nothing was drawn
        if batch.draws:
            view, *mixes = batch.draws
            views = self.augment.apply(batch.images, view)
            for mix in mixes:
                views, truth = self._mixed(views, truth, mix)
            features = self.backbone(self._laid_out(views))
        logits = self.head(features)
        return soft_loss(logits.float(), truth, self.config.loss.label_smoothing, self.config.loss.focal_gamma)

    def _mixed(self, views: Tensor, truth: Tensor, mix: Mix) -> tuple[Tensor, Tensor]:
        views, share = mix_views(views, self.augment.apply(mix.images, mix.draws), mix)
        partners = nn.functional.one_hot(mix.targets, truth.shape[1])
        return views, share[:, None] * truth + (1 - share[:, None]) * partners

    def param_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        self._freeze(self.config.train.epochs - 1)  # policies only thaw: what trains in the last epoch is all that ever trains
        head = self.head[1:] if "fc" in self.stages else self.head
        groups = stage_groups(self.stages, head, weight_decay, self.config.freeze)
        self._freeze(0)
        return groups

    def before_step(self, step: int, total_steps: int) -> None:
        if self._freeze(step * self.config.train.epochs // total_steps):
            self.train()

    def _freeze(self, epoch: int) -> bool:
        """Whether this has changed what trains."""
        frozen = frozen_modules(epoch, self.config.train.epochs, tuple(self.stages), self.config.freeze)
        if frozen == getattr(self, "frozen", None):
            return False
        self.frozen = frozen
        set_frozen(self.stages, frozen)
        return True

    def train(self, mode: bool = True) -> "Classifier":
        if self.config.freeze.policy == "all" and not self.backbone.training:  # to walk it at every step takes as long as the step
            self.training = mode
            self.head.train(mode)
            return self
        super().train(mode)
        keep_still(self.stages, self.frozen, self.config.freeze)
        if self.config.freeze.policy == "all":
            self.backbone.eval()
        return self

    def validate(self) -> Metrics:
        return self._judge(self.data.val, "val")

    def costs(self) -> Metrics:
        return self.features.costs()

    def test(self) -> Metrics:
        return self._judge(self.data.test, "test")

    @torch.no_grad()
    def _judge(self, split: Split, prefix: str) -> Metrics:
        self.eval()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.train.bf16):
            logits = self.head(self._features(split)).float()
        targets = torch.from_numpy(split.targets()).to(logits.device)
        metrics = {
            f"{prefix}/top1": (logits.argmax(1) == targets).double().mean().item(),
            f"{prefix}/loss": nn.functional.cross_entropy(logits, targets).item(),
        }
        if len(self.data.classes) > _TOP:
            metrics[f"{prefix}/top{_TOP}"] = (logits.topk(_TOP).indices == targets[:, None]).any(1).double().mean().item()
        return metrics

    def _features(self, split: Split) -> Tensor:
        """Penultimate features (n, D), float32, of the evaluation view."""
        if (kept := self._kept(split)) is not None:
            return torch.from_numpy(kept.rows).to(self.device)
        return torch.cat(list(self._through(self._eval_batches(split))))

    def _kept(self, what: Split | FixedViews) -> Features | None:
        batches = what.batches(self.device) if isinstance(what, FixedViews) else self._eval_batches(what)
        return self.features.kept(what, self.backbone, lambda: self._through(batches))

    @torch.no_grad()
    def _through(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Penultimate features (b, D), float32, in eval mode, of views (b, 3, S, S)."""
        self.backbone.eval()
        for views in batches:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.train.bf16):
                features = self.backbone(self._laid_out(views)).float()
            yield features

    def _eval_batches(self, split: Split, limit: int | None = None) -> Iterator[Tensor]:
        n = len(split) if limit is None else min(limit, len(split))
        for start in range(0, n, EVAL_BATCH):
            images = split.batch(np.arange(start, min(start + EVAL_BATCH, n))).to(self.device)
            yield self._laid_out(evaluation_view(images, self.config.data.image_size, self.config.normalize))

    def _laid_out(self, views: Tensor) -> Tensor:
        return views.contiguous(memory_format=torch.channels_last) if self.config.train.channels_last else views

    def embeddings(self, part: Part) -> tuple[np.ndarray, np.ndarray | None]:
        split = self.data.train if part == "train" else self.data.val
        rows = shown_rows(split.targets())
        return self._features(replace(split, indices=split.indices[rows])).cpu().numpy(), split.targets()[rows]

    def calibrate(self) -> None:
        if self.loaded is None:  # loaded statistics are part of what was trained
            calibrate_batchnorm(self.backbone, self._eval_batches(self.data.train, limit=_CALIBRATION_IMAGES))
            self.features.forget()

    def changing_state(self) -> dict[str, Tensor]:
        """A wholly frozen backbone is what the config makes it: hundreds of megabytes that no checkpoint needs."""
        return self.head.state_dict() if self.config.freeze.policy == "all" else self.state_dict()

    def load_changing_state(self, state: dict[str, Tensor]) -> None:
        (self.head if self.config.freeze.policy == "all" else self).load_state_dict(state)

    def export(self, path: Path, meta: dict[str, Any]) -> None:
        about = {"backbone": asdict(self.config.backbone), "normalize": self.config.normalize}
        save_backbone(path, self.backbone, meta | about, head=self.head)

    def load_export(self, path: Path) -> None:
        self.backbone.load_state_dict(load_backbone_state(path))
        self.head.load_state_dict(load_head_state(path))
        self.features.forget()


class Pretraining(Classifier):
    """The same, on the classes that are there for pre-training: in `glyphs` the letters that `ssl` sees without labels."""

    task = "pretrain"


def build_head(config: ClassifierHeadConfig, feature_dim: int, classes: int) -> nn.Sequential:
    """(B, feature_dim) -> (B, classes) logits."""
    last = nn.Linear({"linear": feature_dim, "mlp": config.hidden, "fc1000": FC_UNITS}[config.kind], classes)
    if config.zero_init:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    if config.kind == "linear":
        return nn.Sequential(last)
    if config.kind == "fc1000":
        return nn.Sequential(nn.Linear(feature_dim, FC_UNITS), last)
    return nn.Sequential(nn.Linear(feature_dim, config.hidden), nn.ReLU(inplace=True), nn.Dropout(config.dropout), last)


def soft_loss(
    logits: Tensor,  # (B, C) float32
    truth: Tensor,  # (B, C) probabilities
    label_smoothing: float,  # in [0, 1)
    focal_gamma: float,  # >= 0
) -> Tensor:  # scalar
    """-sum_c q_c (1 - p_c)^gamma log p_c, mean over images, with q = (1 - smoothing) truth + smoothing / C and p = softmax(logits).

    gamma = 0 is the cross-entropy; for hard labels without smoothing it is the focal loss (Lin et al. 2017, equation 4).
    """
    log_p = logits.log_softmax(1)
    q = (1 - label_smoothing) * truth + label_smoothing / truth.shape[1]
    weight = q if not focal_gamma else q * (-torch.expm1(log_p)).clamp_min(1e-12) ** focal_gamma
    return -(weight * log_p).sum(1).mean()
