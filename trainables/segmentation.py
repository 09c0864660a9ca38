"""Semantic segmentation: a backbone under a decoder, on data with masks.

    python tune/run.py segment                                  # U-Net on the tiny backbone, on tiles of the earth
    python tune/run.py segment --backbone STUDY[/TRIAL]         # from a backbone that `ssl` or `pretrain` has trained

The objective is val/miou, the course's (`miou.py`): classes pooled over the set, predictions on
unknown pixels counted as wrong.
"""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from trainables.augment.image_ops import Normalization
from trainables.augment.joint_augment import JointAugment, JointAugmentConfig
from trainables.backbone.freezing import FreezeConfig
from trainables.backbone.networks import BackboneConfig, load_backbone_meta, save_backbone
from trainables.backbone.weights import Loaded, load_backbone
from trainables.base import Batch, Metrics, Trainable, TrainConfig
from trainables.config import Annotated, Field, config
from trainables.data import EMBEDDED, IGNORE, DataConfig, DataSet, Split, Task
from trainables.engine import distributed
from trainables.errors import UserError
from trainables.finetune import FineTuned, InitConfig
from trainables.metrics import calibrate_batchnorm
from trainables.miou import confusion_matrix, segmentation_metrics
from trainables.optim import OptimConfig, ScheduleConfig
from trainables.plots.snapshots import Part, shown_rows, write_arrays
from trainables.segmenters.losses import (
    SegmentationLossConfig,
    class_weights,
    cross_entropy,
    segmentation_loss,
)
from trainables.segmenters.networks import (
    SMALLEST,
    ModelConfig,
    build_backbone_of,
    build_segmenter,
    decoder,
    segmenter_stages,
)

_CALIBRATION_PIXELS = 1 << 24
_COUNTED = 512  # training masks whose pixels tell the classes' shares
_REPORTED = (13, 62, 104, 10, 97, 107)
_SHOWN_SIDE = 256  # px of an image in a picture, at most
_SHOWN = 3


@config
class SegmentationConfig:
    """A training run of a segmentation network."""

    data: DataConfig = DataConfig(name="earth", image_size=64)
    model: ModelConfig = ModelConfig()
    backbone: BackboneConfig = BackboneConfig()
    """The encoder of model.name=unet; other models name theirs."""
    init: InitConfig = InitConfig()
    freeze: FreezeConfig = FreezeConfig()
    aug: JointAugmentConfig = JointAugmentConfig()
    normalize: Normalization = "imagenet"
    """Mean and standard deviation taken off each channel: those that a loaded backbone was trained
    with."""
    loss: SegmentationLossConfig = SegmentationLossConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig = TrainConfig()
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of initialisation, order and augmentation."""

    def __post_init__(self) -> None:
        if self.data.image_size < SMALLEST:
            raise ValueError(
                f"segmentation needs data.image_size >= {SMALLEST}, but got {self.data.image_size}"
            )
        self.model.encoder(self.backbone)


class Segmentation(FineTuned):
    """A segmentation network on a `DataSet` with masks."""

    task: ClassVar[Task] = "segment"
    _eval_pixels: ClassVar[int] = 1 << 20  # decoders work at full resolution

    def __init__(self, config: SegmentationConfig, data: DataSet):
        Trainable.__init__(self)
        self.config, self.data = config, data
        encoder, init = config.model.encoder(config.backbone), config.init
        backbone = build_backbone_of(config.model, config.backbone)
        self.loaded: Loaded | None = None
        if init.file:
            check_encoder(config, Path(init.file))
            self.loaded = load_backbone(backbone, encoder, Path(init.file), init.sha256)
        classes, auxiliary = len(data.classes), config.loss.aux_weight > 0
        self.net = build_segmenter(
            config.model, backbone, classes, auxiliary=auxiliary, loaded=self.loaded is not None
        )
        self.stages = segmenter_stages(self.net)
        self.joint = JointAugment(config.aug, config.data.image_size, config.normalize)
        weights = (
            class_weights(class_pixels(data.train, classes), config.loss.class_power)
            if config.loss.name == "weighted_ce"
            else None
        )
        self.weights: Tensor | None
        self.register_buffer("weights", weights, persistent=False)
        self._accuracies = np.empty(0)  # (n,) of the validation images, at the last `validate`
        self._confusion = torch.empty(0)
        self._freeze(0)
        if config.train.channels_last:
            self.to(memory_format=torch.channels_last)
        if config.train.compile:
            self.net.compile()

    @property
    def backbone(self) -> nn.Module:  # type: ignore[override]
        return self.net.backbone

    @property
    def head(self) -> nn.Module:  # type: ignore[override]
        return decoder(self.net)

    def make_head(self, feature_dim: int) -> nn.Module:
        """What is not the backbone; `build_segmenter` has made it."""
        return decoder(self.net)

    def network(self) -> nn.Module:
        return self.net

    @classmethod
    def check_startup(cls, config: SegmentationConfig, data: DataSet) -> str:
        return cls(config, data).describe_start()

    @classmethod
    def objective_for(cls, data: DataSet) -> str:
        return "val/miou"

    def draw(self, positions: np.ndarray, generator: torch.Generator) -> Batch:
        draws = self.joint.draw(len(positions), generator)
        return Batch(self.data.train.batch(positions), (draws,), self.data.train.masks(positions))

    def forward(self, batch: Batch) -> Tensor:
        assert batch.targets is not None  # `draw` gives them: (B, H, W) uint8
        views, masks = self.joint.apply(batch.images, batch.targets, batch.draws[0])
        logits, auxiliary = self.net(self.to_memory_format(views))
        loss, truth = self.config.loss, masks.long()
        total = segmentation_loss(logits.float(), truth, loss, self.weights)
        if auxiliary is not None:
            total = total + loss.aux_weight * segmentation_loss(
                auxiliary.float(), truth, loss, self.weights
            )
        return total

    @torch.no_grad()
    def evaluate(self, split: Split, prefix: str) -> Metrics:
        classes = len(self.data.classes)
        confusion = torch.zeros(classes, classes + 1, dtype=torch.int64, device=self.device)
        loss, right = (
            torch.zeros((), dtype=torch.float64, device=self.device),
            [torch.empty(0, device=self.device)],
        )
        for logits, masks in self._predictions(split, shared=True):
            predicted = logits.argmax(1)
            confusion += confusion_matrix(predicted, masks, classes)
            loss += cross_entropy(logits, masks.long()).double() * masks.numel()
            known = (masks != IGNORE).flatten(1).sum(1)
            right.append((predicted == masks).flatten(1).sum(1) / known.clamp_min(1))
        confusion = distributed.all_sum(confusion)
        if prefix == "val":
            self._confusion = confusion.cpu()
            self._accuracies = distributed.gather_rows(torch.cat(right), len(split)).cpu().numpy()
        mean = distributed.all_sum(loss).item() / max(1, int(confusion[:, :classes].sum()))
        return segmentation_metrics(confusion, self.data.classes, prefix) | {f"{prefix}/loss": mean}

    def _predictions(self, split: Split, shared: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits (b, C, H, W) float32 and masks (b, H, W) uint8 of a split's images, or of this
        worker's share, in order, in eval mode."""
        self.eval()
        start = distributed.shard(len(split)).start if shared else 0
        for images in self._eval_batches(split, shared=shared):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.train.bf16):
                logits = self.net(images)[0].float()
            yield logits, split.masks(np.arange(start, start + len(images))).to(self.device)
            start += len(images)

    @torch.no_grad()
    def embeddings(self, part: Part) -> tuple[np.ndarray, np.ndarray | None]:
        """The backbone's last map, averaged; an image's label is the class that covers most of
        it."""
        split = self.data.train if part == "train" else self.data.val
        rows = shown_rows(np.full(len(split), -1))
        chosen = replace(split, indices=split.indices[rows])
        self.eval()
        features = [
            self.net.features(images).mean((2, 3)).float().cpu()
            for images in self._eval_batches(chosen)
        ]
        masks = chosen.masks(np.arange(len(chosen))).flatten(1)
        counts = torch.stack([(masks == c).sum(1) for c in range(len(self.data.classes))], 1)
        labels = torch.where(counts.sum(1) > 0, counts.argmax(1), -1)
        return torch.cat(features).numpy(), labels.numpy()

    def snapshot(self, directory: Path, epoch: int) -> None:
        """Besides the embeddings `masks-0001.npz`: images, truths, predictions and the confusion
        matrix of the validation set."""
        super().snapshot(directory, epoch)
        positions = self.shown()
        chosen = replace(self.data.val, indices=self.data.val.indices[positions])
        with torch.no_grad():
            predicted = (
                torch.cat([logits.argmax(1) for logits, _ in self._predictions(chosen)])
                .to(torch.uint8)
                .cpu()
            )
        every = max(1, self.config.data.image_size // _SHOWN_SIDE)
        at = np.arange(len(positions))
        write_arrays(
            directory / f"masks-{epoch:04d}.npz",
            epoch=epoch,
            positions=positions,
            confusion=self._confusion.numpy(),
            images=chosen.batch(at)[:, :, ::every, ::every].numpy(),
            truth=chosen.masks(at)[:, ::every, ::every].numpy(),
            predicted=predicted[:, ::every, ::every].numpy(),
            names=np.array(self.data.classes, dtype=str),
            colors=np.array(self.data.colors, dtype=np.uint8),
            accuracies=self._accuracies[positions],
        )

    def shown(self) -> np.ndarray:
        """Positions (n,) of the validation images in pictures: those of the course reports where a
        folder has as many (their numbers are their places), else the first three and the three
        worst at the last validation."""
        n = len(self.data.val)
        if self.config.data.name not in EMBEDDED and n > max(_REPORTED):
            return np.array(_REPORTED)
        first = np.arange(min(_SHOWN, n))
        worst = np.argsort(self._accuracies, kind="stable")
        return np.concatenate([first, worst[~np.isin(worst, first)][:_SHOWN]])

    def calibrate(self) -> None:
        if self.loaded is None:
            limit = max(2, _CALIBRATION_PIXELS // self.config.data.image_size**2)
            calibrate_batchnorm(self.net, self._eval_batches(self.data.train, limit=limit))

    def export(self, path: Path, meta: dict[str, Any]) -> None:
        encoder = self.config.model.encoder(self.config.backbone)
        save_backbone(
            path,
            self.backbone,
            meta | {"backbone": asdict(encoder), "normalize": self.config.normalize},
            head=self.head,
        )


def check_encoder(config: SegmentationConfig, path: Path) -> None:
    """Raises UserError where the file was exported by another architecture than the model's
    encoder."""
    trained, encoder = (
        load_backbone_meta(path).get("backbone", {}).get("name"),
        config.model.encoder(config.backbone).name,
    )
    if trained not in (None, encoder):
        fitting = {"resnet50": "deeplabv3-resnet50", "resnet101": "deeplabv3-resnet101"}.get(
            trained, f"fcn32s-{trained}"
        )
        remedy = (
            f"unet --set backbone.name={trained}" if trained in ("tiny", "resnet18") else fitting
        )
        raise UserError(
            f"backbone file {path} is a {trained}, but model.name={config.model.name} has a {encoder}; add --set model.name={remedy}"
        )


def class_pixels(split: Split, classes: int) -> np.ndarray:
    """(C,) pixels of each class, in at most `_COUNTED` masks spread over the split; in all of them
    where those lack a class, which would otherwise weigh nothing."""
    some = np.unique(np.linspace(0, len(split) - 1, min(_COUNTED, len(split))).round().astype(int))
    pixels = _count(split, some, classes)
    return (
        pixels
        if pixels.all() or len(some) == len(split)
        else _count(split, np.arange(len(split)), classes)
    )


def _count(split: Split, positions: np.ndarray, classes: int) -> np.ndarray:
    pixels = np.zeros(classes, np.int64)
    for part in np.array_split(positions, max(1, len(positions) // 32)):
        pixels += np.bincount(split.masks(part).numpy().ravel(), minlength=256)[:classes]
    return pixels
