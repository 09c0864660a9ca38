"""The checkpoints of a function's trial."""

import os
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trainables.engine.checkpoint import save_checkpoint
from trainables.files import BEST, HISTORY, LAST

NEXT = ".next.pt"
"""A save whose epoch has not been reported yet."""
OURS = "vistune"
"""Key in a checkpoint for vistune's own data."""
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


class Saves:
    """The checkpoints of a trial: a save is staged first, and takes its place when it counts.

    Args:
        folder: folder of the trial.
        device: device for tensors that are read.
        writes: False in all workers except rank 0.
    """

    def __init__(self, folder: Path, device: torch.device, *, writes: bool):
        self.is_staged = False
        """A save is waiting to count."""
        self._folder = folder
        self._device = device
        self._writes = writes
        self._is_checked = False

    def stage(self, parts: Mapping[str, Any], epoch: int) -> None:
        """Write a save that does not count yet.

        Raises:
            ValueError: a part cannot be read back.
        """
        if not self._writes:
            return
        path = self._folder / NEXT
        save_checkpoint(path, {**parts, OURS: {"epoch": epoch}})
        if not self._is_checked:
            check_readable(path, parts)
            self._is_checked = True
        self.is_staged = True

    def keep(self, *, is_best: bool) -> None:
        """Make the staged save the one to resume from."""
        self.is_staged = False
        staged = self._folder / NEXT
        if is_best:
            replace_by_link(staged, self._folder / BEST)
        staged.replace(self._folder / LAST)

    def drop(self) -> None:
        """Remove a save that never counted."""
        if self._writes:
            (self._folder / NEXT).unlink(missing_ok=True)

    def read(self, name: str) -> dict[str, Any]:
        """Return what a save was given, on the device."""
        path = self._folder / name
        content = torch.load(path, map_location=self._device, weights_only=True)
        return {key: value for key, value in content.items() if key != OURS}


def saved_epoch(folder: Path) -> int | None:
    """Number of epochs done before the checkpoint in a trial's folder; None if there is none of
    ours, because the function may write a file of that name itself."""
    path = folder / LAST
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        epoch = int(content[OURS]["epoch"])
    except (pickle.UnpicklingError, RuntimeError, LookupError, TypeError):
        return None

    # Without the earlier reports the best epoch is unknown, so the trial begins anew.
    is_known = epoch == 0 or (folder / HISTORY).exists()
    return epoch if is_known else None


def check_readable(path: Path, parts: Mapping[str, Any]) -> None:
    """Check now that a checkpoint can be read when the trial resumes."""
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        path.unlink()
        raise ValueError(
            f"run.save takes tensors, numbers, texts, lists and dictionaries, such as "
            f"model=model.state_dict(); got {_first_foreign('', parts)}"
        ) from error


def _first_foreign(place: str, value: Any) -> str:
    """Name and type of the first value within another that a checkpoint must not contain; "" if
    there is none."""
    if isinstance(value, Mapping):
        entries = [
            (f"{place}[{key!r}]" if place else str(key), part) for key, part in value.items()
        ]
    elif isinstance(value, list | tuple):
        entries = [(f"{place}[{index}]", part) for index, part in enumerate(value)]
    else:
        known = type(value) in _PLAIN or isinstance(value, torch.Tensor)
        return "" if known else f"{place} of type {type(value).__name__}"
    found = (_first_foreign(*entry) for entry in entries)
    return next(filter(None, found), "")


def replace_by_link(source: Path, target: Path) -> None:
    """Make `target` a hard link to a file, in one step; a copy if the disk has no hard links."""
    link = target.with_name(f".{target.name}.link")
    link.unlink(missing_ok=True)
    try:
        os.link(source, link)
    except OSError:
        shutil.copyfile(source, link)
    link.replace(target)
