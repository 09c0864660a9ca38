"""Small networks of timm under the trainables that take a backbone: a trial, its backbone file,
serving."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("timm")

from trainables.augment.views import evaluation_view
from trainables.backbone.freezing import FreezeConfig
from trainables.backbone.initial import InitConfig
from trainables.backbone.networks import BackboneConfig
from trainables.base import TrainConfig
from trainables.byol import BYOL, BYOLConfig, HeadConfig
from trainables.classifier import Classifier, ClassifierConfig
from trainables.config import flatten
from trainables.data import DataConfig
from trainables.engine.fit import fit
from trainables.files import BEST
from trainables.optim import OptimConfig
from trainables.segmentation import Segmentation, SegmentationConfig
from trainables.self_supervised import ValidationConfig
from trainables.served import Served
from tune.execution.runtimes import LocalRuntime

VIT = BackboneConfig(name="timm:test_vit")
CONV = BackboneConfig(name="timm:test_resnet")
SHORT = TrainConfig(epochs=2, epoch_images=32, batch_size=16)
OPTIM = OptimConfig(name="adamw", lr=1e-3)
DIGITS = DataConfig(name="digits", image_size=32)
CLASSIFY = ClassifierConfig(data=DIGITS, backbone=VIT, train=SHORT, optim=OPTIM)
SSL = BYOLConfig(
    data=DIGITS,
    backbone=VIT,
    head=HeadConfig(hidden_size=16, projection_size=8),
    val=ValidationConfig(probe_steps=0, collapse_std=0),
    train=SHORT,
    optim=OPTIM,
)
SEGMENT = SegmentationConfig(
    data=DataConfig(name="earth", image_size=64), backbone=CONV, train=SHORT, optim=OPTIM
)


def trained(kind: type[Any], config: Any, directory: Path) -> Any:
    directory.mkdir(exist_ok=True)
    torch.manual_seed(config.seed)
    model = kind(config, kind.load_data(config.data))
    fit(model, config, LocalRuntime(directory, lambda epoch, metrics: True))
    return model


def served(model: Any, config: Any, weights: Path) -> Served:
    about = {
        "kind": type(model).__name__,
        "classes": list(model.data.classes),
        "colors": np.asarray(model.data.colors).tolist(),
        "labelled": True,
        "config": flatten(config),
    }
    return Served.of_trial(about, weights)


@pytest.mark.slow
def test_a_backbone_of_ssl_is_fine_tuned_and_served(tmp_path: Path) -> None:
    trained(BYOL, SSL, tmp_path / "ssl")
    init = InitConfig(source="ssl", file=str(tmp_path / "ssl" / BEST))
    freeze = FreezeConfig(policy="gradual", thaw_frac=0.9, layer_decay=0.8)
    config = replace(CLASSIFY, init=init, freeze=freeze)
    model = trained(Classifier, config, tmp_path / "classify")
    assert model.describe_start().startswith(f"backbone {init.file}")

    model.export(tmp_path / "export.pt", {})
    answers = served(model, config, tmp_path / "export.pt")
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    views = evaluation_view(torch.from_numpy(images.transpose(0, 3, 1, 2)), 32, config.normalize)
    model.eval()
    with torch.no_grad():
        expected = model.head(model.backbone(views)).softmax(1)
    np.testing.assert_allclose(answers.predict(images), expected.numpy(), rtol=1e-4, atol=1e-6)


def test_frozen_groups_stay_and_the_others_train(tmp_path: Path) -> None:
    config = replace(CLASSIFY, freeze=FreezeConfig(policy="until", until="block3"))
    torch.manual_seed(config.seed)
    before = Classifier(config, Classifier.load_data(config.data)).backbone.state_dict()
    after = trained(Classifier, config, tmp_path).backbone.state_dict()

    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved
    still = ("cls_token", "pos_embed", "patch_embed", "blocks.0.", "blocks.1.")
    assert not any(key.startswith(still) for key in moved)
    assert any(key.startswith("blocks.2.") for key in moved)


@pytest.mark.slow
def test_a_segmentation_network_of_timm_is_trained_and_served(tmp_path: Path) -> None:
    model = trained(Segmentation, SEGMENT, tmp_path)
    model.export(tmp_path / "export.pt", {})
    answers = served(model, SEGMENT, tmp_path / "export.pt")
    images = np.random.default_rng(0).integers(0, 256, (1, 70, 90, 3), dtype=np.uint8)
    assert answers.predict(images).shape == (1, 70, 90)

    for key, value in model.backbone.state_dict().items():
        assert torch.equal(answers.model.backbone.state_dict()[key], value)
