"""Find the studies that a maintenance command concerns, and lock them so that no other process runs
them."""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from trainables.files import atomic_file, content_hash
from tune.backbones.resolve import found_weights, shelf
from tune.object_store import s3
from tune.object_store.removals import Renew
from tune.reports.drawing_claim import DrawingClaim
from tune.reports.storage import find_study, study_folders
from tune.study.events import EventLog
from tune.study.group import is_group
from tune.study.lock import StudyInUse, locked, try_lock
from tune.study.manifest import read_manifest
from tune.tracking.replay import TRACKING_LOCK
from tune.upkeep.stored import leased

ARCHIVE = "archived"
"""Folder of a storage whose studies appear in no list."""
DELETED = ".deleted"
"""Folder of a storage whose studies are being removed. They are two levels down, where no list of
studies looks."""
RESERVED = (ARCHIVE, "backbones", "mlartifacts")
"""Folders of a storage that are not studies."""
_DATABASE = "mlflow.db"
"""File of a storage. SQLite's files beside it, and damaged databases that are kept, begin with its
name."""


def is_reserved(name: str) -> bool:
    """True if a storage reserves this name for a folder or file of its own."""
    return name in RESERVED or name.startswith(_DATABASE)


def remove_deleted(root: Path) -> None:
    """Remove the deleted studies of a storage, including those whose removal was killed."""
    shutil.rmtree(root / DELETED, ignore_errors=True)


@dataclass(frozen=True)
class Dependent:
    """A study that starts from the weights of another one."""

    name: str
    weights: Path
    sha256: str


def named_folders(root: Path, name: str) -> list[Path]:
    """Return the folder of a study, or that of a comparison followed by those of all its studies.

    Raises:
        UserError: there is no such study.
    """
    folder = root / name
    if not is_group(folder):
        return [find_study(root, name)]

    group = group_of(folder)
    below = [path for path in study_folders(root) if group_of(path) == group]
    return [folder, *sorted(below)]


def group_of(folder: Path) -> str | None:
    """Return the id of the comparison that a study belongs to, or that the folder itself is; None
    if there is none."""
    events, _ = EventLog.read(folder / "events.jsonl", 0, limit=1)
    if not events:
        return None
    if is_group(folder):
        from tune.study.identity import study_id

        return study_id(events[0])
    group = events[0].get("group")
    return None if group is None else str(group["id"])


@contextlib.contextmanager
def held(folders: list[Path]) -> Iterator[Renew]:
    """Prevent other processes from running, drawing or sending these studies to MLflow while the
    block runs. In an object store this includes other machines.

    Yields:
        A function that renews the leases of an object store, to be called regularly.
    Raises:
        StudyInUse: one of them is running or being sent.
        UserError: as in `leased`.
    """
    with contextlib.ExitStack() as stack:
        for folder in folders:
            lock = locked(folder, folder.name)
            stack.callback(lock.release)
            # A process that draws after the last run leaves, even on a full disk.
            with contextlib.suppress(OSError):
                stack.enter_context(DrawingClaim(folder)).take()
            stack.callback(_unsent(folder).release)
        yield stack.enter_context(leased(folders))


def _unsent(folder: Path) -> FileLock:
    """Take the lock of sending a study to MLflow, because sending would restore deleted runs.

    Raises:
        StudyInUse: another process has it.
    """
    lock = try_lock(folder / TRACKING_LOCK)
    if lock is None:
        raise StudyInUse(
            f"study {folder.name!r} is being sent to MLflow by another process, such as "
            "vistune-ui; wait for it, or end it"
        )
    return lock


def dependents(root: Path, folders: list[Path]) -> list[Dependent]:
    """Find other studies of the storage, archived ones included, that start from weights in these
    folders, even if the storage was elsewhere when they started."""
    below = {folder.resolve() for folder in folders}
    found = []
    for path in [*study_folders(root), *study_folders(root / ARCHIVE)]:
        if path in folders:
            continue
        base = read_manifest(path / "study.json").base
        if not base.get("init.file"):
            continue

        weights = found_weights({"init.origin": "", **base}, root)
        if below & set(weights.resolve().parents):
            found.append(Dependent(path.name, weights, str(base["init.sha256"])))
    return found


def keep_weights(root: Path, of: list[Dependent]) -> None:
    """Copy the weights that other studies start from to where these find them by content hash."""
    for one in of:
        kept = shelf(root, one.sha256, one.weights.suffix)
        if not one.weights.is_file():
            continue
        if not kept.is_file() or content_hash(kept) != one.sha256:
            kept.parent.mkdir(parents=True, exist_ok=True)
            with one.weights.open("rb") as source, atomic_file(kept) as file:
                shutil.copyfileobj(source, file)
        s3.copy(kept)
