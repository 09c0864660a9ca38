"""Download the records of studies from an object store to this machine."""

import contextlib
import json
import shutil
from pathlib import Path

from filelock import FileLock, Timeout

from trainables.errors import UserError
from trainables.files import write_atomically
from tune.object_store import s3
from tune.object_store.removed import put_aside
from tune.study.copied import COPY

LOG, JOURNAL, MANIFEST = "events.jsonl", "study.journal", "study.json"

LOG_BYTES = "log-bytes"
"""Key of the journal's metadata: length of the log that belongs to it."""

_SEEN = ".copied"


def seen(folder: Path) -> str:
    """Return the etag of the journal (for a group: of the log) that this folder was last equal to,
    or ahead of; "" if there is none."""
    note = folder / _SEEN
    return note.read_text() if note.exists() else ""


def remember(folder: Path, etag: str) -> None:
    """Note the etag that `seen` returns from now on."""
    write_atomically(folder / _SEEN, etag)


def pull(storage: Path) -> None:
    """Download the record of every study of an object store to `storage`, and put those aside that
    have left it; do nothing for an ordinary folder.

    Raises:
        UserError: the store does not answer, or a study and its copy have diverged.
    """
    if s3.address(storage) is None:
        return

    with s3.needed(storage):
        storage.mkdir(parents=True, exist_ok=True)
        put_aside(storage)
        folders, _ = s3.within(storage)
        for folder in folders:
            pull_study(folder)


def pull_study(folder: Path) -> None:
    """Bring one study, or the log of a group, up to date with its copy.

    Does nothing if this folder is ahead of the copy, or if a driver runs the study on this machine.

    Raises:
        UserError: the study and its copy have diverged.
        Unreachable, Refused
    """
    _, entries = s3.within(folder)
    names = {path.name: entry for path, entry in entries.items()}
    head = JOURNAL if JOURNAL in names else LOG  # a group has no journal

    if head not in names or seen(folder) == names[head].etag:
        return

    folder.mkdir(parents=True, exist_ok=True)
    with (
        contextlib.suppress(Timeout),
        FileLock(folder / ".lock", timeout=0),
        FileLock(folder / ".lease", timeout=0),
    ):
        _update(folder, head, is_study=MANIFEST in names)


def _update(folder: Path, head: str, is_study: bool) -> None:
    newest = s3.get(folder / head)
    if newest is None:
        return

    # A journal without this length was copied there by other means.
    length = int(newest.meta[LOG_BYTES]) if LOG_BYTES in newest.meta else None
    log = newest if head == LOG else s3.get(folder / LOG, length)
    if log is None:
        return

    mine, theirs = _as_a_copy(_whole_lines(folder / LOG), log.body), log.body
    if not (mine.startswith(theirs) or theirs.startswith(mine)):
        raise UserError(
            f"study {folder.name!r} has diverged: {folder} and {s3.address(folder)} have each "
            f"continued alone; remove the folder to continue with {s3.address(folder)}"
        )

    journal = newest.body if head == JOURNAL else b""
    log_behind = len(mine) < len(theirs)
    journal_behind = len(_whole_lines(folder / JOURNAL)) < len(journal)

    if log_behind or (len(mine) == len(theirs) and journal_behind):
        _replace(folder, log.body, journal, is_study)

    remember(folder, newest.etag)


def _as_a_copy(mine: bytes, theirs: bytes) -> bytes:
    """Return this machine's log with the first event of the store's log, if another machine has
    since given a copied study an identity of its own."""
    own, _, rest = mine.partition(b"\n")
    first = theirs.partition(b"\n")[0]
    with contextlib.suppress(ValueError):
        if mine and own != first and COPY in json.loads(first):
            return first + b"\n" + rest
    return mine


def _replace(folder: Path, log: bytes, journal: bytes, is_study: bool) -> None:
    """Replace the study's folder with what the store has.

    The log comes last: a kill in between leaves the folder behind its copy, so the next start does
    this again.
    """
    # Files of an earlier state. Those that are needed later are downloaded then.
    shutil.rmtree(folder / "trials", ignore_errors=True)

    if is_study:
        s3.download(folder / MANIFEST)
        write_atomically(folder / JOURNAL, journal)
        _create_marks(folder / "trials")

    write_atomically(folder / LOG, log)


def _create_marks(trials: Path) -> None:
    """Create the store's empty files, whose names say everything."""
    for path, entry in s3.below(trials).items():
        if entry.bytes == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


def _whole_lines(path: Path) -> bytes:
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1]
