"""Weights that studies start from stay where they are: other trials may overtake theirs."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables.errors import UserError
from trainables.files import BEST
from tune.cli.prepare import Prepared
from tune.object_store import s3
from tune.study.kept_files import pin
from tune.study.manifest import read_manifest
from tune.study.work import WorkId
from tune.upkeep.kept import ARCHIVE


def hold_backbone(prepared: Prepared) -> None:
    """Let the trial that a study starts from keep its weights.

    Raises:
        UserError: they have been removed since they were chosen for this new study.
    """
    weights = Path(prepared.manifest.base.get("init.file") or ".")
    pin(weights)
    is_of_a_trial = weights.name == BEST and s3.address(weights) is None
    is_new = not (prepared.directory / "study.json").exists()
    if is_of_a_trial and is_new and not weights.exists():
        raise UserError(
            f"{weights} has just been removed: other trials of that study have overtaken it; run "
            "the same command again, or name another trial with --backbone"
        )


def pin_for_others(folder: Path) -> None:
    """Let trials that other studies of the storage start from keep their weights: a study that was
    begun by an earlier version has left no mark there."""
    for storage in (folder.parent, folder.parent / ARCHIVE):
        for path in storage.glob("*/study.json"):
            if path.parent == folder:
                continue
            with contextlib.suppress(UserError):
                _pin_origin(read_manifest(path).base, folder)


def _pin_origin(base: Mapping[str, Any], folder: Path) -> None:
    """Keep the weights that a study starts from, if they are those of a trial in this folder."""
    study, _, trial = str(base.get("init.origin") or "").rpartition("/")
    if study == folder.name and trial.isdecimal():
        pin(WorkId(int(trial)).folder(folder) / BEST)
    weights = Path(base.get("init.file") or ".")
    if weights.is_relative_to(folder):
        pin(weights)
