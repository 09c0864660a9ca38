"""Supervised image classification: a backbone, a head, and a freeze policy.

Both `pretrain` and `classify` train it:

    python tune/run.py pretrain              # on the classes that are reserved for pre-training
    python tune/run.py classify --setting C  # from the best backbone of `ssl`, all layers trained

The objective is val/top1. `search_spaces/classify.py` defines settings A to E.
"""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from trainables.augment.image_ops import Normalization
from trainables.augment.mixing import Mix, draw_mix, mix_views
from trainables.augment.view_config import ViewConfig
from trainables.backbone.cached_features import (
    FeaturesConfig,
    FixedViews,
    FrozenFeatures,
    why_not_cached,
)
from trainables.backbone.feature_store import Features
from trainables.backbone.freezing import FreezeConfig
from trainables.backbone.initial import InitConfig, check_image_size, initial_backbone
from trainables.backbone.networks import BackboneConfig
from trainables.balance import BalanceConfig, BalancedSampler, image_weights
from trainables.base import AVERAGED, Batch, Metrics, TrainConfig
from trainables.class_metrics import (
    balanced_accuracy,
    class_results,
    confusion_counts,
    image_ratios,
    macro_f1,
    write_class_results,
)
from trainables.classifiers.heads import ClassifierHeadConfig, build_head, with_fc_stage
from trainables.classifiers.losses import LossConfig, soft_loss, soft_losses
from trainables.config import Annotated, Field, config
from trainables.data import DataConfig, DataSet, Split, Task
from trainables.data.sampling import BatchSampler
from trainables.devices import to_double
from trainables.files import CLASS_RESULTS
from trainables.finetune import FineTuned, labels_of
from trainables.head_job import HeadJob
from trainables.optim import OptimConfig
from trainables.outcomes import ImageOutcomes, image_outcomes
from trainables.plots.snapshots import confident_mistakes, write_arrays
from trainables.schedules import ScheduleConfig

_TOP = 5
_PROFILED_BATCHES = 4


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
    """Training uses the first of its two views."""
    normalize: Normalization = "imagenet"
    """Mean and standard deviation that normalise every channel, in every policy: those that a
    loaded backbone was trained with."""
    loss: LossConfig = LossConfig()
    balance: BalanceConfig = BalanceConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig = TrainConfig()
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of initialisation, order and augmentation."""

    def __post_init__(self) -> None:
        check_image_size(self)


class Classifier(FineTuned[ClassifierConfig, DataSet]):
    """A classifier on a `DataSet` in which every image has a label."""

    head: nn.Sequential

    def __init__(self, config: ClassifierConfig, data: DataSet):
        backbone = initial_backbone(config.backbone, config.init)
        head = build_head(config.head, backbone.feature_dim, len(data.classes))
        if config.head.kind == "fc1000":
            backbone = with_fc_stage(backbone, head[0], config.init)

        super().__init__(config, data, backbone, head)
        self.features = FrozenFeatures(config, data, self.augment)

        self.weights: Tensor | None
        self.register_buffer("weights", self._image_weights(), persistent=False)

    def _image_weights(self) -> Tensor | None:
        """Weight of an image of each class, (C,); None if all count equally. A model that only
        predicts has no training images to count."""
        balance = self.config.balance
        if balance.by == "none":
            return None

        labels = labels_of(self.data.train)
        counts = np.bincount(labels, minlength=len(self.data.classes))
        return image_weights(counts, balance)

    @classmethod
    def check_startup(cls, config: ClassifierConfig, data: DataSet) -> str:
        model = cls(config, data)
        clauses = (model.describe_start(), model.features.describe(model.backbone))
        return "; ".join(clause for clause in clauses if clause)

    @classmethod
    def objective_for(cls, data: DataSet) -> str:
        return "val/top1"

    @classmethod
    def objectives_for(cls, data: DataSet) -> tuple[str, ...]:
        return ("val/top1", "val/macro_f1", "val/balanced_accuracy")

    @classmethod
    def profiled_data(cls, config: ClassifierConfig, data: DataSet) -> DataSet:
        if why_not_cached(config):
            return data

        images = _PROFILED_BATCHES * config.train.batch_size
        few = replace(data.train, indices=data.train.indices[:images])
        return replace(data, train=few)

    def setup_seconds(self, data: DataSet) -> float:
        return self.features.setup_seconds(data)

    def costs(self) -> Metrics:
        return self.features.costs()

    def head_outside_stages(self) -> nn.Module:
        return self.head[1:] if "fc" in self.stages else self.head

    # -- a training step

    @classmethod
    def why_not_batched(cls, config: ClassifierConfig) -> str:
        if not config.features.cache:
            return "features.cache=False"
        return why_not_cached(config)

    def head_job(self) -> HeadJob | None:
        views = self.features.views
        if self.features.reason or views is None or "fc" in self.stages:
            return None
        cached = self._cached_features(views)
        if cached is None or len(self.head) == 2:  # fc1000
            return None

        config = self.config
        drawn = (views.digest, config.seed, config.train.batch_size, config.balance)
        return HeadJob(
            head=self.head,
            dropout=config.head.dropout if config.head.kind == "mlp" else 0.0,
            classes=len(self.data.classes),
            losses=soft_losses,
            label_smoothing=config.loss.label_smoothing,
            focal_gamma=config.loss.focal_gamma,
            weights=self.weights,
            features=torch.from_numpy(cached.rows),
            labels=torch.from_numpy(labels_of(self.data.train)),
            choose=views.choose,
            draw_key=(drawn, self.features.key),
            drawn=self.features.count,
        )

    def sampler(self) -> BatchSampler:
        if self.config.balance.by != "sampling":
            return super().sampler()
        labels = labels_of(self.data.train)
        return BalancedSampler(labels, self.config.train.batch_size, self.config.seed)

    def draw(self, positions: np.ndarray, generator: torch.Generator) -> Batch:
        train = self.data.train
        assert train.labels is not None
        targets = torch.from_numpy(train.labels[train.indices[positions]])
        if self.features.views is not None:
            return self._draw_fixed_views(self.features.views, positions, targets, generator)

        images = train.input_batch(positions)
        view = self.augment.draw(len(positions), generator)
        loss = self.config.loss
        if not loss.mixup and not loss.cutmix:
            return Batch(images, (view,), targets)

        mix = draw_mix(images, view, targets, loss.mixup, loss.cutmix, generator)
        return Batch(images, (view, mix), targets)

    def _draw_fixed_views(
        self,
        views: FixedViews,
        positions: np.ndarray,
        targets: Tensor,
        generator: torch.Generator,
    ) -> Batch:
        rows = views.choose(positions, generator)
        cached = self._cached_features(views)
        if cached is not None:
            return self.features.batch(cached, rows, targets)

        images = self.data.train.input_batch(positions)
        return Batch(images, (views.draws[torch.from_numpy(rows)],), targets)

    def forward(self, batch: Batch) -> Tensor:
        assert batch.targets is not None  # `draw` gives them
        truth = nn.functional.one_hot(batch.targets, len(self.data.classes)).float()

        features = batch.images  # cached features, for which no view is drawn
        if batch.draws:
            view, *mixes = batch.draws
            views = self.augment.apply(batch.images, view)
            for mix in mixes:
                views, truth = self._mixed(views, truth, mix)
            features = self.backbone(self.to_memory_format(views))

        logits = self.head(features).float()
        loss = self.config.loss
        return soft_loss(logits, truth, loss.label_smoothing, loss.focal_gamma, self.weights)

    def _mixed(self, views: Tensor, truth: Tensor, mix: Mix) -> tuple[Tensor, Tensor]:
        partner_views = self.augment.apply(mix.images, mix.draws)
        views, share = mix_views(views, partner_views, mix)

        partner_truth = nn.functional.one_hot(mix.targets, truth.shape[1])
        share = share[:, None]
        truth = share * truth + (1 - share) * partner_truth
        return views, truth

    # -- evaluation

    @torch.no_grad()
    def evaluate(self, split: Split, prefix: str) -> Metrics:
        self.eval()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.train.bf16):
            logits = self.head(self.split_features(split)).float()
        targets = torch.from_numpy(labels_of(split)).to(logits.device)

        predicted = logits.argmax(1)
        right = predicted == targets
        if prefix == "test":
            self._outcomes = self._image_outcomes(predicted, right)

        counts = confusion_counts(
            targets.cpu().numpy(), predicted.cpu().numpy(), len(self.data.classes)
        )
        metrics = {
            f"{prefix}/top1": to_double(right).mean().item(),
            f"{prefix}/macro_f1": macro_f1(counts),
            f"{prefix}/balanced_accuracy": balanced_accuracy(counts),
            f"{prefix}/loss": nn.functional.cross_entropy(logits, targets).item(),
        }
        if len(self.data.classes) > _TOP:
            among_top = (logits.topk(_TOP).indices == targets[:, None]).any(1)
            metrics[f"{prefix}/top{_TOP}"] = to_double(among_top).mean().item()
        return metrics

    def _image_outcomes(
        self,
        predicted: Tensor,  # (n,)
        right: Tensor,  # (n,) bool
    ) -> ImageOutcomes:
        """Outcomes of the test images in accuracy, and in the average that selects."""
        tested = {"test/top1": right.cpu().numpy()}
        ratios: dict[str, np.ndarray] = {}
        selecting = self.objective.removeprefix("val/").removesuffix(AVERAGED)
        if selecting != "top1":
            classes = len(self.data.classes)
            truth = labels_of(self.data.test)
            both = image_ratios(truth, predicted.cpu().numpy(), classes)
            ratios[f"test/{selecting}"] = both[selecting]
        return image_outcomes(self.data, tested, ratios)

    def split_features(self, split: Split) -> Tensor:
        if self.features.reason:
            return super().split_features(split)

        cached = self._cached_features(split)
        if cached is not None:
            return torch.from_numpy(cached.rows).to(self.device)

        # The cache is full. Other workers' caches may not be, so an exchange would hang.
        return torch.cat(list(self.backbone_features(self.evaluation_views(split))))

    def _cached_features(self, what: Split | FixedViews) -> Features | None:
        if isinstance(what, FixedViews):
            batches = what.batches(self.device)
        else:
            batches = self.evaluation_views(what)
        return self.features.cached(what, self.backbone, lambda: self.backbone_features(batches))

    @torch.no_grad()
    def snapshot_best(self, directory: Path, epoch: int) -> None:
        """Write `predictions-val.npz`, from which the confusion matrix and the most confident
        mistakes are drawn, and `classes.csv`, the per-class results."""
        self.eval()
        probabilities = self.head(self.split_features(self.data.val)).softmax(1)
        top = probabilities.max(1)
        confidence = top.values.cpu().numpy()
        predicted = top.indices.cpu().numpy()
        labels = labels_of(self.data.val)
        mistakes = confident_mistakes(labels, predicted, confidence)

        write_arrays(
            directory / "predictions-val.npz",
            mistakes=mistakes,
            images=self.data.val.batch(mistakes).numpy(),
            labels=labels,
            predicted=predicted,
            confidence=confidence,
            names=np.array(self.data.classes),
            epoch=epoch,
        )
        counts = confusion_counts(labels, predicted, len(self.data.classes))
        results = class_results(counts, self.data.classes)
        write_class_results(directory / CLASS_RESULTS, results)

    def calibrate(self) -> None:
        super().calibrate()
        self.features.forget()

    def load_export(self, path: Path) -> None:
        super().load_export(path)
        self.features.forget()


class Pretraining(Classifier):
    """A classifier on the classes that a data set reserves for pre-training; in `glyphs`, the
    letters that `ssl` sees without labels."""

    task: ClassVar[Task] = "pretrain"
