"""The resolution of `train.numerics` on each device."""

from pathlib import Path

import pytest
import torch

from tests.toy import ToyConfig
from tests.trainables.engine.test_fit import Recorder, train
from trainables.base import TrainConfig
from trainables.byol import BYOLConfig
from trainables.engine import numerics
from trainables.engine.numerics import describe_numerics, has_bfloat16, settle_numerics

CPU = torch.device("cpu")
GPU = torch.device("cuda")
AUTO = BYOLConfig(train=TrainConfig(numerics="auto"))


def test_a_cpu_computes_as_it_is_told() -> None:
    assert not has_bfloat16(CPU)
    assert settle_numerics(AUTO, CPU) is AUTO


@pytest.mark.parametrize("has_it", [True, False])
def test_a_gpu_with_bfloat16_computes_in_it(has_it: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "has_bfloat16", lambda device: has_it)
    settled = settle_numerics(AUTO, GPU).train
    assert (settled.bf16, settled.channels_last) == (has_it, has_it)
    assert settle_numerics(BYOLConfig(), GPU) == BYOLConfig()


def test_emulated_bfloat16_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_supported(including_emulation: bool = True) -> bool:
        return including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    assert not has_bfloat16(GPU)


def test_the_plan_names_what_was_chosen() -> None:
    assert describe_numerics(TrainConfig(), CPU) == (
        "device: CPU (train.device=auto); float32, channels first, not compiled "
        "(train.numerics=as_set); the optimizer updates one tensor after the other"
    )
    told = describe_numerics(TrainConfig(bf16=True, channels_last=True, compile=True), CPU)
    for word in ("bfloat16", "channels_last", "torch.compile"):
        assert word in told


@pytest.mark.parametrize("bf16", [True, False])
def test_an_epoch_in_bfloat16_says_so(bf16: bool, tmp_path: Path) -> None:
    """A study's config says `auto`, whatever its devices resolve it to."""
    runtime = Recorder(tmp_path)
    train(ToyConfig(train=TrainConfig(epochs=1, batch_size=20, bf16=bf16)), runtime)
    ((_, metrics),) = runtime.reports
    assert metrics.get("train/bf16") == (1.0 if bf16 else None)
