"""Bootstrap your own latent (Grill et al. 2020, https://arxiv.org/abs/2006.07733) through the
byol-pytorch package.

    python tune/run.py ssl                    # glyphs of matplotlib's fonts, minutes on two cores
    python tune/run.py ssl --data FOLDER      # ResNet50 at 128 px

Never choose by the BYOL loss: easier augmentation, or collapse, lowers it. The objective is
weighted kNN top-1 on held-out labels, or RankMe where a data set has no labels.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainables.augment.evaluation import evaluation_batches
from trainables.augment.view_config import ViewConfig
from trainables.augment.views import Augment
from trainables.backbone.export import load_backbone_state, save_backbone
from trainables.backbone.networks import BackboneConfig, build_backbone
from trainables.base import Batch, Metrics, Trainable, TrainConfig
from trainables.config import Annotated, Field, config
from trainables.data import DataConfig, DataSet, Split, load_dataset
from trainables.engine import distributed
from trainables.errors import TrialFailed
from trainables.metrics import OnlineProbe, calibrate_batchnorm, embedding_std, knn_top1, rankme
from trainables.optim import OptimConfig, ScheduleConfig, param_groups
from trainables.plots.snapshots import Part, shown_rows


@config
class HeadConfig:
    """Projector and predictor, and the momentum of the target network (sections 3.1 and 3.2)."""

    projection_size: Annotated[int, Field(ge=8, le=4096)] = 256
    """Width of the projection, in units."""
    hidden_size: Annotated[int, Field(ge=8, le=16384)] = 4096
    """Hidden width of projector and predictor, in units."""
    tau0: Annotated[float, Field(ge=0, lt=1)] = 0.996
    """Momentum of the moving average at step 0; rises to 1 along a cosine. Short runs want less:
    .97."""
    simplicial: bool = False
    """Simplicial embeddings before the projector (Lavoie et al. 2022). Not in the BYOL paper; the
    package's default is True."""


@config
class ValidationConfig:
    """How representations are judged."""

    knn_k: Annotated[int, Field(ge=1)] = 200
    """Neighbours of the weighted kNN (capped at the gallery's size)."""
    knn_temperature: Annotated[float, Field(gt=0)] = 0.1
    """Temperature of its weights exp(cosine / temperature)."""
    probe_steps: Annotated[int, Field(ge=0)] = 50
    """Steps that the linear probe learns at each validation (0 = no probe)."""
    probe_lr: Annotated[float, Field(gt=0)] = 0.1
    """Its learning rate."""
    collapse_std: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Collapsed where the std of normalised projections x sqrt(d) is below this (1 isotropic, 0 a
    point)."""
    collapse_epochs: Annotated[int, Field(ge=1)] = 2
    """End the trial after so many collapsed epochs in a row."""


@config
class BYOLConfig:
    """A BYOL pre-training run."""

    data: DataConfig = DataConfig()
    backbone: BackboneConfig = BackboneConfig()
    head: HeadConfig = HeadConfig()
    aug: ViewConfig = ViewConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig = TrainConfig()
    val: ValidationConfig = ValidationConfig()
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of initialisation, order and augmentation."""


class DrawnView(nn.Module):
    """The package calls `augment_fn(images)`; the parameters of the draw are laid ready beforehand,
    one set an image."""

    def __init__(self, augment: Augment):
        super().__init__()
        self.augment = augment
        self.draws: Any = None
        self.channels_last = False

    def forward(self, images: Tensor) -> Tensor:
        if self.draws is None:  # the constructor's mock forward: a float image of the right size
            return images
        views = self.augment.apply(images, self.draws)
        return views.contiguous(memory_format=torch.channels_last) if self.channels_last else views


class BYOL(Trainable):
    """BYOL on a `DataSet`; labels are used for validation alone."""

    min_batch_size = 2  # BatchNorm of the projector

    def __init__(self, config: BYOLConfig, data: DataSet):
        # Here: torchvision, accelerate and boto3 come with it, seconds that a process which builds
        # no network (a driver) need not wait.
        import byol_pytorch.byol_pytorch as package

        # With several workers the package takes SyncBatchNorm, which refuses a CPU, for some of its
        # layers; the engine synchronises all.
        package.MaybeSyncBatchnorm = lambda is_distributed=None: nn.BatchNorm1d
        super().__init__()
        self.config, self.data = config, data
        self.labelled = data.gallery is not None
        size, head = config.data.image_size, config.head
        backbone = build_backbone(config.backbone)
        self.views = tuple(DrawnView(Augment(view, size)) for view in config.aug.views())
        self.normalize = config.aug.views()[0].normalize
        self.learner = package.BYOL(
            backbone,
            image_size=size,
            hidden_layer=-1,
            projection_size=head.projection_size,
            projection_hidden_size=head.hidden_size,
            augment_fn=self.views[0],
            augment_fn2=self.views[1],
            use_simplicial_embeddings=head.simplicial,
        )
        # The package's constructor has run a random image through the network: forget those
        # BatchNorm statistics.
        for module in self.learner.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.reset_running_stats()
        feature_dim: int = backbone.feature_dim  # type: ignore[assignment]
        self.probe = (
            OnlineProbe(feature_dim, len(data.classes))
            if self.labelled and config.val.probe_steps
            else None
        )
        self._probe_knows = False  # the backbone as it is
        if config.train.channels_last:
            self.to(memory_format=torch.channels_last)
            for view in self.views:
                view.channels_last = True
        if config.train.compile:
            self.backbone.compile()
            self.learner.target_encoder.net.compile()
        self.tau = head.tau0

    @classmethod
    def load_data(cls, config: DataConfig, progress: bool = False) -> DataSet:
        return load_dataset(config, task="ssl", progress=progress)

    @property
    def backbone(self) -> nn.Module:
        return self.learner.online_encoder.net

    def network(self) -> nn.Module:
        """The online network; the target has the same backbone and projector, and neither
        trains."""
        encoder, predictor = self.learner.online_encoder, self.learner.online_predictor
        return nn.Sequential(
            OrderedDict(backbone=encoder.net, projector=encoder.projector, predictor=predictor)
        )

    @classmethod
    def objective_for(cls, data: DataSet) -> str:
        return "val/knn_top1" if data.gallery is not None else "val/rankme"

    def draw(self, positions: np.ndarray, generator: torch.Generator) -> Batch:
        draws = tuple(view.augment.draw(len(positions), generator) for view in self.views)
        return Batch(self.data.train.batch(positions), draws)

    def forward(self, batch: Batch) -> Tensor:
        for view, draws in zip(self.views, batch.draws, strict=True):
            view.draws = draws
        return self.learner(batch.images)

    def param_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        return param_groups(self.learner, weight_decay)  # the probe learns at validation, by itself

    def before_step(self, step: int, total_steps: int) -> None:
        self.tau = momentum_at(step, total_steps, self.config.head.tau0)
        self.learner.target_ema_updater.beta = self.tau

    @torch.no_grad()
    def after_step(self) -> None:
        # The package's own update reallocates every parameter; this is the same average, in place
        # and in one call.
        target, online = self.learner.target_encoder, self.learner.online_encoder
        torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), 1 - self.tau)

    def validate(self) -> Metrics:
        return self.evaluate(self.data.val, "val")

    def test(self) -> Metrics:
        return self.evaluate(self.data.test, "test")

    def evaluate(self, split: Split, prefix: str) -> Metrics:
        val = self.config.val
        features, projections = self._embed(split)
        metrics = {
            f"{prefix}/rankme": rankme(features),
            f"{prefix}/std": embedding_std(projections),
        }
        if self.labelled:
            gallery, _ = self._embed(self.data.gallery)
            gallery_labels = torch.from_numpy(self.data.gallery.targets()).to(gallery.device)
            labels = torch.from_numpy(split.targets()).to(gallery.device)
            metrics[f"{prefix}/knn_top1"] = knn_top1(
                gallery,
                gallery_labels,
                features,
                labels,
                k=val.knn_k,
                temperature=val.knn_temperature,
            )
            if self.probe is not None:
                if prefix == "val" or not self._probe_knows:
                    generator = torch.Generator().manual_seed(self.config.seed)
                    self.probe.fit(
                        gallery,
                        gallery_labels,
                        steps=val.probe_steps,
                        lr=val.probe_lr,
                        generator=generator,
                    )
                    self._probe_knows = True
                metrics[f"{prefix}/probe_top1"] = self.probe.accuracy(features, labels)
        return metrics

    @torch.no_grad()
    def _embed(self, split: Split) -> tuple[Tensor, Tensor]:
        """Backbone features (n, D) and projections (n, P), float32, in eval mode."""
        self.eval()
        features, projections = [], []
        for images in self._eval_batches(split):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.train.bf16):
                projection, feature = self.learner.online_encoder(images)
            features.append(feature.float())
            projections.append(projection.float())
        return distributed.gather_rows(torch.cat(features), len(split)), distributed.gather_rows(
            torch.cat(projections), len(split)
        )

    def _eval_batches(self, split: Split, limit: int | None = None) -> Iterator[Tensor]:
        """This worker's share of the split."""
        mine = distributed.shard(len(split) if limit is None else min(limit, len(split)))
        return evaluation_batches(split, mine, self.config, self.normalize, self.device)

    def embeddings(self, part: Part) -> tuple[np.ndarray, np.ndarray | None]:
        split = self.data.train if part == "train" else self.data.val
        labels = split.targets() if self.labelled else None
        rows = shown_rows(np.full(len(split), -1) if labels is None else labels)
        features, _ = self._embed(replace(split, indices=split.indices[rows]))
        return features.cpu().numpy(), None if labels is None else labels[rows]

    def calibrate(self) -> None:
        calibrate_batchnorm(
            self.learner.online_encoder, self._eval_batches(self.data.train, limit=4096)
        )

    def check(self, history: list[Metrics]) -> None:
        val = self.config.val
        recent = [m["val/std"] for m in history[-val.collapse_epochs :]]
        if len(recent) == val.collapse_epochs and max(recent) < val.collapse_std:
            raise TrialFailed(
                "collapse",
                f"std of the projections below {val.collapse_std} for {val.collapse_epochs} epochs: {recent}",
            )

    def export(self, path: Path, meta: dict[str, Any]) -> None:
        save_backbone(
            path,
            self.backbone,
            meta | {"backbone": asdict(self.config.backbone), "normalize": self.normalize},
        )

    def load_export(self, path: Path) -> None:
        self.backbone.load_state_dict(load_backbone_state(path))
        self._probe_knows = False


def momentum_at(step: int, total_steps: int, tau0: float) -> float:
    """1 - (1 - tau0) (cos(pi k / K) + 1) / 2: from tau0 at the first step to 1 at the end (section
    3.2)."""
    return 1 - (1 - tau0) * (math.cos(math.pi * step / total_steps) + 1) / 2
