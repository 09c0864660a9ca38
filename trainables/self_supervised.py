"""Self-supervised pre-training apart from its method: views, validation by labels that training
does not see, collapse, calibration, export.

`byol.py`, `simclr.py`, `moco.py`, `vicreg.py` and `dino.py` are the methods: networks and loss.
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
"""Training images that give BatchNorm its statistics before the network is judged."""
_EARLIER_CALIBRATION_IMAGES = 4096
_RANK = "val/view_rank"
_RETRIEVAL = "val/view_retrieval"
_WITHOUT_LABELS = {1: "val/rankme", 2: _RETRIEVAL, 3: _RANK}
"""Version of `train.rules` -> what selects on images without labels."""
_VIEWED_IMAGES = 1000
"""Largest number of images whose views look for each other."""


@config
class ValidationConfig:
    """Evaluation of representations: neighbours, linear probe, collapse."""

    knn_k: Annotated[int, Field(ge=1)] = 200
    """Neighbours of the weighted kNN (capped at the gallery's size)."""
    knn_temperature: Annotated[float, Field(gt=0)] = 0.1
    """Temperature of its weights exp(cosine / temperature)."""
    probe_steps: Annotated[int, Field(ge=0)] = 50
    """0 = no linear probe; otherwise it is fitted to convergence at each validation, whatever the
    number, which had a meaning in earlier versions."""
    probe_lr: Annotated[float, Field(gt=0)] = 0.1
    """Without effect: the linear probe's learning rate in earlier versions."""
    collapse_std: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Threshold of collapse, for the standard deviation of normalised projections times sqrt(d) (1
    where they are isotropic, 0 in a point)."""
    collapse_epochs: Annotated[int, Field(ge=1)] = 2
    """Collapsed epochs in a row that end the trial."""


@config
class SelfSupervisedConfig:
    """A pre-training run without labels, apart from its method."""

    data: DataConfig = DataConfig()
    backbone: BackboneConfig = BackboneConfig()
    aug: ViewConfig = ViewConfig()
    normalize: Normalization | Literal["policy"] = "imagenet"
    """Mean and standard deviation that every channel is normalised with, in every policy. policy:
    those that `aug.policy` names, as in earlier studies, where a search of policies therefore
    changed both at once."""
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
        """Projections g(f(v)), and the features f(v) that pre-training is for."""
        features = self.backbone(views)
        return self.projector(features), features


MethodConfigT = TypeVar("MethodConfigT", bound=SelfSupervisedConfig)


class SelfSupervised(Trainable[MethodConfigT, DataSet]):
    """A backbone that learns from a `DataSet` without labels, which are used for validation alone.

    A method derives from it, makes its networks in `build_learner`, names the encoder that is
    judged, and returns its loss from `forward`. Without a method this serves a trained backbone.
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
        self._probe_is_fitted = False  # to the backbone as it is
        self._fixed_views: FixedViews | None = None
        self._views_metric = self.objective.removesuffix(AVERAGED)
        if self._views_metric in (_RANK, _RETRIEVAL):
            self._fixed_views = FixedViews(_VIEWED_IMAGES, size, self.normalize, config.data.up)
        self._outcomes: ImageOutcomes | None = None  # of the last `test`

        self.memory_format = torch.contiguous_format
        if config.train.channels_last:
            self.memory_format = torch.channels_last
            self.to(memory_format=torch.channels_last)
        if config.train.compile:
            for network in self.compiled_networks():
                network.compile()

    def build_learner(self, backbone: nn.Module, feature_dim: int) -> nn.Module:
        """Make the networks of the method around the backbone, whose features are (n,
        feature_dim)."""
        return Encoder(backbone, nn.Identity())

    def view_policies(self) -> tuple[AugmentConfig, ...]:
        """Policies of the two views, in the study's normalisation."""
        config = self.config
        jitter_first = config.train.rules > 1
        policies = tuple(replace(view, jitter_first=jitter_first) for view in config.aug.views())
        if config.normalize != "policy":
            policies = tuple(replace(view, normalize=config.normalize) for view in policies)
        return policies

    def build_views(self, policies: tuple[AugmentConfig, ...]) -> tuple[Augment, ...]:
        """Make the views of a training step: here one of each policy."""
        return tuple(Augment(policy, self.config.data.image_size) for policy in policies)

    @property
    def min_batch_size(self) -> int:
        """Two, for BatchNorm of the projector."""
        return 2

    @property
    def encoder(self) -> nn.Module:
        """The network that is judged: views (n, 3, S, S) to projections (n, P) and features
        (n, D)."""
        return self.learner

    def spread_out(
        self,
        features: Tensor,  # (n, D)
        projections: Tensor,  # (n, P)
    ) -> Tensor:
        """Choose the embeddings whose spread tells a collapse: the projections."""
        return projections

    @property
    def backbone(self) -> nn.Module:
        """The backbone f, which is what pre-training is for."""
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
        """The network that learns by gradients."""
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
        # Without the probe, which learns at validation with an optimizer of its own.
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
        """RankMe, spread of projections and, where there are labels, kNN and probe accuracy, named
        `<prefix>/...`; how well views find each other where that is the objective."""
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
        """Tell which images kNN and the linear probe classify right."""
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
        """Measure how well the fixed views of a split's images find each other, or of as many of
        them at even steps as there are views; by rank also the images as they are."""
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
        """Give BatchNorm the statistics of training images as they are judged, without
        augmentation: those that training leaves are of augmented ones, and of earlier weights.

        Judged, exported and drawn is the network that this leaves."""
        if self.config.train.rules == 1:
            batches = self._eval_batches(self.data.train, limit=_EARLIER_CALIBRATION_IMAGES)
        else:
            batches = self._calibration_batches()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.train.bf16):
            calibrate_batchnorm(self.encoder, batches)

    def _calibration_batches(self) -> Iterator[Tensor]:
        """This worker's share (b, 3, S, S) of each batch of training images at even steps, all of
        one size: each counts the same, and all workers come to each."""
        images = even_part(self.data.train, _CALIBRATION_IMAGES)
        size = batch_size(self.config.data.image_size)
        for start in range(0, max(1, len(images) - size + 1), size):
            stop = min(start + size, len(images))
            share = distributed.shard(stop - start)
            rows = range(start + share.start, start + share.stop)
            yield from evaluation_batches(images, rows, self.config, self.normalize, self.device)

    def check(self, history: list[Metrics]) -> None:
        """Raise `TrialFailed` (`collapse`) where the last epochs' projections lie in a point."""
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
