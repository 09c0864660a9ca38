"""Move and delete the objects of studies that are renamed, archived, restored or deleted in an
object store. For an ordinary folder, no objects are involved."""

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tune.object_store import s3
from tune.object_store.lease import LEASE, Lease
from tune.object_store.leftovers import settle_copy
from tune.object_store.record import Record, overtaken
from tune.object_store.removals import (
    Renew,
    delete_objects,
    identity_there,
    move_objects,
    renewing,
)
from tune.object_store.removed import identity_here
from tune.object_store.restore import LOG, remember, seen
from tune.study.group import is_group


@contextlib.contextmanager
def leased(folders: Sequence[Path]) -> Iterator[Renew]:
    """Prevent other machines from running these studies, and bring the local copies up to date,
    while the block runs. Yields a function that renews the leases, to be called regularly.

    Raises:
        UserError: one of them is running elsewhere or has run there since `pull`, or the store does
            not respond.
    """
    with contextlib.ExitStack() as stack:
        leases = []
        for folder in folders:
            if s3.address(folder) is None:
                continue
            lease = Lease(folder)
            lease.take(_tell)
            stack.callback(lease.release)
            leases.append(lease)
            with s3.needed(folder):
                _bring_up_to_date(folder)
        yield renewing(leases)


def _bring_up_to_date(folder: Path) -> None:
    """Check that this machine has the newest state of a study, and send what a killed process has
    left here."""
    if is_group(folder):
        if s3.etag(folder / LOG) != (seen(folder) or None):
            raise overtaken(folder)
        return
    Record(folder).look()
    settle_copy(folder)


def delete_stored(root: Path, folder: Path, renew: Renew) -> None:
    """Remove a study from the store, if it is in one.

    Raises:
        UserError: the store does not respond.
    """
    if s3.address(folder) is None:
        return
    with s3.needed(folder):
        delete_objects(root, folder, renew)


def move(root: Path, folder: Path, target: Path, renew: Renew) -> None:
    """Move a study, first in the store.

    Raises:
        UserError: the store does not respond, or someone starts a study at the target.
    """
    if s3.address(folder) is None:
        folder.rename(target)
        return

    place = Lease(target)
    place.take(_tell)
    try:
        with s3.needed(folder):
            etag = move_objects(root, folder, target, renew)
        if (target / LOG).exists():  # downloaded after a kill
            shutil.rmtree(folder)
        else:
            shutil.rmtree(target)
            folder.rename(target)
        remember(target, etag)
    finally:
        place.release()


def bring_files(folder: Path, wanted: Callable[[Path], bool]) -> None:
    """Download the files of a study that this machine lacks.

    Args:
        wanted: returns True for the paths within the folder to download.
    Raises:
        UserError: the store does not respond.
    """
    if s3.address(folder) is None:
        return
    with s3.needed(folder):
        for path in s3.below(folder):
            name = path.relative_to(folder)
            if name != Path(LEASE) and wanted(name) and not path.exists():
                s3.download(path)


def is_free(folder: Path, place: Path) -> bool:
    """True if a study may move to a place: nothing is there, or in an object store only a copy of
    the study left by a killed command.

    Raises:
        UserError: the store does not respond.
    """
    if s3.address(place) is None:
        return not place.exists()

    own = identity_here(folder)
    if (place / LOG).exists() and identity_here(place) != own:
        return False
    with s3.needed(place):
        return identity_there(place) in (None, own)


def size_of(folder: Path) -> tuple[int, int]:
    """Return the number of trials, and the bytes of all files, of a study on disk or in the store.

    Raises:
        UserError: the store does not respond.
    """
    if s3.address(folder) is None:
        files = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
        return len(list((folder / "trials").glob("[0-9]*"))), sum(files.values())

    with s3.needed(folder):
        objects = s3.below(folder)
    trials = folder / "trials"
    numbers = {path.relative_to(trials).parts[0] for path in objects if trials in path.parents}
    return len(numbers), sum(entry.bytes for entry in objects.values())


def _tell(line: str) -> None:
    print(line, file=sys.stderr)
