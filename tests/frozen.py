"""A classifier of which only the head is trained, on cached features of a small random backbone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from trainables.augment.view_config import ViewConfig
from trainables.augment.views import evaluation_view
from trainables.backbone.cached_features import FeaturesConfig
from trainables.backbone.export import save_backbone
from trainables.backbone.freezing import FreezeConfig
from trainables.backbone.initial import InitConfig
from trainables.backbone.networks import BackboneConfig, build_backbone
from trainables.base import TrainConfig
from trainables.classifier import Classifier, ClassifierConfig
from trainables.data import DataConfig
from trainables.metrics import calibrate_batchnorm
from trainables.optim import OptimConfig

FROZEN = ClassifierConfig(
    data=DataConfig(name="digits", image_size=16, limit=200),
    backbone=BackboneConfig(width=8, pool=1),
    freeze=FreezeConfig(policy="all"),
    aug=ViewConfig(policy="glyphs", rotate=20.0),
    features=FeaturesConfig(views=3),
    train=TrainConfig(epochs=3, batch_size=32),
    optim=OptimConfig(name="adam", lr=1e-2),
)


def frozen_config(folder: Path) -> ClassifierConfig:
    """`FROZEN`, with calibrated random weights in a file in `folder`."""
    path = folder / "backbone.pt"
    torch.manual_seed(99)
    backbone = build_backbone(FROZEN.backbone)
    images = Classifier.load_data(FROZEN.data).train.batch(np.arange(200))
    calibrate_batchnorm(backbone, [evaluation_view(images, 16, "imagenet")])
    save_backbone(path, backbone, {})
    return replace(FROZEN, init=InitConfig(source="ssl", file=str(path)))


def classifier(config: ClassifierConfig) -> Classifier:
    torch.manual_seed(config.seed)
    return Classifier(config, Classifier.load_data(config.data))
