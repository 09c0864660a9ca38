"""Copies of a store on the device. If a store fits into a GPU's memory, batches are gathered there,
and only row numbers cross the bus.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from trainables.data.splits import DataSet, Split
from trainables.devices import send

OnDevice = Literal["auto", "always", "never"]
"""Values of `data.on_device`."""

FREE_SHARE = 0.4
"""Largest share of a device's free memory that a store may take with `auto`."""
_CHUNK_BYTES = 64 << 20  # read and copied at a time

D = TypeVar("D", bound=DataSet)
_placed: dict[tuple[DataSet, OnDevice, torch.device], Any] = {}  # at most one


class DeviceRows:
    """The rows of an array, copied to a device."""

    def __init__(
        self,
        array: np.ndarray,  # (N, ...) uint8
        device: torch.device,
    ):
        self.rows = torch.empty(array.shape, dtype=torch.uint8, device=device)
        row_bytes = max(1, array.nbytes // max(1, len(array)))
        step = max(1, _CHUNK_BYTES // row_bytes)
        for start in range(0, len(array), step):
            # Copy, because torch does not accept a read-only memory map.
            part = torch.from_numpy(array[start : start + step].copy())
            self.rows[start : start + step] = part

    def take(
        self,
        rows: np.ndarray,  # (B,) int64
    ) -> Tensor:  # (B, ...) uint8, on the device
        """Gather rows, without waiting for the device."""
        index = send(torch.from_numpy(rows), self.rows.device)
        return self.rows.index_select(0, index)


@dataclass(frozen=True)
class Placement:
    """Place of a data set's store, decided before a trial."""

    fits: bool
    """True if the store is, or may be, on the device."""
    store_bytes: int
    """Size of its images and masks, in bytes."""

    def describe(self) -> str:
        """One clause for `--plan`."""
        size = f"{self.store_bytes / 1e9:.2g} GB"
        if self.fits:
            return f"the image store ({size}) lies on the GPU"
        return f"batches come from the image store ({size}) through pinned memory, one ahead"


def placement(data: DataSet, wanted: OnDevice, device: torch.device) -> Placement:
    """Decide if the store of `data` goes to a device.

    Args:
        wanted: auto: on a CUDA device, if it takes at most `FREE_SHARE` of the free memory.
    """
    arrays = _arrays(data)
    store_bytes = sum(array.nbytes for array in arrays.values())
    if device.type == "cpu" or wanted == "never":
        return Placement(fits=False, store_bytes=store_bytes)

    fits = wanted == "always" or store_bytes <= FREE_SHARE * free_memory(device)
    return Placement(fits=fits, store_bytes=store_bytes)


def free_memory(device: torch.device) -> int:
    """Bytes of a device's memory that this process can still allocate; 0 if unknown, as on a
    CPU."""
    if device.type != "cuda":
        return 0
    # Some of these functions need a device with a number.
    number = torch.cuda.current_device() if device.index is None else device.index
    free, total = torch.cuda.mem_get_info(number)

    # Trials that share a GPU are each limited to a part of it.
    allowed = int(torch.cuda.get_per_process_memory_fraction(number) * total)
    own = torch.cuda.memory_reserved(number)
    return min(free, max(0, allowed - own))


def on_device(data: D, wanted: OnDevice, device: torch.device) -> D:
    """The same data, with batches gathered on `device` if its store may be placed there. The copy
    is kept for the next trial on the same data; other data replace it."""
    if device.type == "cpu" or wanted == "never":
        return data

    asked = (data, wanted, device)
    if asked not in _placed:
        forget_placed()
        fits = placement(data, wanted, device).fits
        _placed[asked] = copied_to(data, device) if fits else data
    placed: D = _placed[asked]
    return placed


def forget_placed() -> None:
    """Free the memory of the store on a device."""
    _placed.clear()
    torch.cuda.empty_cache()  # no effect if no GPU is in use


def copied_to(data: D, device: torch.device) -> D:
    """The same data with its store on `device`, which may be of any kind."""
    copies = {key: DeviceRows(array, device) for key, array in _arrays(data).items()}

    def placed(split: Split) -> Split:
        masks = None if split.mask_images is None else copies[id(split.mask_images)]
        return replace(split, device_images=copies[id(split.images)], device_masks=masks)

    gallery = None if data.gallery is None else placed(data.gallery)
    return replace(
        data,
        train=placed(data.train),
        gallery=gallery,
        val=placed(data.val),
        test=placed(data.test),
    )


def _arrays(data: DataSet) -> dict[int, np.ndarray]:
    """Arrays of images and masks that the splits share, by identity."""
    splits = [data.train, data.val, data.test]
    if data.gallery is not None:
        splits.append(data.gallery)

    arrays = {}
    for split in splits:
        arrays[id(split.images)] = split.images
        if split.mask_images is not None:
            arrays[id(split.mask_images)] = split.mask_images
    return arrays
