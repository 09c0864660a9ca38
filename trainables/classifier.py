"""Supervised image classification: a backbone, a head, and a policy of what stays frozen.
`pretrain` and `classify` are both this.

    python tune/run.py pretrain                       # supervised pre-training on the pre-training classes
    python tune/run.py classify --setting C           # from the best backbone of the study `ssl`, all of it trained

The objective is val/top1. The settings A to E are in `search_spaces/classify.py`.
"""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from trainables.augment.image_ops import Normalization
from trainables.augment.mixing import Mix, draw_mix, mix_views
from trainables.augment.view_config import ViewConfig
from trainables.backbone.cached_features import FeaturesConfig, FixedViews, FrozenFeatures, why_not
from trainables.backbone.feature_store import Features
from trainables.backbone.freezing import FreezeConfig
from trainables.backbone.networks import FC_UNITS, BackboneConfig, load_fc_state
from trainables.backbone.weights import Loaded
from trainables.base import Batch, Metrics, TrainConfig
from trainables.config import Annotated, Field, config
from trainables.data import DataConfig, DataSet, Split, Task
from trainables.errors import UserError
from trainables.finetune import FineTuned, InitConfig, check_image_size
from trainables.optim import OptimConfig, ScheduleConfig
from trainables.plots.snapshots import confident_mistakes, write_arrays

_TOP = 5
_PROFILED_BATCHES = 4

Alpha = Annotated[float, Field(ge=0, le=10)]


@config
class ClassifierHeadConfig:
    """From features to logits."""

    kind: Literal["linear", "mlp", "fc1000"] = "linear"
    """linear: one layer; mlp: two, with ReLU and dropout between them; fc1000: the layer of 1000
    units that ImageNet's networks end in, and one layer on it. Those units come with the weights
    where their file has them, and are then the last stage, `fc`, of what a policy freezes;
    otherwise they start at random and always train."""
    hidden: Annotated[int, Field(ge=8, le=8192)] = 256
    """mlp only: hidden width, in units."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """mlp only: probability of dropping a hidden unit, in [0, 1)."""
    zero_init: bool = False
    """Start the last layer at zero: the first steps leave the backbone alone."""


@config
class LossConfig:
    """Cross-entropy and what departs from it."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target that is spread over all classes, in [0, 1) (Szegedy et al. 2016, section
    7)."""
    focal_gamma: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Exponent that turns the loss away from what is known (Lin et al. 2017, equation 4); 0 =
    cross-entropy."""
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
    """Mean and standard deviation taken off each channel, in every policy: those that a loaded
    backbone was trained with."""
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig = TrainConfig()
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of initialisation, order and augmentation."""

    def __post_init__(self) -> None:
        check_image_size(self)


class Classifier(FineTuned):
    """A classifier on a `DataSet` whose images all have labels."""

    task: ClassVar[Task] = "classify"
    head: nn.Sequential

    def __init__(self, config: ClassifierConfig, data: DataSet):
        super().__init__(config, data)
        if self.loaded is not None and config.head.kind == "fc1000":
            self._take_fc(self.loaded)
        self.features = FrozenFeatures(config, data, self.augment)

    def make_head(self, feature_dim: int) -> nn.Sequential:
        return build_head(self.config.head, feature_dim, len(self.data.classes))

    def _take_fc(self, loaded: Loaded) -> None:
        """The file's 1000 units, where it has them, become the last stage."""
        init = self.config.init
        if (state := load_fc_state(Path(init.file), self.config.backbone.name)) is None:
            return
        if not all(value.isfinite().all() for value in state.values()):
            raise UserError(
                f"backbone file {init.file}: its layer of {FC_UNITS} units holds values that are not finite; give another file"
            )
        self.head[0].load_state_dict(state)
        self.stages["fc"] = [self.head[0]]
        self.loaded = replace(loaded, ignored=())
        self._freeze(0)

    @classmethod
    def check_startup(cls, config: ClassifierConfig, data: DataSet) -> str:
        model = cls(config, data)
        return "; ".join(
            filter(None, (model.describe_start(), model.features.describe(model.backbone)))
        )

    @classmethod
    def objective_for(cls, data: DataSet) -> str:
        return "val/top1"

    @classmethod
    def profiled_data(cls, config: ClassifierConfig, data: DataSet) -> DataSet:
        if why_not(config.freeze, bool(config.loss.mixup or config.loss.cutmix), config.features):
            return data
        return replace(
            data,
            train=replace(
                data.train,
                indices=data.train.indices[: _PROFILED_BATCHES * config.train.batch_size],
            ),
        )

    def setup_seconds(self, data: DataSet) -> float:
        return self.features.setup_seconds(data)

    def draw(self, positions: np.ndarray, generator: torch.Generator) -> Batch:
        targets = torch.from_numpy(self.data.train.labels[self.data.train.indices[positions]])
        if (views := self.features.views) is not None:
            rows = views.choose(positions, generator)
            if (kept := self._kept(views)) is not None:
                return self.features.batch(kept, rows, targets)
            return Batch(
                self.data.train.batch(positions), (views.draws[torch.from_numpy(rows)],), targets
            )
        images = self.data.train.batch(positions)
        view = self.augment.draw(len(positions), generator)
        loss = self.config.loss
        if not loss.mixup and not loss.cutmix:
            return Batch(images, (view,), targets)
        return Batch(
            images,
            (view, draw_mix(images, view, targets, loss.mixup, loss.cutmix, generator)),
            targets,
        )

    def forward(self, batch: Batch) -> Tensor:
        assert batch.targets is not None  # `draw` gives them
        truth = nn.functional.one_hot(batch.targets, len(self.data.classes)).float()
        features = batch.images  # where nothing was drawn
        if batch.draws:
            view, *mixes = batch.draws
            views = self.augment.apply(batch.images, view)
            for mix in mixes:
                views, truth = self._mixed(views, truth, mix)
            features = self.backbone(self.to_memory_format(views))
        logits = self.head(features)
        return soft_loss(
            logits.float(), truth, self.config.loss.label_smoothing, self.config.loss.focal_gamma
        )

    def _mixed(self, views: Tensor, truth: Tensor, mix: Mix) -> tuple[Tensor, Tensor]:
        views, share = mix_views(views, self.augment.apply(mix.images, mix.draws), mix)
        partners = nn.functional.one_hot(mix.targets, truth.shape[1])
        return views, share[:, None] * truth + (1 - share[:, None]) * partners

    def own_head(self) -> nn.Module:
        return self.head[1:] if "fc" in self.stages else self.head

    def costs(self) -> Metrics:
        return self.features.costs()

    @torch.no_grad()
    def evaluate(self, split: Split, prefix: str) -> Metrics:
        self.eval()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.train.bf16):
            logits = self.head(self._features(split)).float()
        targets = torch.from_numpy(split.targets()).to(logits.device)
        metrics = {
            f"{prefix}/top1": (logits.argmax(1) == targets).double().mean().item(),
            f"{prefix}/loss": nn.functional.cross_entropy(logits, targets).item(),
        }
        if len(self.data.classes) > _TOP:
            metrics[f"{prefix}/top{_TOP}"] = (
                (logits.topk(_TOP).indices == targets[:, None]).any(1).double().mean().item()
            )
        return metrics

    def _features(self, split: Split) -> Tensor:
        """Penultimate features (n, D), float32, of the evaluation view."""
        if self.features.reason:
            return super()._features(split)
        if (kept := self._kept(split)) is not None:
            return torch.from_numpy(kept.rows).to(self.device)
        # For want of room, which the other workers may have: an exchange with them would wait for
        # ever.
        return torch.cat(list(self._through(self._eval_batches(split))))

    def _kept(self, what: Split | FixedViews) -> Features | None:
        batches = (
            what.batches(self.device) if isinstance(what, FixedViews) else self._eval_batches(what)
        )
        return self.features.kept(what, self.backbone, lambda: self._through(batches))

    @torch.no_grad()
    def snapshot_best(self, directory: Path, epoch: int) -> None:
        """`predictions-val.npz`, from which the confusion matrix and the most confident mistakes
        are drawn."""
        self.eval()
        labels = self.data.val.targets()
        top = self.head(self._features(self.data.val)).softmax(1).max(1)
        confidence, predicted = (values.cpu().numpy() for values in top)
        mistakes = confident_mistakes(labels, predicted, confidence)
        arrays = {
            "labels": labels,
            "predicted": predicted,
            "confidence": confidence,
            "names": np.array(self.data.classes),
            "epoch": epoch,
        }
        images = self.data.val.batch(mistakes).numpy()
        write_arrays(directory / "predictions-val.npz", mistakes=mistakes, images=images, **arrays)

    def calibrate(self) -> None:
        super().calibrate()
        self.features.forget()

    def load_export(self, path: Path) -> None:
        super().load_export(path)
        self.features.forget()


class Pretraining(Classifier):
    """The same, on the classes that are there for pre-training: in `glyphs` the letters that `ssl`
    sees without labels."""

    task = "pretrain"


def build_head(config: ClassifierHeadConfig, feature_dim: int, classes: int) -> nn.Sequential:
    """(B, feature_dim) -> (B, classes) logits."""
    last = nn.Linear(
        {"linear": feature_dim, "mlp": config.hidden, "fc1000": FC_UNITS}[config.kind], classes
    )
    if config.zero_init:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    if config.kind == "linear":
        return nn.Sequential(last)
    if config.kind == "fc1000":
        return nn.Sequential(nn.Linear(feature_dim, FC_UNITS), last)
    return nn.Sequential(
        nn.Linear(feature_dim, config.hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(config.dropout),
        last,
    )


def soft_loss(
    logits: Tensor,  # (B, C) float32
    truth: Tensor,  # (B, C) probabilities
    label_smoothing: float,  # in [0, 1)
    focal_gamma: float,  # >= 0
) -> Tensor:  # scalar
    """-sum_c q_c (1 - p_c)^gamma log p_c, mean over images, with q = (1 - smoothing) truth +
    smoothing / C and p = softmax(logits).

    gamma = 0 is the cross-entropy; for hard labels without smoothing it is the focal loss (Lin et
    al. 2017, equation 4).
    """
    log_p = logits.log_softmax(1)
    q = (1 - label_smoothing) * truth + label_smoothing / truth.shape[1]
    weight = q if not focal_gamma else q * (-torch.expm1(log_p)).clamp_min(1e-12) ** focal_gamma
    return -(weight * log_p).sum(1).mean()
