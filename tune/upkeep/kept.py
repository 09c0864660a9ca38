"""The studies that a command of upkeep is about, held so that no other process runs them."""

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
"""Folder of a storage whose studies are in no list."""
DELETED = ".deleted"
"""Folder of a storage whose studies are being removed. They lie two levels down, where no list of
studies looks."""
RESERVED = (ARCHIVE, "backbones", "mlartifacts")
"""Folders of a storage that are no studies."""
_DATABASE = "mlflow.db"
"""File of a storage; SQLite's own beside it, and damaged ones that are kept, have its name in
front."""


def is_reserved(name: str) -> bool:
    """True for the name of a folder or file that a storage has for itself."""
    return name in RESERVED or name.startswith(_DATABASE)


def remove_deleted(root: Path) -> None:
    """Remove the studies of a storage that were deleted, also those whose removal was killed."""
    shutil.rmtree(root / DELETED, ignore_errors=True)


@dataclass(frozen=True)
class Dependent:
    """A study that starts from weights of another one."""

    name: str
    weights: Path
    sha256: str


def named_folders(root: Path, name: str) -> list[Path]:
    """The folders of a study, or of a comparison with all of its studies.

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
    """Id of the comparison that a study belongs to, or that the folder itself is of."""
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
    """Keep other processes, in an object store of other machines too, from running these studies,
    from drawing them, and from sending them to MLflow, while the block runs.

    Yields:
        A function that keeps the leases of an object store, to call in between.
    Raises:
        StudyInUse: one of them runs, or is being sent.
        UserError: as of `leased`.
    """
    with contextlib.ExitStack() as stack:
        for folder in folders:
            lock = locked(folder, folder.name)
            stack.callback(lock.release)
            # Whoever draws behind the last run leaves, on a full disk too.
            with contextlib.suppress(OSError):
                stack.enter_context(DrawingClaim(folder)).take()
            stack.callback(_unsent(folder).release)
        yield stack.enter_context(leased(folders))


def _unsent(folder: Path) -> FileLock:
    """Take the lock of whoever sends a study to MLflow, where deleted runs would be restored.

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
    """Other studies of the storage, archived ones too, that start from weights in these folders:
    wherever the storage was when they began."""
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
    """Put the weights that other studies start from where these find them by their content."""
    for one in of:
        kept = shelf(root, one.sha256, one.weights.suffix)
        if not one.weights.is_file():
            continue
        if not kept.is_file() or content_hash(kept) != one.sha256:
            kept.parent.mkdir(parents=True, exist_ok=True)
            with one.weights.open("rb") as source, atomic_file(kept) as file:
                shutil.copyfileobj(source, file)
        s3.copy(kept)
