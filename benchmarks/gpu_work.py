"""The work that `gpu_check.py` times: data made of random numbers, trainings by vistune, and the
loop that one would write by hand instead."""

import functools
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.transforms import v2

from trainables.augment.image_ops import MEAN_STD
from trainables.augment.view_config import AugmentConfig, ViewConfig
from trainables.augment.views import Augment
from trainables.backbone.networks import BackboneConfig, build_backbone
from trainables.base import Batch, Metrics, TrainConfig
from trainables.byol import BYOL, BYOLConfig, HeadConfig, OnlineAndTarget, regression_loss
from trainables.classifier import Classifier, ClassifierConfig
from trainables.data import DataConfig, DataSet, FewShotData, Split
from trainables.data.placement import on_device
from trainables.engine import checkpoint
from trainables.engine.fit import train_step
from trainables.engine.numerics import settle_numerics
from trainables.engine.step import BatchSplitter
from trainables.optim import OptimConfig, build_optimizer, param_groups
from trainables.protonet import EvaluationConfig, ProtoNet, ProtoNetConfig, TrainEpisodeConfig
from trainables.segmentation import Segmentation, SegmentationConfig
from trainables.segmenters.networks import ModelConfig
from tune.experiments import EXPERIMENTS

CLASSES = 10
ADAM = OptimConfig(name="adam", lr=3e-4)
PREFETCHED = 2
"""Batches that a worker of a DataLoader has ready."""
STEPS = 1000  # length of the schedule: far more steps than are taken


@dataclass(frozen=True)
class Size:
    """Sizes of networks, data and measurements."""

    backbone: BackboneConfig
    side: int
    """Pixels."""
    batch: int
    images: int
    """Training images. A quarter as many are for validation, another quarter for testing."""
    segmenter: ModelConfig
    segment_side: int
    segment_batch: int
    warmup: int
    """Steps before the clock starts."""
    steps: int
    """Steps that are timed."""
    turns: int
    """Number of turns in which contenders take these steps."""
    loader_workers: int
    concurrent: tuple[int, ...]
    """Numbers of concurrent trials."""
    concurrent_s: float
    """Seconds for which they train together."""
    head: HeadConfig


FULL = Size(
    backbone=BackboneConfig(name="resnet50"),
    side=128,
    batch=256,
    images=8192,
    segmenter=ModelConfig(name="deeplabv3-resnet50"),
    segment_side=512,
    segment_batch=8,
    warmup=8,
    steps=40,
    turns=4,
    loader_workers=16,
    concurrent=(1, 2, 4, 8),
    concurrent_s=5.0,
    head=HeadConfig(),
)
QUICK = Size(
    backbone=BackboneConfig(width=8, pool=1),
    side=32,
    batch=32,
    images=256,
    segmenter=ModelConfig(name="unet"),
    segment_side=32,
    segment_batch=4,
    warmup=1,
    steps=4,
    turns=2,
    loader_workers=1,
    concurrent=(1, 2),
    concurrent_s=1.0,
    head=HeadConfig(projection_size=16, hidden_size=32),
)


class Here:
    """A runtime of one process that keeps its reports."""

    rank = 0
    world_size = 1

    def __init__(self, directory: Path, device: torch.device):
        self.directory = directory
        self.device = device
        self.reports: list[Metrics] = []

    def report(self, epoch: int, metrics: Metrics) -> bool:
        self.reports.append(metrics)
        return True


# ---------------------------------------------------------------- data


@functools.lru_cache(maxsize=8)
def made_data(
    images: int, side: int, kind: type[DataSet] = DataSet, masks: bool = False, seed: int = 0
) -> Any:
    """Return coloured noise whose mean tells the class; masks mark the brighter half of each
    image."""
    rng = np.random.default_rng(seed)
    count = images * 3 // 2
    labels = np.arange(count, dtype=np.int64) % CLASSES
    shade = (20 * labels)[:, None, None, None].astype(np.uint8)
    noise = rng.integers(0, 56, (count, 3, side, side), np.uint8)
    pixels = noise + shade

    mask_images = None
    if masks:
        brightness = pixels.mean(1)
        middle = np.median(brightness, (1, 2), keepdims=True)
        mask_images = (brightness > middle).astype(np.uint8)

    rows = np.arange(count)
    first, second = images, images * 5 // 4
    parts = [rows[:first], rows[first:second], rows[second:]]
    if issubclass(kind, FewShotData):
        parts = [rows[labels < 6], rows[(labels >= 6) & (labels < 8)], rows[labels >= 8]]
    train, val, test = (Split(pixels, labels, part, mask_images=mask_images) for part in parts)
    return kind(
        name="made",
        fingerprint="0" * 32,
        classes=("dark", "bright") if masks else tuple(map(str, range(CLASSES))),
        train=train,
        gallery=None if masks or issubclass(kind, FewShotData) else train,
        val=val,
        test=test,
        skipped=(),
        colors=((0, 0, 0), (255, 255, 255)) if masks else (),
    )


# ---------------------------------------------------------------- the trainables

WAITING = {"ssl-simclr": 4, "ssl-moco": 1, "ssl-vicreg": 4, "ssl-dino": 0}
"""Methods of lightly, an extra -> places of its losses that wait in a step
(`tests/trainables/engine/test_waits.py`)."""
NAMES = ("ssl", *WAITING, "classify", "fewshot", "segment")


def work(name: str, size: Size, place: str = "auto") -> tuple[Any, Any, Any]:
    """Return trainable, config and data of one of `NAMES`, with the numerics of preset `full`.

    Args:
        place: `data.on_device`.
    """
    if name == "ssl":
        return BYOL, byol_config(size, place), made_data(size.images, size.side)
    if name in WAITING:
        method = EXPERIMENTS[name]
        head = method.config().head
        if size is QUICK:
            head = replace(head, projection_size=16, hidden_size=32)
        config = method.config(**_common(size, place), head=head, optim=ADAM)
        return method.trainable, config, made_data(size.images, size.side)
    if name == "classify":
        config = ClassifierConfig(**_common(size, place), aug=ViewConfig(policy="simclr"))
        return Classifier, config, made_data(size.images, size.side)
    if name == "fewshot":
        episodes = ProtoNetConfig(
            **_common(size, place),
            episode=TrainEpisodeConfig(way=5, query=3),
            val=EvaluationConfig(way=2, query=5, episodes=20),
        )
        return ProtoNet, episodes, made_data(size.images, size.side, FewShotData)

    side = size.segment_side
    common = _common(size, place)
    segmentation = SegmentationConfig(
        data=replace(common["data"], image_size=side),
        model=size.segmenter,
        backbone=size.backbone,
        train=replace(common["train"], batch_size=size.segment_batch),
        optim=OptimConfig(name="sgd", lr=0.01),
    )
    return Segmentation, segmentation, made_data(8 * size.segment_batch, side, masks=True)


def _common(size: Size, place: str) -> dict[str, Any]:
    """Return the config blocks that all trainables share."""
    data = {"name": "made", "image_size": size.side, "on_device": place}
    return {
        "data": DataConfig(**data),  # type: ignore[arg-type]
        "backbone": size.backbone,
        "train": TrainConfig(batch_size=size.batch, numerics="auto", epochs=2),
    }


def byol_config(size: Size, place: str = "auto") -> BYOLConfig:
    """Return BYOL's config as in preset `full`."""
    return BYOLConfig(**_common(size, place), head=size.head, optim=ADAM)


class Training:
    """A training in progress, with vistune's own step but without epochs."""

    def __init__(self, kind: Any, config: Any, data: Any, device: torch.device):
        self.device = device
        self.config = settle_numerics(config, device)
        data = on_device(data, config.data.on_device, device)
        torch.manual_seed(config.seed)
        self.trainable = kind(self.config, data).to(device)
        self.runtime = Here(Path(tempfile.gettempdir()) / "vistune-no-such-folder", device)
        optim = self.config.optim
        self.optimizer = build_optimizer(self.trainable.param_groups(optim.weight_decay), optim)
        sampler = self.trainable.sampler()
        self.batches = BatchSplitter(self.trainable, self.config, self.runtime, sampler)
        self.state = checkpoint.restore(self.trainable, self.optimizer, self.batches, self.runtime)
        self.trainable.train()
        self.step = 0

    def take(self, steps: int) -> list[float]:
        """Take steps. Return their losses once the device has finished them."""
        losses = []
        for _ in range(steps):
            losses.append(train_step(self.state, self.config, self.runtime, self.step, STEPS))
            self.step += 1
        return [float(loss) for loss in losses]

    def images_per_s(self, warmup: int, steps: int) -> float:
        """Return images per second over the steps after the warm-up."""
        return images_per_s(self.take, self.batches.batch_size, warmup, steps)


def images_per_s(take: Callable[[int], Any], batch: int, warmup: int, steps: int) -> float:
    """Return images per second of `take(steps)`, which returns when the device has finished."""
    take(warmup)
    started = time.perf_counter()
    take(steps)
    return steps * batch / (time.perf_counter() - started)


# ---------------------------------------------------------------- peers of BYOL


class OnTheCard(BYOL):
    """BYOL on random views that are on the card, without data or augmentation: the limit."""

    held: list[Tensor] | None = None

    def draw(self, positions: np.ndarray, generator: torch.Generator) -> Batch:
        count = len(positions)
        return Batch(torch.empty(count, device=self.device), (torch.empty(count),))

    def augmented(self, batch: Batch) -> list[Tensor]:
        if self.held is None:
            side = self.config.data.image_size
            views = torch.randn(2, len(batch), 3, side, side, device=self.device)
            self.held = [view.contiguous(memory_format=self.memory_format) for view in views]
        return self.held


class TwoViews(Dataset[tuple[Tensor, Tensor]]):
    """Pairs of augmented views, made image by image as in torchvision's examples."""

    def __init__(self, images: np.ndarray, config: BYOLConfig):
        self.images = images
        side = config.data.image_size
        self.transforms = [transform(view, side) for view in config.aug.views()]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        image = torch.from_numpy(self.images[row].copy())
        first, second = (one(image) for one in self.transforms)
        return first, second


def transform(policy: AugmentConfig, side: int) -> v2.Compose:
    """Return a view of BYOL as a transform of torchvision v2 on uint8, its fast path."""
    kernel = Augment(policy, side).kernel
    scale = (policy.crop_scale_min, policy.crop_scale_max)
    ratio = (1 / policy.crop_ratio, policy.crop_ratio)
    jitter = v2.ColorJitter(policy.brightness, policy.contrast, policy.saturation, policy.hue)
    blur = v2.GaussianBlur(kernel, (policy.blur_sigma_min, policy.blur_sigma_max))
    return v2.Compose(
        [
            v2.RandomResizedCrop(side, scale, ratio),
            v2.RandomHorizontalFlip(policy.hflip),
            v2.RandomApply([jitter], policy.jitter),
            v2.RandomGrayscale(policy.grayscale),
            v2.RandomApply([blur], policy.blur),
            v2.RandomSolarize(255 * policy.solarize_threshold, policy.solarize),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(*MEAN_STD[policy.normalize]),
        ]
    )


class ByHand:
    """The loop that one would write by hand: a DataLoader with torchvision's transforms, and the
    same network, optimizer and types.

    Args:
        batches: batches in an epoch, so that the end of one is not timed.
    """

    def __init__(
        self,
        config: BYOLConfig,
        data: DataSet,
        device: torch.device,
        workers: int,
        batches: int,
    ):
        config = settle_numerics(config, device)
        self.config = config
        self.device = device
        torch.manual_seed(config.seed)
        self.learner = OnlineAndTarget(
            build_backbone(config.backbone), config.head, config.data.image_size
        ).to(device)
        self.layout = torch.contiguous_format
        if config.train.channels_last:
            self.layout = torch.channels_last
            self.learner.to(memory_format=torch.channels_last)
        groups = param_groups(self.learner, config.optim.weight_decay)
        self.optimizer = build_optimizer(groups, config.optim)
        views = TwoViews(data.train.images[data.train.indices], config)
        size = config.train.batch_size
        loader = DataLoader(
            views,
            batch_size=size,
            sampler=RandomSampler(views, replacement=True, num_samples=batches * size),
            num_workers=workers,
            prefetch_factor=PREFETCHED,
            multiprocessing_context="fork",  # from 3.14 on, Python would send the images to each
            pin_memory=device.type == "cuda",
        )
        self.views = iter(loader)
        self.learner.train()

    def take(self, steps: int) -> None:
        """Take steps. Return once the device has finished them."""
        for _ in range(steps):
            loss = self._step()
        float(loss)

    def _step(self) -> Tensor:
        one, two = (
            view.to(self.device, non_blocking=True, memory_format=self.layout)
            for view in next(self.views)
        )
        bf16 = self.config.train.bf16
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            first = regression_loss(self.learner.predict(one), self.learner.project_target(two))
            second = regression_loss(self.learner.predict(two), self.learner.project_target(one))
            loss = (first + second).mean()

        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.learner.move_target(self.config.head.tau0)
        return loss.detach()
