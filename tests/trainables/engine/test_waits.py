"""No step of a trainable makes the CPU wait for a GPU."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests import REPO
from tests.shapes import Shapes, shapes_config
from tests.steps import fresh_state
from tests.trainables.engine.test_fit import Recorder
from tests.trainables.test_fewshot import SMALL as FEWSHOT
from tests.waits import Waits
from trainables.augment.joint_augment import JointAugmentConfig
from trainables.augment.view_config import ViewConfig
from trainables.backbone.networks import BackboneConfig
from trainables.base import Trainable, TrainConfig
from trainables.byol import BYOL, BYOLConfig, HeadConfig
from trainables.classifier import Classifier, ClassifierConfig
from trainables.classifiers.losses import LossConfig
from trainables.data import DataConfig
from trainables.devices import send
from trainables.engine.checkpoint import TrainingState
from trainables.engine.feed import tensors_in
from trainables.engine.fit import train_step
from trainables.optim import OptimConfig, build_optimizer
from trainables.protonet import MetricConfig, ProtoNet
from trainables.segmenters.losses import SegmentationLossConfig
from tune.experiments import EXPERIMENTS

DIGITS = DataConfig(name="digits", image_size=16)
TINY = BackboneConfig(width=8, pool=1)
TRAIN = TrainConfig(epochs=2, batch_size=32)
EVERYTHING = ViewConfig(policy="byol", rotate=20.0, vflip=0.5, rot90=0.5)
BYOL_CONFIG = BYOLConfig(
    data=DIGITS,
    backbone=TINY,
    train=TRAIN,
    head=HeadConfig(projection_size=16, hidden_size=32),
    optim=OptimConfig(name="lars", lr=0.1, clip_grad_norm=1.0),
    aug=EVERYTHING,
)
CLASSIFIER = ClassifierConfig(data=DIGITS, backbone=TINY, train=TRAIN, aug=EVERYTHING)
JOINT = JointAugmentConfig(scale_min=0.5, scale_max=2.0, hflip=0.5, rot90=0.5, jitter=0.5)
SEGMENT = shapes_config(aug=JOINT)
STEPS: dict[str, tuple[type[Trainable], Any]] = {
    "ssl": (BYOL, BYOL_CONFIG),
    "ssl sgd": (BYOL, replace(BYOL_CONFIG, optim=OptimConfig(name="sgd", nesterov=True))),
    "classify": (Classifier, CLASSIFIER),
    "classify trivial": (Classifier, replace(CLASSIFIER, aug=ViewConfig(policy="trivial"))),
    "classify mixed": (Classifier, replace(CLASSIFIER, loss=LossConfig(mixup=0.4, cutmix=1.0))),
    "classify focal": (Classifier, replace(CLASSIFIER, loss=LossConfig(focal_gamma=2.0))),
    "fewshot": (ProtoNet, FEWSHOT),
    "fewshot cosine": (ProtoNet, replace(FEWSHOT, head=MetricConfig(distance="cosine"))),
    "fewshot parametric": (ProtoNet, replace(FEWSHOT, head=MetricConfig(distance="parametric"))),
    "segment": (Shapes, SEGMENT),
    "segment dice": (Shapes, replace(SEGMENT, loss=SegmentationLossConfig(name="ce_dice"))),
    "segment focal": (Shapes, replace(SEGMENT, loss=SegmentationLossConfig(name="focal"))),
    "segment lovasz": (Shapes, replace(SEGMENT, loss=SegmentationLossConfig(name="lovasz"))),
    "segment weighted": (Shapes, replace(SEGMENT, loss=SegmentationLossConfig(name="weighted_ce"))),
}
STEPS["ssl averaged"] = (BYOL, replace(BYOL_CONFIG, train=replace(TRAIN, ema=0.9)))
LIGHTLY: dict[str, list[str]] = {
    "ssl-simclr": ["index", "index", "index_put", "index_put"],
    "ssl-moco": ["_local_scalar_dense"],
    "ssl-vicreg": ["index", "index", "index_put", "index_put"],
    "ssl-dino": [],
}
"""Method of lightly -> the operations of its loss that wait: masks over pairs of a batch, forward
and backward, and the position in the queue."""
every_step = pytest.mark.parametrize("name", [*STEPS, *LIGHTLY])


def of_lightly(name: str) -> tuple[type[Trainable], Any]:
    """Return a method whose loss is lightly's; skip the test if lightly is not installed."""
    pytest.importorskip("lightly")
    experiment = EXPERIMENTS[name]
    head = type(experiment.config().head)(projection_size=16, hidden_size=32)
    return experiment.trainable, experiment.config(
        data=DIGITS, backbone=TINY, train=TRAIN, head=head
    )


def begun(name: str, directory: Path, device: str = "cpu") -> tuple[TrainingState, Any, Recorder]:
    """Return a trainable after its first step, in which optimizers create their moments."""
    kind, config = of_lightly(name) if name in LIGHTLY else STEPS[name]
    runtime = Recorder(directory)
    runtime.device = torch.device(device)
    torch.manual_seed(0)
    trainable = kind(config, kind.load_data(config.data)).to(runtime.device)
    optimizer = build_optimizer(trainable.param_groups(config.optim.weight_decay), config.optim)
    state = fresh_state(trainable, config, runtime, optimizer)
    trainable.train()
    train_step(state, config, runtime, 0, 10)
    return state, config, runtime


@every_step
def test_a_step_reads_nothing_back(name: str, tmp_path: Path) -> None:
    state, config, runtime = begun(name, tmp_path)
    waits = Waits.of(state)
    with waits.watching(state.batches.feed), waits:
        loss = train_step(state, config, runtime, 1, 10)
    assert waits.holds(loss)
    assert (waits.found, waits.mixed) == (LIGHTLY.get(name, []), [])


def scalar(x: Tensor) -> None:
    float(x.sum())


def mask(x: Tensor) -> None:
    x[x > 0]


def masked_write(x: Tensor) -> None:
    x.clone()[x > 0] = 0


def backward(x: Tensor) -> None:
    """Read a value back in the backward pass of an autograd function."""

    class Reads(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, y: Tensor) -> Tensor:
            return y * 2

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * gradient.sum().item()

    Reads.apply(x.clone().requires_grad_()).sum().backward()


@pytest.mark.parametrize(
    ("reads", "expected"),
    [
        (scalar, ["_local_scalar_dense"]),
        (mask, ["index"]),
        (masked_write, ["index_put_"]),
        (backward, ["_local_scalar_dense"]),
        (lambda x: x.nonzero(), ["nonzero"]),
        (lambda x: x.cpu(), ["cpu"]),
        (lambda x: x.to("cpu"), ["to"]),
        (lambda x: x.tolist(), ["tolist"]),
        (lambda x: (x * 2).numpy(), ["numpy"]),
        (lambda x: torch.tensor([0, 2]).tolist(), []),
    ],
)
def test_what_waits_is_found(reads: Callable[[Tensor], Any], expected: list[str]) -> None:
    x = torch.arange(6.0)
    with Waits([x]) as waits:
        reads(x)
    assert waits.found == expected


@pytest.mark.parametrize(
    ("meet", "expected"),
    [
        (lambda x, apart: x + apart, ["add"]),
        (lambda x, apart: x[apart], ["index"]),
        (lambda x, apart: x + send(apart, x.device), []),
        (lambda x, apart: x + torch.zeros(6, device=x.device), []),
        (lambda x, apart: functional.one_hot(x.long(), 6), []),
    ],
)
def test_what_a_gpu_would_refuse_is_found(
    meet: Callable[[Tensor, Tensor], Any], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.arange(6.0)
    apart = torch.arange(6)
    with Waits([x]) as waits:
        monkeypatch.setitem(globals(), "send", waits.send)
        meet(x, apart)
    assert waits.mixed == expected


def test_copies_to_a_device_go_through_pinned_memory() -> None:
    """Only `send` copies without waiting. Creating a tensor on a GPU from Python numbers is a copy
    that waits."""
    waiting = re.compile(r"non_blocking|torch\.(?:as_)?tensor\([^\n]*device=")
    allowed = {"devices.py", "checkpoint.py"}  # the loss sum of a checkpoint, once per start
    found = [
        f"{path.relative_to(REPO)}: {line.strip()}"
        for path in sorted((REPO / "trainables").rglob("*.py"))
        if path.name not in allowed
        for line in path.read_text().splitlines()
        if waiting.search(line)
    ]
    assert found == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@every_step
def test_a_step_waits_for_no_gpu(name: str, tmp_path: Path) -> None:
    if LIGHTLY.get(name):
        pytest.skip("the loss of lightly waits")
    state, config, runtime = begun(name, tmp_path, "cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = [train_step(state, config, runtime, step, 10) for step in range(1, 4)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert np.isfinite([float(loss) for loss in losses]).all()


def test_tensors_are_found_in_what_a_batch_is_made_of() -> None:
    kind, config = STEPS["classify mixed"]
    trainable = kind(config, kind.load_data(config.data))
    batch = trainable.draw(np.arange(4), torch.Generator())
    found = list(tensors_in(batch))
    partners = batch.draws[1]
    for wanted in (batch.images, batch.targets, partners.images, partners.boxes):
        assert any(wanted is tensor for tensor in found)
