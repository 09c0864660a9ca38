"""The printed architecture agrees with its network, and printing it does not change a run."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tests.frozen import FROZEN, classifier
from tests.shapes import Shapes, shapes, shapes_config
from trainables.backbone.freezing import FreezeConfig
from trainables.backbone.networks import BackboneConfig, build_backbone
from trainables.backbone.summary import layer_table, write_architecture
from trainables.classifiers.heads import ClassifierHeadConfig
from trainables.config import build, flatten
from trainables.engine.fit import fit
from trainables.files import ARCHITECTURE
from trainables.segmenters.networks import ModelConfig, build_encoder, build_segmenter
from tune.execution.runtimes import LocalRuntime
from tune.experiments import EXPERIMENTS

WITHOUT_EXTRAS = [name for name in EXPERIMENTS if not name.startswith("ssl-")]


def shape(tensor: torch.Tensor) -> str:
    return str(list(tensor.shape))


def leaf_shapes(network: nn.Module, image_size: int) -> Counter[tuple[str, str]]:
    """Count the (class, output shape) of every layer without children in a forward pass, with
    torch's own hooks."""
    found: Counter[tuple[str, str]] = Counter()
    leaves = [m for m in network.modules() if not list(m.children())]
    hooks = [
        m.register_forward_hook(lambda m, _, out: found.update([(type(m).__name__, shape(out))]))
        for m in leaves
    ]
    with torch.no_grad():
        network.eval()(torch.rand(1, 3, image_size, image_size))
    for hook in hooks:
        hook.remove()
    return found


def check_table(network: nn.Module, image_size: int) -> None:
    table = layer_table(network, image_size)
    count = sum(p.numel() for p in network.parameters())
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert f"Total params: {count:,}\n" in table
    assert f"Trainable params: {trained:,}\n" in table
    lines = table.splitlines()
    for (name, output), times in leaf_shapes(network, image_size).items():
        assert sum(f"{name} (" in line and f" {output} " in line for line in lines) >= times, (
            name,
            output,
        )


@pytest.mark.parametrize("name", WITHOUT_EXTRAS)
def test_every_trainable_prints_its_network(name: str) -> None:
    experiment = EXPERIMENTS[name]
    # class weights are counted from training masks, which this data lacks
    plain = {"loss.name": "ce"} if name == "segment" else {}
    config: Any = build(experiment.config, experiment.presets["tiny"] | plain)
    data: Any = SimpleNamespace(classes=("a", "b", "c"), colors=(), gallery=())
    network = experiment.trainable(config, data).network()
    assert network is not None
    check_table(network, config.data.image_size)


def test_what_is_frozen_does_not_train() -> None:
    backbone = build_backbone(BackboneConfig(name="resnet18")).requires_grad_(False)
    head = nn.Linear(512, 3)
    table = layer_table(nn.Sequential(backbone, head), 32)
    assert "Trainable params: 1,539\n" in table
    # torchvision's 11,689,512 without the 513,000 of its fc
    assert "Non-trainable params: 11,176,512\n" in table


@pytest.mark.parametrize(
    ("name", "auxiliary"), [("deeplabv3-resnet50", True), ("fcn32s-vgg16_bn", False)]
)
def test_large_networks_by_shape_alone(name: Any, auxiliary: bool) -> None:
    with torch.device("meta"):  # avoids allocating half a gigabyte
        model = ModelConfig(name=name, head="deconv5")
        network = build_segmenter(
            model, build_encoder(model, BackboneConfig()), 7, auxiliary=auxiliary, loaded=False
        )
    table = layer_table(network, 512)
    assert f"Total params: {sum(p.numel() for p in network.parameters()):,}\n" in table
    assert "[1, 7, 512, 512]" in table


def test_a_printed_run_equals_one_that_is_not(tmp_path: Path) -> None:
    histories, states = [], []
    for printed in (False, True):
        directory = tmp_path / str(printed)
        directory.mkdir()
        torch.manual_seed(0)
        model = Shapes(shapes_config(), shapes())
        if printed:
            mode, generator = model.training, torch.get_rng_state()
            write_architecture(model, directory)
            assert model.training == mode
            assert torch.equal(torch.get_rng_state(), generator)
            (directory / ARCHITECTURE).write_text("kept: a resumed trial has it")
            write_architecture(model, directory)
            assert (directory / ARCHITECTURE).read_text() == "kept: a resumed trial has it"
        fitted = fit(model, model.config, LocalRuntime(directory, lambda epoch, metrics: True))
        histories.append(
            [
                {k: v for k, v in metrics.items() if not k.startswith("time/")}
                for metrics in fitted.history
            ]
        )
        states.append(model.state_dict())
    assert histories[0] == histories[1]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_tables_tell_architectures_apart_and_nothing_else() -> None:
    """The table depends on the width, but not on values that are no part of the network."""
    tables = set()
    for width, lr in ((8, 1e-3), (8, 1e-2), (16, 1e-3)):
        config: Any = build(
            type(shapes_config()),
            flatten(shapes_config()) | {"backbone.width": width, "optim.lr": lr},
        )
        tables.add(layer_table(Shapes(config, shapes()).network(), 32))
    assert len(tables) == 2


def test_heads_of_every_dropout_have_one_table(tmp_path: Path) -> None:
    """An empty file left by a power cut is written again."""
    tables = set()
    for rate in (0.1, 0.37):
        config = replace(FROZEN, head=ClassifierHeadConfig(kind="mlp", dropout=rate))
        (tmp_path / ARCHITECTURE).write_text("")
        model = classifier(replace(config, freeze=FreezeConfig(policy="none")))
        write_architecture(model, tmp_path)
        written = (tmp_path / ARCHITECTURE).read_text()
        assert written == layer_table(model.network(), FROZEN.data.image_size)
        tables.add(written)
    assert len(tables) == 1
