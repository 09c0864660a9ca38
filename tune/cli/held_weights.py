"""Keep the weights that studies start from, although better trials might otherwise cause their
removal."""

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
    """Make the trial that a study starts from keep its weights.

    Raises:
        UserError: the weights were removed after they had been chosen for this new study.
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
    """Make trials that other studies of the storage start from keep their weights. Studies started
    by an earlier version have left no mark there."""
    for storage in (folder.parent, folder.parent / ARCHIVE):
        for path in storage.glob("*/study.json"):
            if path.parent == folder:
                continue
            with contextlib.suppress(UserError):
                _pin_origin(read_manifest(path).base, folder)


def _pin_origin(base: Mapping[str, Any], folder: Path) -> None:
    """Pin the weights that a study starts from, if they belong to a trial in this folder."""
    study, _, trial = str(base.get("init.origin") or "").rpartition("/")
    if study == folder.name and trial.isdecimal():
        pin(WorkId(int(trial)).folder(folder) / BEST)
    weights = Path(base.get("init.file") or ".")
    if weights.is_relative_to(folder):
        pin(weights)
