"""`train.compile`: torch.compile of everything that is expensive in every trainable."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.one_trial import one_trial
from tests.shapes import Shapes, shapes_config
from tests.steps import fresh_state
from tests.trainables.engine.test_fit import Recorder
from tests.trainables.test_fewshot import SMALL as FEWSHOT
from trainables.backbone.networks import BackboneConfig
from trainables.base import Batch, CompileMode, TrainConfig
from trainables.byol import BYOLConfig, HeadConfig
from trainables.classifier import Classifier, ClassifierConfig
from trainables.config import build, flatten
from trainables.data import DataConfig
from trainables.engine.fit import train_step
from trainables.segmentation import Segmentation
from tune.experiments import EXPERIMENTS

DIGITS, TINY = DataConfig(name="digits", image_size=16), BackboneConfig(width=8, pool=1)
CLASSIFIER = ClassifierConfig(data=DIGITS, backbone=TINY)
CONFIGS: dict[str, Any] = {
    "ssl": BYOLConfig(
        data=DIGITS,
        backbone=TINY,
        train=TrainConfig(batch_size=32),
        head=HeadConfig(projection_size=16, hidden_size=32),
    ),
    "pretrain": CLASSIFIER,
    "classify": CLASSIFIER,
    "fewshot": FEWSHOT,
    "segment": shapes_config(),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_convolution_is_compiled_if_and_only_if_asked_for(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Segmentation, "load_data", Shapes.load_data)
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, *_, **__: compiled.append(self))
    kind, flat = EXPERIMENTS[name].trainable, flatten(CONFIGS[name])
    data = kind.load_data(CONFIGS[name].data)

    kind(build(type(CONFIGS[name]), {**flat, "train.compile": False}), data)
    assert compiled == []

    trainable = kind(build(type(CONFIGS[name]), {**flat, "train.compile": True}), data)
    inside = {id(module) for outer in compiled for module in outer.modules()}
    convolutions = [module for module in trainable.modules() if isinstance(module, nn.Conv2d)]
    assert convolutions
    assert all(id(module) in inside for module in convolutions)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_only_training_steps_replay_cuda_graphs(
    mode: CompileMode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An evaluation collects the outputs of many batches, which a replay would overwrite: in the
    baseline, the trial, its last pictures, and a repeat's test."""
    ran: list[bool] = []

    def noting(graph: Any, inputs: Any) -> Any:
        def run(*given: Any) -> Any:
            ran.append(torch.is_grad_enabled())
            return graph(*given)

        return run

    compiled = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, mode: compiled(self, backend=noting))
    train = TrainConfig(epochs=1, epoch_images=96, batch_size=32, compile=True, compile_mode=mode)
    try:
        one_trial(tmp_path, "s", "pretrain", replace(CLASSIFIER, train=train), repeats=1)
    finally:
        torch.compiler.reset()

    assert ran.count(True) == 2 * 3  # steps
    assert bool(ran.count(False)) == (mode == "default")  # batches of validation


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_micro_batches_of_cuda_graphs_add_to_gradients_of_their_own(
    mode: CompileMode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next micro-batch would overwrite gradients in the memory of a graph."""
    monkeypatch.setattr(nn.Module, "compile", lambda self, mode: None)
    train = TrainConfig(epochs=1, batch_size=32, micro_batch=8, compile=True, compile_mode=mode)
    config = replace(CLASSIFIER, train=train)
    states = []
    for one in (config, replace(config, train=replace(train, compile=False))):
        torch.manual_seed(0)
        trainable = Classifier(one, Classifier.load_data(one.data))
        forward = trainable.forward
        has_gradients: list[bool] = []

        def noting(batch: Batch) -> Tensor:
            trained = [each for each in trainable.parameters() if each.requires_grad]  # noqa: B023
            has_gradients.append(all(each.grad is not None for each in trained))  # noqa: B023
            return forward(batch)  # noqa: B023

        monkeypatch.setattr(trainable, "forward", noting)
        state = fresh_state(trainable, one, Recorder(tmp_path))
        train_step(state, one, Recorder(tmp_path), 0, 10)
        first, *later = has_gradients
        assert first is (one.train.compile and mode == "reduce-overhead")
        assert later == [True] * 3
        states.append(trainable.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*map(dict.values, states), strict=True))
