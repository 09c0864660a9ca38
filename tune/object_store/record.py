"""A study's event log and journal in an object store, uploaded in that order by conditional writes.

`study_sync.py` explains why.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trainables.errors import UserError
from tune.object_store import s3
from tune.object_store.compare_and_swap import CompareAndSwap
from tune.object_store.restore import JOURNAL, LOG, LOG_BYTES, remember, seen


@dataclass(frozen=True)
class Snapshot:
    """A study's record at one moment, between two steps of the study."""

    log_bytes: int
    journal_bytes: int
    ended: tuple[tuple[Path, str], ...] = ()
    """Folder and final state of each trial and repeat that has ended in this run, in order."""


class Record:
    """A study's log and journal in the store, for one writer."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.log = CompareAndSwap(folder / LOG, None)
        self.journal = CompareAndSwap(folder / JOURNAL, None)
        self._log_of_journal = -1  # bytes of the log that the store's journal belongs to

    def look(self) -> None:
        """Look at what the store has, which the first upload will replace.

        Raises:
            UserError: another driver has run the study since `pull`.
            Unreachable, Refused
        """
        self.log.etag = s3.etag(self.folder / LOG)
        journal = s3.get(self.folder / JOURNAL, 1)
        if journal is None:
            return

        self.journal.etag = journal.etag
        self._log_of_journal = int(journal.meta.get(LOG_BYTES, -1))
        if journal.etag != seen(self.folder):
            raise overtaken(self.folder)

    def upload_first(self, snapshot: Snapshot, renew: Callable[[], bool]) -> None:
        """Upload a snapshot before the first step; arguments and errors as for `upload`.

        If the store already has this log, only the journal is sent: nobody may touch the log until
        the journal has arrived.
        """
        if self._log_of_journal == snapshot.log_bytes:
            self.upload_journal(snapshot)
        else:
            self.upload(snapshot, renew)

    def upload(self, snapshot: Snapshot, renew: Callable[[], bool]) -> None:
        """Upload the log, then the journal.

        Args:
            renew: renews the lease; False if another driver has it.
        Raises:
            Taken: another driver has the study.
            Unreachable, Refused, OSError
        """
        content = _beginning(self.folder / LOG, snapshot.log_bytes)

        try:
            self.log.put(content)
        except s3.Taken:
            # It was written late by our predecessor, or by our successor, which then holds the
            # lease.
            self.log.etag = s3.etag(self.folder / LOG)
            if not renew():
                raise
            self.log.put(content)

        self.upload_journal(snapshot)

    def upload_journal(self, snapshot: Snapshot) -> None:
        """Upload the journal; errors as for `upload`."""
        content = _beginning(self.folder / JOURNAL, snapshot.journal_bytes)
        etag = self.journal.put(content, {LOG_BYTES: str(snapshot.log_bytes)})
        remember(self.folder, etag)


def overtaken(folder: Path) -> UserError:
    """Return the error for a study that another machine has continued since `pull`."""
    return UserError(
        f"study {folder.name!r} was continued elsewhere just now; run the same command again"
    )


def _beginning(path: Path, length: int) -> bytes:
    with path.open("rb") as file:
        return file.read(length)
