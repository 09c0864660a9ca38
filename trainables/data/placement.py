"""A store on the device: where it fits into the memory of a GPU, batches are gathered there, and
nothing but row numbers crosses the bus.
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
"""Largest share of a device's free memory that a store may take under `auto`."""
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
            # A copy: torch does not take a read-only map.
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
    """The place of a data set's store, decided before a trial."""

    fits: bool
    """The store is, or may be, on the device."""
    store_bytes: int
    """Bytes of its images and masks."""

    def describe(self) -> str:
        """One clause for `--plan`."""
        size = f"{self.store_bytes / 1e9:.2g} GB"
        if self.fits:
            return f"the image store ({size}) lies on the GPU"
        return f"batches come from the image store ({size}) through pinned memory, one ahead"


def placement(data: DataSet, wanted: OnDevice, device: torch.device) -> Placement:
    """Decide whether the store of `data` is to lie on a device.

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
    """Bytes that this process can still take of a device's memory; 0 where it is not known, as on a
    CPU."""
    if device.type != "cuda":
        return 0
    # Not all of these functions take a device without a number.
    number = torch.cuda.current_device() if device.index is None else device.index
    free, total = torch.cuda.mem_get_info(number)

    # Several trials that share a card are given a part of it each.
    allowed = int(torch.cuda.get_per_process_memory_fraction(number) * total)
    own = torch.cuda.memory_reserved(number)
    return min(free, max(0, allowed - own))


def on_device(data: D, wanted: OnDevice, device: torch.device) -> D:
    """The same data, whose training and evaluation batches are gathered on `device` if its store
    may lie there. Kept for the next trial on the same data; other data take its place."""
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
    """Give back the memory of the store that lies on a device."""
    _placed.clear()
    torch.cuda.empty_cache()  # nothing where no GPU is in use


def copied_to(data: D, device: torch.device) -> D:
    """The same data with its store on `device`, whatever kind of device that is."""
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
