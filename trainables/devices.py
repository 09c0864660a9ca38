"""The device that a trial computes on, chosen in one place, and the way of tensors to it.

A GPU works through a queue. The CPU fills it, and must not wait for the GPU but where a number is
wanted: a copy from ordinary memory waits, one from pinned memory does not.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from trainables.errors import UserError

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
"""Values of `train.device`."""

_FALLBACK = "PYTORCH_ENABLE_MPS_FALLBACK"


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


def _check_mps() -> None:
    """Refuse a machine without Apple's GPU, and a process in which an operation that it lacks would
    be an error."""
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
    """Choose the device of a trial whose runtime has found `found`, such as its own GPU of several.

    Raises:
        UserError: this machine has no such device.
    """
    if wanted in ("auto", found.type):
        return found
    return choose_device(wanted)


def limit_memory(share: float) -> None:
    """Let this process take at most this share of its GPU's memory: a trial that needs more halves
    its own micro-batch, instead of leaving none to those that share the GPU with it.

    Args:
        share: in (0, 1]. Nothing happens where this process sees no GPU of CUDA.
    """
    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share)


def describe_device(device: torch.device) -> str:
    """Name a device for a reader, with its limits."""
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        return f"{about.name}, {about.total_memory / 2**30:.0f} GiB"
    if device.type == "mps":
        return "Apple's GPU (mps); what it lacks runs on the CPU, as do sums in float64"
    return "CPU"


def send(x: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device without waiting for it; one that already exists is returned.

    The copy goes through pinned memory, whose pages the allocator keeps for the next one. Gaps
    between values are closed first: torch would do it in ordinary memory.
    """
    if device.type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    pinned = x.contiguous().pin_memory()
    return pinned.to(device, non_blocking=True)


@contextlib.contextmanager
def in_float32(device: torch.device) -> Iterator[None]:
    """Compute a block in full float32: without autocast, and without TF32 on a GPU.

    Positions in an image, and distances, need more than the 8 bits of bfloat16, or the 11 of TF32,
    to which the products that make them would be rounded.
    """
    if not torch.amp.is_autocast_available(device.type):
        yield
        return
    if device.type != "cuda":
        with torch.autocast(device.type, enabled=False):
            yield
        return

    products = torch.backends.cuda.matmul.allow_tf32
    convolutions = torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast("cuda", enabled=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = products
        torch.backends.cudnn.allow_tf32 = convolutions


def sum_dtype(device: torch.device) -> torch.dtype:
    """Return the floating-point type in which sums over many images are kept on a device: float64
    where it has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def to_double(x: Tensor) -> Tensor:
    """Convert to float64, on the CPU where the device lacks it."""
    if x.device.type == "mps":
        x = x.cpu()
    return x.double()
