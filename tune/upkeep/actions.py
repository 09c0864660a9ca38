"""Rename, archive and delete studies: folder, MLflow runs and registered model together.

Each action can be repeated after a kill at any point: MLflow is changed first, and the folder,
which tells what remains to be done, last. In an object store the study's objects move before the
local folder does (`stored.py`).
"""

import contextlib
import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from trainables.errors import UserError
from tune.object_store.s3 import address
from tune.study.events import EventLog
from tune.study.identity import check_study_name
from tune.study.manifest import Manifest, read_manifest
from tune.upkeep.kept import (
    ARCHIVE,
    DELETED,
    dependents,
    group_of,
    held,
    is_reserved,
    keep_weights,
    remove_deleted,
)
from tune.upkeep.mlflow_side import MlflowSide
from tune.upkeep.stored import delete_stored, is_free, leased, move, size_of


def description(root: Path, folders: Sequence[Path], side: MlflowSide) -> list[str]:
    """Return one line per study about what belongs to it, and one per study that depends on its
    weights."""
    lines = []
    for folder in folders:
        trials, size = size_of(folder)
        parts = [f"{trials} trials", f"{size / 1e6:.1f} MB"]

        runs = len(side.runs(folder))
        if runs:
            parts.append(f"{runs} runs in MLflow")
        versions = side.versions(folder)
        if versions:
            parts.append(f"registered model, version {', '.join(versions)}")
        lines.append(f"{address(folder) or folder}: {'; '.join(parts)}")

    for one in dependents(root, list(folders)):
        lines.append(f"study {one.name} starts from its weights, which are kept for it")
    return lines


def delete(root: Path, folders: Sequence[Path], side: MlflowSide) -> None:
    """Delete studies permanently; MLflow keeps their runs as deleted until `mlflow gc`.

    Raises:
        UserError: one of them is running, or MLflow does not respond.
    """
    with held(list(folders)) as renew:
        keep_weights(root, dependents(root, list(folders)))
        for folder in folders:
            side.delete_runs(side.runs(folder))
            side.delete_model(folder)
        for folder in _group_last(folders):
            delete_stored(root, folder, renew)
            _take_out(root, folder)

    remove_deleted(root)


def _take_out(root: Path, folder: Path) -> None:
    """Move a study's folder away in one step, so that it disappears from every list even if this
    process is killed."""
    place = root / DELETED / f"{folder.name}-{secrets.token_hex(4)}"
    while True:
        place.parent.mkdir(exist_ok=True)
        try:
            folder.rename(place)
        except FileNotFoundError:
            if not folder.exists():
                raise
            continue  # another process has removed `.deleted` meanwhile
        return


def archive(root: Path, folders: Sequence[Path], side: MlflowSide) -> Path:
    """Move studies to `archived/` in the storage, where no list shows them, and mark their MLflow
    runs as deleted. A registered model stays.

    Raises:
        UserError: one of them is running, the archive already has one of that name, or MLflow does
            not respond.
    """
    to = root / ARCHIVE
    _check_free(folders, to)
    with held(list(folders)) as renew:
        keep_weights(root, dependents(root, list(folders)))
        for folder in folders:
            side.delete_runs(side.runs(folder))
        to.mkdir(exist_ok=True)
        for folder in _group_last(folders):
            move(root, folder, to / folder.name, renew)
    return to


def restore(root: Path, folders: Sequence[Path], side: MlflowSide) -> None:
    """Restore archived studies and their MLflow runs.

    Args:
        folders: folders of the studies in `archived/`.
    Raises:
        UserError: a study of that name exists, or MLflow does not respond.
    """
    _check_free(folders, root)
    with leased(folders) as renew:
        for folder in folders:
            side.restore_runs(side.runs(folder, deleted=True))
        for folder in _group_last(folders):
            move(root, folder, root / folder.name, renew)
    with contextlib.suppress(OSError):  # other studies are still archived
        (root / ARCHIVE).rmdir()


def rename(root: Path, folder: Path, name: str, side: MlflowSide) -> Path:
    """Rename a study. Its seeds stay the same, and therefore everything that it may still draw.

    Returns:
        The new folder.
    Raises:
        UserError: the name is invalid or taken, the study is running or belongs to a comparison,
            the registered model cannot have the name, or MLflow does not respond. Nothing was
            changed.
    """
    check_study_name(name)
    if is_reserved(name):
        raise UserError(f"{name!r} belongs to the storage itself; choose another name")
    place = root / name
    if not is_free(folder, place):
        raise _is_taken(place)
    if group_of(folder) is not None:
        raise UserError(
            f"{folder.name} belongs to a comparison, whose studies carry its name; "
            "it cannot be renamed"
        )

    with held([folder]) as renew:
        side.check_rename(folder, name)
        keep_weights(root, dependents(root, [folder]))
        _record_name(folder, name)
        side.rename_model(folder, name)
        move(root, folder, place, renew)
    return place


def _group_last(folders: Sequence[Path]) -> list[Path]:
    """Order the folder of a comparison after its studies, which are found through it. A repeated
    command then finds the rest after a kill."""
    return list(reversed(folders))


def _record_name(folder: Path, name: str) -> None:
    """Write the name to the manifest and, once, to the event log, which MLflow follows."""
    manifest = read_manifest(folder / "study.json")
    if manifest.name == name:
        return  # an earlier attempt was killed

    log = EventLog(folder / "events.jsonl")
    log.append("rename", name=name)
    log.close()
    _with_name(manifest, name).write(folder / "study.json")


def _with_name(manifest: Manifest, name: str) -> Manifest:
    begun_as = None if name == manifest.identity else manifest.identity
    return replace(manifest, name=name, begun_as=begun_as)


def _check_free(folders: Sequence[Path], into: Path) -> None:
    for folder in folders:
        place = into / folder.name
        if not is_free(folder, place):
            raise _is_taken(place)


def _is_taken(place: Path) -> UserError:
    shown = address(place) or place
    return UserError(f"{shown} already exists; rename or delete it first")
