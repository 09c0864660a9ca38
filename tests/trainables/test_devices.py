"""The device of a process, and the operations that compute in full precision on it."""

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trainables.devices import (
    check_device,
    choose_device,
    in_float32,
    limit_memory,
    send,
    settle_device,
    sum_dtype,
    to_double,
)
from trainables.errors import UserError

CPU = torch.device("cpu")


@pytest.mark.parametrize(("found", "expected"), [(True, "cuda"), (False, "cpu")])
def test_auto_is_the_gpu_where_there_is_one(
    found: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: found)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)  # never chosen by itself
    assert choose_device() == torch.device(expected)
    assert choose_device("cpu") == CPU


def test_a_device_that_is_not_there_is_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"train.device=cuda, .* use train.device=auto"):
        choose_device("cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"train.device=mps, .* use train.device=auto"):
        choose_device("mps")


def test_a_check_of_a_device_does_not_initialise_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """With this variable torch asks NVML, so forks of the process can still use the GPU."""
    name = "PYTORCH_NVML_BASED_CUDA_CHECK"
    monkeypatch.setenv(name, "0")
    seen: list[str | None] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(seen.append(os.environ[name])))
    with pytest.raises(UserError, match="torch sees no such GPU"):
        check_device("cuda")
    assert (seen, os.environ[name]) == (["1"], "0")
    check_device("auto")
    check_device("cpu")
    assert len(seen) == 1


def test_mps_needs_its_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.delenv("PYTORCH_ENABLE_MPS_FALLBACK", raising=False)
    with pytest.raises(UserError, match="PYTORCH_ENABLE_MPS_FALLBACK=1"):
        choose_device("mps")
    monkeypatch.setenv("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    assert choose_device("mps").type == "mps"


def test_a_worker_keeps_the_gpu_that_it_was_given() -> None:
    second = torch.device("cuda:1")
    assert settle_device("auto", second) is second
    assert settle_device("cuda", second) is second
    assert settle_device("cpu", second) == CPU


@pytest.mark.parametrize(
    ("share", "total_gb", "expected_gb"),
    [
        (1.0, 80, 80.0),  # nobody else is there
        (0.25, 80, 20 - 0.6291456),  # of each trial's 20 GB, CUDA itself takes some
        (0.125, 8, 0.5),  # never less than half of the share
    ],
)
def test_trials_that_share_a_gpu_leave_room_for_cuda_itself(
    share: float, total_gb: int, expected_gb: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = SimpleNamespace(total_memory=total_gb * 10**9)
    limits: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: about)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limits.append)
    limit_memory(share)
    assert limits == [pytest.approx(expected_gb / total_gb)]


def test_a_tensor_that_is_there_is_not_copied() -> None:
    x = torch.arange(3)
    assert send(x, CPU) is x


def test_autocast_ends_where_full_precision_begins() -> None:
    x = torch.randn(8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with in_float32(CPU):
            assert torch.equal(x @ x, x.matmul(x))
            assert (x @ x).dtype == torch.float32
        assert (x @ x).dtype == torch.bfloat16


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
def test_tf32_is_off_in_it_and_comes_back() -> None:
    products = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    convolutions = torch.backends.cudnn.allow_tf32
    try:
        with in_float32(torch.device("cuda")):
            assert not torch.backends.cuda.matmul.allow_tf32
            assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.allow_tf32 == convolutions
    finally:
        torch.backends.cuda.matmul.allow_tf32 = products


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
@pytest.mark.parametrize(("changed", "value"), [(0, "tf32"), (1, "ieee")])
def test_tf32_set_by_its_newer_name_is_off_in_it_too(changed: int, value: str) -> None:
    """torch then refuses to read the older name, `allow_tf32`."""
    owners: tuple[Any, Any] = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    default = owners[changed].fp32_precision
    owners[changed].fp32_precision = value
    before = [owner.fp32_precision for owner in owners]
    try:
        with in_float32(torch.device("cuda")):
            assert [owner.fp32_precision for owner in owners] == ["ieee", "ieee"]
        assert [owner.fp32_precision for owner in owners] == before
    finally:
        owners[changed].fp32_precision = default


def test_sums_are_in_float64_where_the_device_has_it() -> None:
    assert sum_dtype(CPU) == sum_dtype(torch.device("cuda")) == torch.float64
    assert sum_dtype(torch.device("mps")) == torch.float32
    assert to_double(torch.tensor([True])).dtype == torch.float64
