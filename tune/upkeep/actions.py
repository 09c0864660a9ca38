"""Rename, archive and delete studies: folder, runs in MLflow and registered model together.

Each action may be killed anywhere and repeated: MLflow comes first, and the folder, which says what
there is to do, last. In an object store the study moves before the folder does (`stored.py`).
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
    """Say what belongs to these studies, a line each."""
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
    """Delete studies for good; their runs stay in MLflow's bin until `mlflow gc`.

    Raises:
        UserError: one of them runs, or MLflow does not answer.
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
    """Take a study out of every list at once, whatever becomes of this process."""
    place = root / DELETED / f"{folder.name}-{secrets.token_hex(4)}"
    while True:
        place.parent.mkdir(exist_ok=True)
        try:
            folder.rename(place)
        except FileNotFoundError:
            if not folder.exists():
                raise
            continue  # another process has removed what lay there
        return


def archive(root: Path, folders: Sequence[Path], side: MlflowSide) -> Path:
    """Move studies out of every list, into `archived/` of the storage, and their runs into MLflow's
    bin. A registered model stays.

    Raises:
        UserError: one of them runs, there is one of that name, or MLflow does not answer.
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
    """Bring studies back that were archived, and their runs in MLflow.

    Args:
        folders: in `archived/`.
    Raises:
        UserError: there is one of that name, or MLflow does not answer.
    """
    _check_free(folders, root)
    with leased(folders) as renew:
        for folder in folders:
            side.restore_runs(side.runs(folder, deleted=True))
        for folder in _group_last(folders):
            move(root, folder, root / folder.name, renew)
    with contextlib.suppress(OSError):  # others are still there
        (root / ARCHIVE).rmdir()


def rename(root: Path, folder: Path, name: str, side: MlflowSide) -> Path:
    """Give a study another name. Seeds, and so everything that it may still draw, stay.

    Returns:
        The folder.
    Raises:
        UserError: a name that cannot be, a study that runs or belongs to a comparison, a registered
            model that cannot have the name, or MLflow does not answer. Nothing was changed.
    """
    check_study_name(name)
    if is_reserved(name):
        raise UserError(f"{name!r} belongs to the storage itself; choose another name")
    place = root / name
    if not is_free(folder, place):
        raise _is_taken(place)
    if group_of(folder) is not None:
        raise UserError(
            f"{folder.name} belongs to a comparison, whose studies bear its name; "
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
    """Put the folder of a comparison, by which its studies are found, behind them: a command that
    was killed finds the rest."""
    return list(reversed(folders))


def _record_name(folder: Path, name: str) -> None:
    """Put the name into the manifest and, once, into the event log, which MLflow follows."""
    manifest = read_manifest(folder / "study.json")
    if manifest.name == name:
        return  # an earlier try was killed

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
