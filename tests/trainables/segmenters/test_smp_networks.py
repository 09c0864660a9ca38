"""Networks of segmentation_models_pytorch: the same outputs as the package, images of any size, a
trial."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainables.backbone.initial import InitConfig
from trainables.backbone.networks import BackboneConfig, build_backbone
from trainables.base import TrainConfig
from trainables.config import build, flatten
from trainables.data import DataConfig
from trainables.engine.fit import fit
from trainables.errors import UserError
from trainables.files import BEST
from trainables.optim import OptimConfig
from trainables.segmentation import Segmentation, SegmentationConfig
from trainables.segmenters import smp_networks
from trainables.segmenters.networks import ModelConfig, build_encoder, build_segmenter
from trainables.segmenters.smp_networks import ARCHITECTURES, SMPNetwork
from trainables.served import Served
from tune.execution.runtimes import LocalRuntime

NETWORK = "smp:Unet/tu-test_resnet"


@pytest.fixture
def smp() -> Any:
    return pytest.importorskip("segmentation_models_pytorch")


def network(name: str, classes: int = 4) -> Any:
    model = ModelConfig(name=name)
    encoder = build_encoder(model, BackboneConfig())
    return build_segmenter(model, encoder, classes, auxiliary=False, loaded=False).eval()


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_answers_are_the_packages(architecture: str, smp: Any) -> None:
    """Both have the same weights; sizes are ones that the package accepts."""
    ours = network(f"smp:{architecture}/resnet18")
    theirs = smp.create_model(architecture, "resnet18", encoder_weights=None, classes=4).eval()
    theirs.encoder.load_state_dict(ours.backbone.state_dict())
    theirs.decoder.load_state_dict(ours.decoder.state_dict())
    theirs.segmentation_head.load_state_dict(ours.segmentation_head.state_dict())
    images = torch.randn(2, 3, 128, 160)
    with torch.no_grad():
        torch.testing.assert_close(ours(images)[0], theirs(images))
        assert ours(images[..., :101, :130])[0].shape == (2, 4, 101, 130)
        assert ours.features(images).shape[1] == ours.backbone.feature_dim


def test_one_network_answers_as_the_packages_on_images_of_any_size(smp: Any) -> None:
    ours = network(NETWORK)
    assert isinstance(ours, SMPNetwork)
    encoder = NETWORK.partition("/")[2]
    theirs = smp.create_model("Unet", encoder, encoder_weights=None, classes=4).eval()
    theirs.encoder.load_state_dict(ours.backbone.state_dict())
    theirs.decoder.load_state_dict(ours.decoder.state_dict())
    theirs.segmentation_head.load_state_dict(ours.segmentation_head.state_dict())

    images = torch.randn(1, 3, 50, 71)
    whole = torch.nn.functional.pad(images, (0, 25, 0, 14), mode="replicate")
    with torch.no_grad():
        torch.testing.assert_close(ours(images)[0], theirs(whole)[..., :50, :71])


CONFIG = SegmentationConfig(
    data=DataConfig(name="earth", image_size=64),
    model=ModelConfig(),
    train=TrainConfig(epochs=1, epoch_images=32, batch_size=16),
    optim=OptimConfig(name="adamw", lr=1e-3),
)


@pytest.mark.slow
def test_a_network_is_trained_and_served(smp: Any, tmp_path: Path) -> None:
    config = replace(CONFIG, model=ModelConfig(name=NETWORK))
    torch.manual_seed(0)
    model = Segmentation(config, Segmentation.load_data(config.data))
    reports = []
    fit(model, config, LocalRuntime(tmp_path, lambda e, metrics: reports.append(metrics) or True))
    assert reports[0]["val/miou"] > 0
    model.load_export(tmp_path / BEST)
    about = {
        "kind": "Segmentation",
        "classes": list(model.data.classes),
        "colors": np.asarray(model.data.colors).tolist(),
        "labelled": True,
        "config": flatten(config),
    }
    served = Served.of_trial(about, tmp_path / BEST)
    assert served.judge(model.data)["val/miou"] == pytest.approx(model.validate()["val/miou"])
    images = np.random.default_rng(0).integers(0, 256, (1, 70, 90, 3), dtype=np.uint8)
    assert served.predict(images).shape == (1, 70, 90)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smp:Unet", "must be smp:ARCHITECTURE/ENCODER"),
        ("smp:UNet/resnet18", "the architecture must be one of Unet, "),
        ("unets", "or 'smp:ARCHITECTURE/ENCODER'"),
    ],
)
def test_names_that_mean_nothing(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(SegmentationConfig, flatten(CONFIG) | {"model.name": name})


def test_an_unknown_encoder_has_its_nearest_named(smp: Any) -> None:
    with pytest.raises(UserError, match="did you mean resnet18"):
        build(SegmentationConfig, flatten(CONFIG) | {"model.name": "smp:Unet/resnett18"})


def test_images_that_are_too_small_for_a_network_are_refused(smp: Any) -> None:
    with pytest.raises(UserError, match="cannot take images of 64 px"):
        build(SegmentationConfig, flatten(CONFIG) | {"model.name": "smp:PAN/tu-test_resnet"})


def test_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="for segmentation alone"):
        build_backbone(BackboneConfig(name=NETWORK))
    init = InitConfig(source="given", file="best.pt")
    flat = flatten(replace(CONFIG, init=init)) | {"model.name": NETWORK}
    with pytest.raises(UserError, match="starts from random weights"):
        build(SegmentationConfig, flat)


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "segmentation_models_pytorch", None)
    smp_networks.check_smp.cache_clear()
    with pytest.raises(UserError, match=r"pip install '?segmentation-models-pytorch"):
        build(SegmentationConfig, flatten(CONFIG) | {"model.name": NETWORK})
