"""Common base of the self-supervised methods: views, validation by labels that training does not
see, collapse, calibration, export.

The methods define networks and loss: `byol.py`, `simclr.py`, `moco.py`, `vicreg.py`, `dino.py`.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from trainables.augment.evaluation import batch_size, evaluation_batches
from trainables.augment.fixed_views import FixedViews, even_part, even_positions
from trainables.augment.image_ops import Normalization
from trainables.augment.view_config import AugmentConfig, ViewConfig
from trainables.augment.views import Augment
from trainables.backbone.export import load_backbone_state, save_backbone
from trainables.backbone.networks import BackboneConfig, build_backbone
from trainables.backbone.timm_networks import check_timm_size, is_timm
from trainables.base import AVERAGED, Batch, Metrics, Trainable, TrainConfig
from trainables.config import Annotated, Field, config
from trainables.data import DataConfig, DataSet, Split, load_dataset
from trainables.data.seen import SeenRecord, Training
from trainables.devices import send
from trainables.engine import distributed
from trainables.engine.compilation import compile_networks
from trainables.errors import TrialFailed
from trainables.metrics import (
    OnlineProbe,
    calibrate_batchnorm,
    embedding_std,
    knn_right,
    rankme,
    share,
    view_rank,
    view_retrieval,
)
from trainables.optim import OptimConfig, param_groups
from trainables.outcomes import ImageOutcomes, image_outcomes
from trainables.plots.snapshots import Part, shown_rows
from trainables.schedules import ScheduleConfig

_CALIBRATION_IMAGES = 1024
"""Training images from which BatchNorm takes its statistics before the network is evaluated."""
_EARLIER_CALIBRATION_IMAGES = 4096
_RANK = "val/view_rank"
_RETRIEVAL = "val/view_retrieval"
_WITHOUT_LABELS = {1: "val/rankme", 2: _RETRIEVAL, 3: _RANK}
"""Version of `train.rules` -> metric that selects on images without labels."""
_VIEWED_IMAGES = 1000
"""Largest number of images whose views are matched."""


@config
class ValidationConfig:
    """Evaluation of representations: neighbours, linear probe, collapse."""

    knn_k: Annotated[int, Field(ge=1)] = 200
    """Neighbours of the weighted kNN (capped at the gallery's size)."""
    knn_temperature: Annotated[float, Field(gt=0)] = 0.1
    """Temperature of its weights exp(cosine / temperature)."""
    probe_steps: Annotated[int, Field(ge=0)] = 50
    """0 = no linear probe. Any other value fits it to convergence at each validation; the number
    itself mattered only in earlier versions."""
    probe_lr: Annotated[float, Field(gt=0)] = 0.1
    """No effect: the linear probe's learning rate in earlier versions."""
    collapse_std: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Collapse threshold for the standard deviation of normalised projections times sqrt(d) (1 if
    they are isotropic, 0 if they coincide)."""
    collapse_epochs: Annotated[int, Field(ge=1)] = 2
    """Number of collapsed epochs in a row that ends the trial."""


@config
class SelfSupervisedConfig:
    """A pre-training run without labels, with settings common to all methods."""

    data: DataConfig = DataConfig()
    backbone: BackboneConfig = BackboneConfig()
    aug: ViewConfig = ViewConfig()
    normalize: Normalization | Literal["policy"] = "imagenet"
    """Mean and standard deviation that normalise every channel, in every policy. policy: those that
    `aug.policy` implies, as in earlier studies. There, a search over policies changed both at
    once."""
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig = TrainConfig()
    val: ValidationConfig = ValidationConfig()
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of initialisation, order and augmentation."""

    def __post_init__(self) -> None:
        if is_timm(self.backbone.name):
            size = self.data.image_size
            check_timm_size(self.backbone.name, size, size)


class Encoder(nn.Module):
    """A backbone f and a projector g."""

    def __init__(self, backbone: nn.Module, projector: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.projector = projector

    def forward(
        self,
        views: Tensor,  # (n, 3, S, S)
    ) -> tuple[Tensor, Tensor]:  # (n, P) and (n, D)
        """Projections g(f(v)), and features f(v), the result of pre-training."""
        features = self.backbone(views)
        return self.projector(features), features


MethodConfigT = TypeVar("MethodConfigT", bound=SelfSupervisedConfig)


class SelfSupervised(Trainable[MethodConfigT, DataSet]):
    """A backbone that learns from a `DataSet` without labels; labels are used only for validation.

    A method is a subclass. It builds its networks in `build_learner`, sets `encoder` to the one
    that is evaluated, and returns its loss from `forward`. This class itself serves a trained
    backbone.
    """

    learner: nn.Module

    def __init__(self, config: MethodConfigT, data: DataSet):
        super().__init__()
        self.config = config
        self.data = data
        self.labelled = data.gallery is not None
        size = config.data.image_size

        backbone = build_backbone(config.backbone)
        feature_dim: int = backbone.feature_dim  # type: ignore[assignment]
        policies = self.view_policies()
        self.views = self.build_views(policies)
        self.normalize = policies[0].normalize
        self.learner = self.build_learner(backbone, feature_dim)

        self.probe: OnlineProbe | None = None
        if self.labelled and config.val.probe_steps:
            self.probe = OnlineProbe(feature_dim, len(data.classes))
        self._probe_is_fitted = False  # to the current backbone
        self._fixed_views: FixedViews | None = None
        self._views_metric = self.objective.removesuffix(AVERAGED)
        if self._views_metric in (_RANK, _RETRIEVAL):
            self._fixed_views = FixedViews(_VIEWED_IMAGES, size, self.normalize, config.data.up)
        self._outcomes: ImageOutcomes | None = None  # of the last `test`

        self.memory_format = torch.contiguous_format
        if config.train.channels_last:
            self.memory_format = torch.channels_last
            self.to(memory_format=torch.channels_last)
        compile_networks(self.compiled_networks(), config.train)

    def build_learner(self, backbone: nn.Module, feature_dim: int) -> nn.Module:
        """Build the method's networks around the backbone, whose features are (n,
        feature_dim)."""
        return Encoder(backbone, nn.Identity())

    def view_policies(self) -> tuple[AugmentConfig, ...]:
        """Policies of the two views, with the study's normalisation."""
        config = self.config
        jitter_first = config.train.rules > 1
        policies = tuple(replace(view, jitter_first=jitter_first) for view in config.aug.views())
        if config.normalize != "policy":
            policies = tuple(replace(view, normalize=config.normalize) for view in policies)
        return policies

    def build_views(self, policies: tuple[AugmentConfig, ...]) -> tuple[Augment, ...]:
        """Build the views of a training step; by default one per policy."""
        return tuple(Augment(policy, self.config.data.image_size) for policy in policies)

    @property
    def min_batch_size(self) -> int:
        """Two, for BatchNorm of the projector."""
        return 2

    @property
    def encoder(self) -> nn.Module:
        """The network that is evaluated: views (n, 3, S, S) to projections (n, P) and features
        (n, D)."""
        return self.learner

    def spread_out(
        self,
        features: Tensor,  # (n, D)
        projections: Tensor,  # (n, P)
    ) -> Tensor:
        """Choose the embeddings whose spread reveals a collapse: the projections."""
        return projections

    @property
    def backbone(self) -> nn.Module:
        """The backbone f, the result of pre-training."""
        backbone: nn.Module = self.encoder.backbone  # type: ignore[assignment]
        return backbone

    def compiled_networks(self) -> list[nn.Module]:
        """Networks that `train.compile` compiles."""
        return [self.backbone]

    @classmethod
    def load_data(cls, config: DataConfig, progress: bool = False) -> DataSet:
        return load_dataset(config, task="ssl", progress=progress)

    @classmethod
    def objective_for(cls, data: DataSet) -> str:
        return "val/knn_top1" if data.gallery is not None else _RANK

    @classmethod
    def objectives_for(cls, data: DataSet) -> tuple[str, ...]:
        if data.gallery is not None:
            return ("val/knn_top1", _RANK, _RETRIEVAL)
        return (_RANK, _RETRIEVAL, "val/rankme")

    @classmethod
    def chosen_objective(cls, config: MethodConfigT, data: DataSet) -> str:
        if data.gallery is None and not config.train.objective:
            return _WITHOUT_LABELS[config.train.rules]
        return super().chosen_objective(config, data)

    def network(self) -> nn.Module:
        """The network that is trained by gradients."""
        projector: nn.Module = self.encoder.projector  # type: ignore[assignment]
        return nn.Sequential(OrderedDict(backbone=self.backbone, projector=projector))

    def draw(self, positions: np.ndarray, generator: torch.Generator) -> Batch:
        draws = tuple(view.draw(len(positions), generator) for view in self.views)
        return Batch(self.data.train.input_batch(positions), draws)

    def forward(self, batch: Batch) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no method to learn by")

    def augmented(self, batch: Batch) -> list[Tensor]:
        """All augmented views of a batch, (B, 3, S, S) each."""
        return [
            view.apply(batch.images, draws).contiguous(memory_format=self.memory_format)
            for view, draws in zip(self.views, batch.draws, strict=True)
        ]

    def param_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        # Without the probe, which is fitted at validation by its own optimizer.
        return param_groups(self.learner, weight_decay)

    def validate(self) -> Metrics:
        if self.config.train.rules > 1:
            self.calibrate()
        return self.evaluate(self.data.val, "val")

    def test(self) -> Metrics:
        return self.evaluate(self.data.test, "test")

    def test_outcomes(self) -> ImageOutcomes | None:
        return self._outcomes

    def evaluate(self, split: Split, prefix: str) -> Metrics:
        """RankMe, spread of projections and, with labels, kNN and probe accuracy, named
        `<prefix>/...`. If matching of views is the objective, that metric too."""
        features, projections = self._embed(split)
        metrics = {
            f"{prefix}/rankme": rankme(features),
            f"{prefix}/std": embedding_std(self.spread_out(features, projections)),
        }
        if self._fixed_views is not None:
            name = self._views_metric.replace("val/", f"{prefix}/")
            metrics[name] = self._views_found(split, features, self._fixed_views)
        if self.data.gallery is None:
            return metrics

        right = self._classified(features, split, self.data.gallery, prefix)
        if prefix == "test":
            answers = {name: answer.cpu().numpy() for name, answer in right.items()}
            self._outcomes = image_outcomes(self.data, answers)
        return metrics | {name: share(answer) for name, answer in right.items()}

    def _classified(
        self,
        features: Tensor,  # (n, D), of `split`
        split: Split,
        gallery: Split,
        prefix: str,
    ) -> dict[str, Tensor]:  # name -> (n,) bool
        """Return which images kNN and the linear probe classify right."""
        val = self.config.val
        known, _ = self._embed(gallery)
        known_labels = send(torch.from_numpy(gallery.targets()), known.device)
        labels = send(torch.from_numpy(split.targets()), known.device)
        right = {}
        right[f"{prefix}/knn_top1"] = knn_right(
            known,
            known_labels,
            features,
            labels,
            k=val.knn_k,
            temperature=val.knn_temperature,
        )
        if self.probe is not None:
            if prefix == "val" or not self._probe_is_fitted:
                self.probe.fit(known, known_labels)
                self._probe_is_fitted = True
            right[f"{prefix}/probe_top1"] = self.probe.right(features, labels)
        return right

    def _views_found(
        self,
        split: Split,
        features: Tensor,  # (n, D), of `split`
        views: FixedViews,
    ) -> float:
        """Measure how well fixed views of a split's images find each other. A large split is
        sampled at even steps, one image per view. `view_rank` also uses the unaugmented images."""
        images = even_part(split, views.count)
        rows = distributed.shard(len(images))
        first, second = (
            self._embed_batches(views.batches(images, rows, view, self.device), len(images))[0]
            for view in (0, 1)
        )
        if self._views_metric == _RETRIEVAL:
            return view_retrieval(first, second)

        positions = torch.from_numpy(even_positions(len(split), views.count))
        plain = features[positions.to(features.device)]
        return view_rank([first, second, plain])

    def _embed(self, split: Split) -> tuple[Tensor, Tensor]:
        """Backbone features (n, D) and projections (n, P), float32, in eval mode."""
        return self._embed_batches(self._eval_batches(split), len(split))

    @torch.no_grad()
    def _embed_batches(
        self,
        batches: Iterator[Tensor],  # (b, 3, S, S) each: this worker's share of n images
        length: int,  # n
    ) -> tuple[Tensor, Tensor]:  # (n, D) and (n, P)
        self.eval()
        features, projections = [], []
        for images in batches:
            images = images.contiguous(memory_format=self.memory_format)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.train.bf16):
                projection, feature = self.encoder(images)
            features.append(feature.float())
            projections.append(projection.float())
        return (
            distributed.gather_rows(torch.cat(features), length),
            distributed.gather_rows(torch.cat(projections), length),
        )

    def _eval_batches(self, split: Split, limit: int | None = None) -> Iterator[Tensor]:
        """Evaluation views (b, 3, S, S) of this worker's share of the split, or of its first
        `limit` images."""
        images = len(split) if limit is None else min(limit, len(split))
        share = distributed.shard(images)
        return evaluation_batches(split, share, self.config, self.normalize, self.device)

    def embeddings(self, part: Part) -> tuple[np.ndarray, np.ndarray | None]:
        split = self.data.train if part == "train" else self.data.val
        labels = split.targets() if self.labelled else None
        rows = shown_rows(np.full(len(split), -1) if labels is None else labels)
        features, _ = self._embed(replace(split, indices=split.indices[rows]))
        return features.cpu().numpy(), None if labels is None else labels[rows]

    def calibrate(self) -> None:
        """Set BatchNorm statistics from unaugmented training images, as used in evaluation.
        Training leaves statistics of augmented images and of earlier weights.

        The resulting network is evaluated, exported and used for pictures."""
        if self.config.train.rules == 1:
            batches = self._eval_batches(self.data.train, limit=_EARLIER_CALIBRATION_IMAGES)
        else:
            batches = self._calibration_batches()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.train.bf16):
            calibrate_batchnorm(self.encoder, batches)

    def _calibration_batches(self) -> Iterator[Tensor]:
        """This worker's share (b, 3, S, S) of batches of training images at even steps. All batches
        have one size, so each counts the same and all workers get the same number of them."""
        images = even_part(self.data.train, _CALIBRATION_IMAGES)
        size = batch_size(self.config.data.image_size)
        for start in range(0, max(1, len(images) - size + 1), size):
            stop = min(start + size, len(images))
            share = distributed.shard(stop - start)
            rows = range(start + share.start, start + share.stop)
            yield from evaluation_batches(images, rows, self.config, self.normalize, self.device)

    def check(self, history: list[Metrics]) -> None:
        """Raise `TrialFailed` (`collapse`) if projections nearly coincide in the last epochs."""
        val = self.config.val
        recent = [metrics["val/std"] for metrics in history[-val.collapse_epochs :]]
        if len(recent) == val.collapse_epochs and max(recent) < val.collapse_std:
            raise TrialFailed(
                "collapse",
                f"std of the projections below {val.collapse_std} for {val.collapse_epochs} "
                f"epochs: {recent}",
            )

    def export(self, path: Path, meta: dict[str, Any]) -> None:
        about = {"backbone": asdict(self.config.backbone), "normalize": self.normalize}
        training = Training.on(self.data, self.config.data.seed, labels=False)
        save_backbone(path, self.backbone, meta | about, seen=SeenRecord().then(training))

    def load_export(self, path: Path) -> None:
        self.backbone.load_state_dict(load_backbone_state(path))
        self._probe_is_fitted = False
