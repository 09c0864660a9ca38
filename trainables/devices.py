"""The choice of a trial's device, made in one place, and copies of tensors to it.

A GPU works through a queue that the CPU fills. The CPU should wait for the GPU only when it needs a
number. A copy from ordinary memory makes it wait; one from pinned memory does not.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from trainables.errors import UserError

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
"""Values of `train.device`."""

_FALLBACK = "PYTORCH_ENABLE_MPS_FALLBACK"
_BY_NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"
_OUTSIDE_BYTES = 600 << 20
"""GPU memory set aside for what a process takes outside torch's allocator: CUDA's context and the
kernels of the libraries."""


def choose_device(wanted: str = "auto") -> torch.device:
    """Choose the device of this process.

    Args:
        wanted: a `DeviceName`. auto: the GPU that this process may see, else the CPU.
    Raises:
        UserError: this machine has no such device.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"

    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "train.device=cuda, but torch sees no such GPU here; use train.device=auto, "
            "or install a driver and a torch with CUDA"
        )
    if wanted == "mps":
        _check_mps()
    return torch.device(wanted)


def check_device(wanted: str) -> None:
    """Check that this machine has a device. CUDA is not initialised, because forks of this process
    could not use it then.

    Args:
        wanted: a `DeviceName`.
    Raises:
        UserError: it has not.
    """
    if wanted in ("auto", "cpu"):
        return
    before = os.environ.get(_BY_NVML)
    os.environ[_BY_NVML] = "1"
    try:
        choose_device(wanted)
    finally:
        del os.environ[_BY_NVML]
        if before is not None:
            os.environ[_BY_NVML] = before


def _check_mps() -> None:
    """Refuse a machine without an Apple GPU, and a process in which an operation that this GPU
    lacks would raise an error."""
    if not torch.backends.mps.is_available():
        raise UserError(
            "train.device=mps, but torch finds no GPU of Apple's here; use train.device=auto"
        )
    if os.environ.get(_FALLBACK) != "1":
        raise UserError(
            f"train.device=mps needs {_FALLBACK}=1 in the environment: "
            "what that GPU lacks then runs on the CPU"
        )


def settle_device(wanted: str, found: torch.device) -> torch.device:
    """Choose the device of a trial whose runtime found `found`, such as its own GPU out of several.

    Raises:
        UserError: this machine has no such device.
    """
    if wanted in ("auto", found.type):
        return found
    return choose_device(wanted)


def limit_memory(share: float) -> None:
    """Limit this process to a share of its GPU's memory. A trial that needs more then halves its
    own micro-batch, instead of taking memory from the trials that share the GPU.

    torch counts its tensors alone. So a process that shares its GPU may fill its share less
    `_OUTSIDE_BYTES`, but at least half of it.

    Args:
        share: in (0, 1]. No effect if this process sees no CUDA GPU.
    """
    if not torch.cuda.is_available():
        return
    if share < 1:
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        share = max(share / 2, share - _OUTSIDE_BYTES / total)
    torch.cuda.set_per_process_memory_fraction(share)


def describe_device(device: torch.device) -> str:
    """Describe a device to a reader, with its limits."""
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        return f"{about.name}, {about.total_memory / 2**30:.0f} GiB"
    if device.type == "mps":
        return "Apple's GPU (mps); what it lacks runs on the CPU, as do sums in float64"
    return "CPU"


def send(x: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device without waiting; a tensor that is already there is returned as is.

    The copy goes through pinned memory, whose pages the allocator reuses. The tensor is made
    contiguous first, because torch would otherwise do so in ordinary memory.
    """
    if device.type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    pinned = x.contiguous().pin_memory()
    return pinned.to(device, non_blocking=True)


@contextlib.contextmanager
def in_float32(device: torch.device) -> Iterator[None]:
    """Run a block in full float32: without autocast, and without TF32 on a GPU.

    Positions in an image, and distances, need more precision than the 8 bits of bfloat16 or the 11
    bits of TF32, to which matrix products would be rounded.
    """
    if not torch.amp.is_autocast_available(device.type):
        yield
        return
    if device.type != "cuda":
        with torch.autocast(device.type, enabled=False):
            yield
        return

    switches = _tf32_switches()
    before = [getattr(owner, name) for owner, name, _ in switches]
    for owner, name, off in switches:
        setattr(owner, name, off)
    try:
        with torch.autocast("cuda", enabled=False):
            yield
    finally:
        for (owner, name, _), value in zip(switches, before, strict=True):
            setattr(owner, name, value)


def _tf32_switches() -> list[tuple[Any, str, bool | str]]:
    """Return the settings of torch that allow TF32, each with the value that forbids it.

    torch has two names for each. Once a program has used the newer ones, torch refuses to read the
    older ones.
    """
    products: Any = torch.backends.cuda.matmul
    convolutions: Any = torch.backends.cudnn
    older: list[tuple[Any, str, bool | str]]
    older = [(products, "allow_tf32", False), (convolutions, "allow_tf32", False)]
    try:
        for owner, name, _ in older:
            getattr(owner, name)
    except RuntimeError:
        return [(products, "fp32_precision", "ieee"), (convolutions.conv, "fp32_precision", "ieee")]
    return older


def sum_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype for sums over many images on a device: float64 if the device supports
    it."""
    return torch.float32 if device.type == "mps" else torch.float64


def to_double(x: Tensor) -> Tensor:
    """Convert to float64, on the CPU if the device lacks it."""
    if x.device.type == "mps":
        x = x.cpu()
    return x.double()
