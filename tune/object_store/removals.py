"""Moving and removing studies in an object store.

A store has no rename. So the objects of a study that moves are copied, its event log last: from
then on the study is there for others. Next, a note says that it has left the old place
(`removed.py`). Then its objects there are removed, the log first: from then on it is gone. After a
kill at any point, the same command does the rest.

Whoever moves or removes a study holds its lease, and that of the new place.
"""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from trainables.errors import UserError
from tune.object_store import s3
from tune.object_store.lease import EXPIRES_S, LEASE, RENEW_S, Lease
from tune.object_store.record import overtaken
from tune.object_store.removed import identity_here, note_of, note_removal, noted
from tune.object_store.restore import JOURNAL, LOG, LOG_BYTES, MANIFEST
from tune.study.identity import study_id

_MOVED_LAST = (MANIFEST, JOURNAL, LOG)
"""Files that the machine that moves a study sends itself, because it may be ahead of the store."""

Renew = Callable[[], None]
"""Renews the leases that are held; raises UserError if another machine has one."""


# -- what a command does


def move_objects(root: Path, folder: Path, target: Path, renew: Renew) -> str:
    """Move the objects of a study or a group. Return the etag that `restore.seen` must return for
    the new folder.

    Args:
        root: folder of the storage.
        folder: present folder; on this machine it is not behind its copy.
        target: new folder.
    Raises:
        Unreachable, Refused, OSError
    """
    identity = identity_here(folder)
    if identity_there(target) != identity:  # otherwise everything was copied before a kill
        _copy_objects(folder, target, renew)
        s3.delete(note_of(root, target, identity))
        _send_record(folder, target)

    head = JOURNAL if (folder / JOURNAL).exists() else LOG
    etag = s3.etag(target / head)
    note_removal(root, folder, to=str(target.relative_to(root)))
    remove_objects(folder, renew)
    return etag or ""


def delete_objects(root: Path, folder: Path, renew: Renew) -> None:
    """Remove the objects of a study or a group for good.

    Raises:
        Unreachable, Refused
    """
    note_removal(root, folder, to="")
    remove_objects(folder, renew)


def remove_objects(folder: Path, renew: Renew = lambda: None) -> None:
    """Remove all objects of a study except its lease, the log first.

    Raises:
        Unreachable, Refused
    """
    s3.delete(folder / LOG)
    for path in s3.below(folder):
        if path != folder / LEASE:
            renew()
            s3.delete(path)


def finish_removals(root: Path) -> None:
    """Remove what killed commands have left of studies that are gone. A place that somebody holds
    is left to a later command.

    Raises:
        Unreachable, Refused
    """
    for folder, _ in noted(root):
        left = s3.below(folder)
        is_there = folder / LOG in left or (folder / LOG).exists()
        if left and not is_there and not _is_held(folder):
            _clear(folder)


def _is_held(folder: Path) -> bool:
    """True if a machine has given a sign of life recently."""
    lease = s3.get(folder / LEASE)
    return lease is not None and lease.age_s < EXPIRES_S


def _clear(folder: Path) -> None:
    """Remove what lies in the place of a study that does not exist."""
    lease = Lease(folder)
    try:
        lease.take(lambda line: None)
    except UserError:
        return  # a study begins there
    try:
        if s3.etag(folder / LOG) is None:
            remove_objects(folder, renewing([lease]))
    finally:
        lease.release()
        shutil.rmtree(folder)


def renewing(leases: Sequence[Lease]) -> Renew:
    """Return a function that renews leases when they are due, and raises UserError if another
    machine has one."""

    def renew() -> None:
        for lease in leases:
            is_due = time.monotonic() - lease.renewed > RENEW_S
            if is_due and not lease.renew():
                raise overtaken(lease.path.parent)

    return renew


# -- parts


def identity_there(folder: Path) -> str | None:
    """Identity of a study or group, from its log in the store; None if it has none there.

    Raises:
        Unreachable, Refused
    """
    content = s3.get(folder / LOG)
    if content is None:
        return None
    return study_id(json.loads(content.body.partition(b"\n")[0]))


def _copy_objects(folder: Path, target: Path, renew: Renew) -> None:
    """Copy all objects except lease and record, and remove any others from the new place."""
    left_out = {Path(name) for name in (LEASE, *_MOVED_LAST)}
    wanted = {path.relative_to(folder) for path in s3.below(folder)} - left_out
    for name in wanted:
        renew()
        s3.copy_object(folder / name, target / name)

    there = {path.relative_to(target) for path in s3.below(target)} - left_out
    for name in there - wanted:
        s3.delete(target / name)


def _send_record(folder: Path, target: Path) -> None:
    """Send manifest, journal and log of `folder` to their new place."""
    log = (folder / LOG).read_bytes()
    if (folder / MANIFEST).exists():  # a group has none
        s3.put(target / MANIFEST, (folder / MANIFEST).read_bytes())
        journal = (folder / JOURNAL).read_bytes()
        s3.put(target / JOURNAL, journal, {LOG_BYTES: str(len(log))})
    s3.put(target / LOG, log)
