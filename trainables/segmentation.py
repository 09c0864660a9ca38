"""Semantic segmentation: a backbone under a decoder, on data with masks.

First a U-Net on the tiny backbone, on tiles of the earth; then from a backbone of `ssl` or
`pretrain`:

    python tune/run.py segment
    python tune/run.py segment --backbone STUDY[/TRIAL]

The objective is val/miou as the course defines it (`miou.py`): pooled over the split, with
predictions on pixels of unknown class counted as wrong.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from trainables.augment.evaluation import whole_batches
from trainables.augment.image_ops import Normalization
from trainables.augment.joint_augment import JointAugment, JointAugmentConfig
from trainables.backbone.freezing import FreezeConfig
from trainables.backbone.initial import InitConfig, InitialBackbone, load_initial_weights
from trainables.backbone.networks import BackboneConfig
from trainables.backbone.timm_networks import is_timm, map_shapes
from trainables.base import Batch, Metrics, TrainConfig
from trainables.class_metrics import class_results, write_class_results
from trainables.config import Annotated, Field, config
from trainables.data import DataConfig, DataSet, Split, Task
from trainables.devices import send
from trainables.engine import distributed
from trainables.files import CLASS_RESULTS
from trainables.finetune import FineTuned
from trainables.metrics import calibrate_batchnorm
from trainables.miou import segmentation_metrics
from trainables.optim import OptimConfig
from trainables.outcomes import image_outcomes
from trainables.plots.mask_panels import largest_class, mask_panels, pixels_right
from trainables.plots.shown_images import shown_images
from trainables.plots.snapshots import Part, shown_rows, write_arrays
from trainables.schedules import ScheduleConfig
from trainables.segmenters.averaging import AveragingConfig, averaged_scores
from trainables.segmenters.class_pixels import class_pixels
from trainables.segmenters.losses import (
    SegmentationLossConfig,
    class_weights,
    segmentation_loss,
)
from trainables.segmenters.networks import (
    MIN_IMAGE_SIZE,
    ModelConfig,
    Segmenter,
    build_encoder,
    build_segmenter,
    check_encoder,
    decoder,
    segmenter_stages,
)
from trainables.segmenters.smp_networks import check_smp, is_smp
from trainables.segmenters.tally import Tally

_CALIBRATION_PIXELS = 1 << 24
# Width minus height of the image on which a network's maps are tried, px.
_OTHER_ASPECT = 21
# Largest side of an image in a picture, px.
_SHOWN_SIDE = 256


@config
class SegmentationConfig:
    """A training run of a segmentation network."""

    data: DataConfig = DataConfig(name="earth", image_size=64)
    model: ModelConfig = ModelConfig()
    backbone: BackboneConfig = BackboneConfig()
    """The encoder for model.name=unet; other models have their own."""
    init: InitConfig = InitConfig()
    freeze: FreezeConfig = FreezeConfig()
    aug: JointAugmentConfig = JointAugmentConfig()
    normalize: Normalization = "imagenet"
    """Mean and standard deviation that normalise every channel: those that a loaded backbone was
    trained with."""
    loss: SegmentationLossConfig = SegmentationLossConfig()
    eval: AveragingConfig = AveragingConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig = TrainConfig()
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of initialisation, order and augmentation."""

    def __post_init__(self) -> None:
        if self.data.image_size < MIN_IMAGE_SIZE:
            raise ValueError(
                f"segmentation needs data.image_size >= {MIN_IMAGE_SIZE}, "
                f"but got {self.data.image_size}"
            )
        encoder = self.model.encoder(self.backbone)
        if is_smp(self.model.name):
            self._check_smp()
        if is_timm(encoder.name):
            # Whole images keep their aspect ratio, so try one that is not square.
            size = self.data.image_size
            map_shapes(encoder.name, size, size)
            map_shapes(encoder.name, size, size + _OTHER_ASPECT)
        self.eval.check(self.data.image_size, self.data.up)

    def _check_smp(self) -> None:
        """Raise ValueError or UserError for a segmentation_models_pytorch network that cannot be
        built or cannot start from a file."""
        if self.init.file:
            raise ValueError(
                f"model.name={self.model.name} starts from random weights; leave --backbone out, "
                "or choose a network of vistune's"
            )
        check_smp(self.model.name, self.data.image_size)


class Segmentation(FineTuned[SegmentationConfig, DataSet]):
    """A segmentation network on a `DataSet` with masks."""

    task: ClassVar[Task] = "segment"
    max_eval_pixels: ClassVar[int] = 1 << 20  # decoders work at full resolution
    net: Segmenter

    def __init__(self, config: SegmentationConfig, data: DataSet):
        encoder = config.model.encoder(config.backbone)
        if config.init.file:
            check_encoder(config.model, encoder, Path(config.init.file))
        module = build_encoder(config.model, config.backbone)
        loaded = load_initial_weights(module, encoder, config.init)

        net = build_segmenter(
            config.model,
            module,
            len(data.classes),
            auxiliary=config.loss.aux_weight > 0,
            loaded=loaded is not None,
            rules=config.train.rules,
        )
        backbone = InitialBackbone(net.backbone, encoder, segmenter_stages(net), loaded)
        super().__init__(config, data, backbone, decoder(net), net)

        self.joint = JointAugment(
            config.aug,
            config.data.image_size,
            config.normalize,
            jitter_first=config.train.rules > 1,
        )
        self.weights: Tensor | None
        self.register_buffer("weights", self._class_weights(), persistent=False)

        # Set by the last `validate`: (n,) pixel accuracy of each image, and the confusion matrix.
        self._accuracies = np.empty(0)
        self._confusion = torch.empty(0)

    def _class_weights(self) -> Tensor | None:
        if self.config.loss.name != "weighted_ce":
            return None
        pixels = class_pixels(self.data.train, len(self.data.classes))
        return class_weights(pixels, self.config.loss.class_power)

    @property
    def min_batch_size(self) -> int:
        """Two for networks of segmentation_models_pytorch, because some normalise a single value
        per image."""
        return 2 if is_smp(self.config.model.name) else 1

    def network(self) -> nn.Module:
        return self.net

    @classmethod
    def check_startup(cls, config: SegmentationConfig, data: DataSet) -> str:
        return cls(config, data).describe_start()

    @classmethod
    def objective_for(cls, data: DataSet) -> str:
        return "val/miou"

    @classmethod
    def objectives_for(cls, data: DataSet) -> tuple[str, ...]:
        return ("val/miou", "val/miou_masked", "val/pixel_accuracy")

    # -- a training step

    def draw(self, positions: np.ndarray, generator: torch.Generator) -> Batch:
        draws = self.joint.draw(len(positions), generator)
        images = self.data.train.input_batch(positions)
        masks = self.data.train.input_masks(positions)
        return Batch(images, (draws,), masks)

    def forward(self, batch: Batch) -> Tensor:
        assert batch.targets is not None  # `draw` gives them: (B, H, W) uint8
        views, masks = self.joint.apply(batch.images, batch.targets, batch.draws[0])
        logits, auxiliary = self.net(self.to_memory_format(views))

        truth = masks.long()
        total = self._loss(logits, truth)
        if auxiliary is not None:
            total = total + self.config.loss.aux_weight * self._loss(auxiliary, truth)
        return total

    def _loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        rules = self.config.train.rules
        return segmentation_loss(logits.float(), truth, self.config.loss, self.weights, rules)

    def scores(
        self,
        views: Tensor,  # (B, 3, H, W)
    ) -> Tensor:  # (B, C, H, W) float32
        """Logits of views. With test-time averaging over several versions of an image
        (`eval.scales`, `eval.flip`), log probabilities."""
        return averaged_scores(self.net, views, self.config.eval, self.config.data.up)

    # -- evaluation

    def preload(self) -> None:
        import torchmetrics  # noqa: F401

    @torch.no_grad()
    def evaluate(self, split: Split, prefix: str) -> Metrics:
        """Metrics of a split, on whole images if it has them.

        Pixels are counted in one confusion matrix over all images and workers, so neither the order
        nor the shapes of batches matter. Outcomes and accuracies of single images are restored to
        the order of the split.
        """
        tally = Tally(len(self.data.classes), self.device, keeps_overlaps=prefix == "test")
        for positions, logits, masks in self._predictions(split, shared=True):
            tally.add(positions, logits, masks)

        confusion = distributed.all_sum(tally.confusion)
        if prefix == "test":
            judged = "" if split.whole is None else "whole"
            tested = {"test/miou": tally.overlaps(len(split))}
            self._outcomes = image_outcomes(self.data, overlaps=tested, judged=judged)
        if prefix == "val":
            self._confusion = confusion.cpu()
            self._accuracies = tally.accuracies(len(split))

        known_pixels = int(confusion[:, :-1].sum())
        metrics = segmentation_metrics(confusion, self.data.classes, prefix)
        loss = distributed.all_sum(tally.loss).item()
        metrics[f"{prefix}/loss"] = loss / max(1, known_pixels)
        return metrics

    def _predictions(
        self, split: Split, shared: bool = False
    ) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
        """Positions (b,), logits (b, C, h, w) float32 and masks (b, h, w) uint8 of a split's
        images, or of this worker's share of them, in eval mode.

        Squares come in order, whole images sorted by shape.
        """
        self.eval()
        batches = self._squares(split, shared)
        if split.whole is not None:
            batches = self._whole(split, shared)
        for positions, images, masks in batches:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.train.bf16):
                logits = self.scores(images)
            yield positions, logits, send(masks, self.device)

    def _squares(self, split: Split, shared: bool) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
        """Positions, views and masks of the stored squares."""
        start = distributed.shard(len(split)).start if shared else 0
        for images in self.evaluation_views(split, shared=shared):
            positions = np.arange(start, start + len(images))
            yield positions, images, split.input_masks(positions)
            start += len(images)

    def _whole(self, split: Split, shared: bool) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
        """Positions, views and masks of whole images, batched by shape.

        No network here needs a square. Padding to a common shape would change what the last
        convolutions see at the border, and a served model does not pad.
        """
        rows = distributed.shard(len(split)) if shared else range(len(split))
        batches = whole_batches(
            split, rows, self.config, self.config.normalize, self.device, self.max_eval_pixels
        )
        for positions, images in batches:
            yield positions, images, split.whole_masks(positions)

    def calibrate(self) -> None:
        if self.loaded is None:
            limit = max(2, _CALIBRATION_PIXELS // self.config.data.image_size**2)
            calibrate_batchnorm(self.net, self.evaluation_views(self.data.train, limit=limit))

    # -- pictures

    @torch.no_grad()
    def embeddings(self, part: Part) -> tuple[np.ndarray, np.ndarray | None]:
        """The backbone's last map, averaged; an image's label is the class with the most
        pixels."""
        split = self.data.train if part == "train" else self.data.val
        unlabelled = np.full(len(split), -1)
        rows = shown_rows(unlabelled)
        shown = replace(split, indices=split.indices[rows])

        self.eval()
        features = []
        for images in self.evaluation_views(shown):
            maps = self.net.features(images)  # (b, D, h, w)
            features.append(maps.mean((2, 3)).float().cpu())

        masks = shown.masks(np.arange(len(shown)))
        return torch.cat(features).numpy(), largest_class(masks, len(self.data.classes))

    def snapshot(self, directory: Path, epoch: int) -> None:
        """Write, besides the embeddings, `masks-0001.npz`: images, truths, predictions and the
        confusion matrix of the validation split."""
        super().snapshot(directory, epoch)
        images = shown_images(self.data, self._accuracies)
        shown = replace(self.data.val, indices=images.rows)
        with torch.no_grad():
            panels = mask_panels(shown, self._predictions(shown))
        right, known = pixels_right(panels)

        every = max(1, self.config.data.image_size // _SHOWN_SIDE)
        small = {name: panel[..., ::every, ::every] for name, panel in panels.items()}
        write_arrays(
            directory / f"masks-{epoch:04d}.npz",
            epoch=epoch,
            rows=images.rows,
            captions=np.array(images.captions, dtype=str),
            confusion=self._confusion.numpy(),
            **small,
            names=np.array(self.data.classes, dtype=str),
            colors=np.array(self.data.colors, dtype=np.uint8),
            accuracies=right / known.clip(1),
        )

    def snapshot_best(self, directory: Path, epoch: int) -> None:
        """Write `classes.csv`, the per-class results on the validation split."""
        self.validate()
        confusion = self._confusion.numpy()  # [predicted, true]
        known = confusion[:, :-1].T
        results = class_results(known, self.data.classes, elsewhere=confusion[:, -1])
        write_class_results(directory / CLASS_RESULTS, results)
