"""Upload a study's record to an object store while the study runs.

The event log and the journal are appended to on the head's disk, as without an object store. A
thread uploads them at the end of every trial, and otherwise when the last upload is half a minute
old.

An upload is a snapshot of one moment between two steps of the study. Both files only grow, so two
lengths describe it. The log goes first, then the journal, which carries the log's length as
metadata. Whichever upload was the last, the journal together with that many bytes of the log is a
state that the study was in, and `Study.open` resumes from it as after a kill.

A head that was taken for lost may still have an upload under way, even between the two files. So
both are written by compare-and-swap, and a new head's first act is to extend the journal, to which
opening the study has added a line. From then on no journal of the old head can arrive that belongs
to a log which the new one has replaced. The lease alone, which depends on time, could not promise
that.

An event that is not in the store does not exist for others, so MLflow gets it only after its upload
(`StudyCopy.known`).
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trainables.files import BEST
from tune.object_store import s3
from tune.object_store.compare_and_swap import CompareAndSwap
from tune.object_store.enqueued import EnqueuedCopy
from tune.object_store.lease import RENEW_S, Lease
from tune.object_store.leftovers import settle_copy
from tune.object_store.record import Record, Snapshot, overtaken
from tune.object_store.removals import remove_objects
from tune.object_store.restore import JOURNAL, LOG, MANIFEST, remember, seen
from tune.object_store.trial_folder import upload_ended
from tune.object_store.uploader import Uploader

_URGENT = ("end", "summary", "finish")
_EVERY_S = 30.0
_RETRY_S, _LONGEST_RETRY_S = 1.0, 30.0

Tell = Callable[[str], None]


class StudyCopy:
    """The copy of the study in `folder`, which this process is about to run. It observes the study.

    Args:
        tell: called with one line when uploads begin to fail, and with one when they work again.
        stop: called when another driver has taken the study over.
    """

    def __init__(self, folder: Path, tell: Tell, stop: Tell):
        self.folder, self.tell, self.stop = folder, tell, stop
        self.record = Record(folder)
        self._lease = Lease(folder)
        self._enqueued = EnqueuedCopy(folder)
        self._uploader = Uploader("object storage", self._upload)

        # written by the driver's thread
        self._latest = Snapshot(0, 0)

        # written by the uploader's thread
        self._uploaded: Snapshot | None = None
        self._uploaded_at = 0.0
        self._settled = 0  # number of ended trials whose final files are in the store
        self._retry_s: float | None = None  # None while uploads work
        self._lost = False
        self._is_settled = False  # True once leftovers of earlier starts are settled

        # pictures and exports; added by any thread, removed by the uploader's
        self._artifacts: deque[Path] = deque()

    def take(self) -> None:
        """Make this process the only one that runs the study. Call this before the study is opened.

        Raises:
            UserError: another process runs it, or has run it since `pull`; or the store does not
                answer.
        """
        self._lease.take(self.tell)
        try:
            with s3.needed(self.folder):
                self.record.look()
                self._clear_place()
        except BaseException:
            self.give_back()
            raise

    def _clear_place(self) -> None:
        """Remove what a killed command has left of an earlier study, before a new one begins."""
        if self.record.log.etag is None and not (self.folder / LOG).exists():
            remove_objects(self.folder)

    def give_back(self) -> None:
        """Release the lease on the study."""
        self._lease.release()

    def start(self, *files: Path) -> None:
        """Make the first upload, and start the thread for the others.

        Args:
            files: files of this machine that trials on other machines need.
        Raises:
            UserError: the store refuses it, or another driver has taken the study over.
        """
        self._look()
        try:
            with s3.needed(self.folder):
                for path in (self.folder / MANIFEST, *files):
                    if s3.etag(path) is None:
                        s3.put_file(path)

                self.record.upload_first(self._latest, self._lease.renew)
                self._update_manifest()
                self._enqueued.exchange()
        except s3.Taken:
            raise overtaken(self.folder) from None

        self._note_upload(self._latest)
        self._uploader.start()

    def _update_manifest(self) -> None:
        """Upload the manifest if it has changed, for example that of a copy, which now has its own
        name.

        It follows the record, because the identity of a copy is in its log.
        """
        path = self.folder / MANIFEST
        there = s3.get(path)
        if there is None or there.body != path.read_bytes():
            s3.put_file(path)

    def on_event(self, event: dict[str, Any]) -> None:
        """Note an event that is on disk.

        Pictures are announced at any time, by any thread. All other events come from the driver's
        thread, between two steps of the study.
        """
        if event["event"] == "artifact":
            self._artifacts.append(self.folder / event["path"])
            return

        self._look(*_ended_by(event, self.folder))
        if event["event"] in _URGENT:
            self._uploader.wake()

    def known(self) -> float:
        """Return the number of bytes of the log that the store has."""
        return 0 if self._uploaded is None else self._uploaded.log_bytes

    def close(self, patience_s: float) -> bool:
        """Make a last upload and wait for it, at most `patience_s` seconds.

        Returns True if the store has everything; the lease is then released.
        """
        self._look()
        ended = self._uploader.finish(patience_s)
        complete = ended and not self._lost and self._has_everything()
        if complete:
            self._lease.release()
        return complete

    def _look(self, *ended: tuple[Path, str]) -> None:
        log_bytes = (self.folder / LOG).stat().st_size
        journal_bytes = (self.folder / JOURNAL).stat().st_size
        self._latest = Snapshot(log_bytes, journal_bytes, (*self._latest.ended, *ended))

    def _upload(self, finishing: bool) -> float | None:
        """Upload what is due, for `Uploader`."""
        try:
            self._renew_if_due()
            self._upload_record(finishing)
            self._upload_artifacts()
            self._settle(finishing)
            self._enqueued.exchange()
        except s3.Taken:
            self._lost = True
            self._lease.drop()
            self.stop("another machine has taken this study over")
            return None
        except Exception as error:
            # Whatever the error is, the next try may succeed, and no trial should notice.
            return self._failed(error, finishing)

        if self._retry_s is not None:
            self._retry_s = None
            self.tell("object storage works again, and has everything")

        if finishing and self._has_everything():
            return None
        return min(_EVERY_S, RENEW_S) / 2

    def _failed(self, error: Exception, finishing: bool) -> float:
        """Report the first of several failures, and return the pause before the next try."""
        if self._retry_s is None:
            self.tell(
                f"object storage fails ({error}); the study continues, its record is safe in "
                f"{self.folder}, uploads are tried again"
            )

        doubled = 2 * (self._retry_s or _RETRY_S)
        self._retry_s = _RETRY_S if finishing else min(doubled, _LONGEST_RETRY_S)
        return self._retry_s

    def _renew_if_due(self) -> None:
        due = time.monotonic() - self._lease.renewed > RENEW_S
        if due and not self._lease.renew():
            raise s3.Taken(self._lease.path)

    def _upload_record(self, finishing: bool) -> None:
        snapshot = self._latest
        trial_ended = len(snapshot.ended) > self._settled
        old = self._uploaded_at + _EVERY_S < time.monotonic()

        if not (finishing or trial_ended or old):
            return

        if snapshot != self._uploaded:
            self.record.upload(snapshot, self._lease.renew)
            self._note_upload(snapshot)

        for folder, state in snapshot.ended[self._settled :]:
            upload_ended(folder, state)
            self._settled += 1

    def _settle(self, finishing: bool) -> None:
        """Finish the copies of runs that a killed process has left unfinished, and in the end of
        those whose process was still uploading when they ended."""
        if finishing or not self._is_settled:
            settle_copy(self.folder)
            self._is_settled = True

    def _upload_artifacts(self) -> None:
        while self._artifacts:
            path = self._artifacts[0]
            # The process that trained the trial has already sent its weights, with metadata.
            sent = path.name == BEST and s3.etag(path)
            if path.exists() and not sent:
                s3.put_file(path)
            self._artifacts.popleft()

    def _note_upload(self, snapshot: Snapshot) -> None:
        self._uploaded = snapshot
        self._uploaded_at = time.monotonic()

    def _has_everything(self) -> bool:
        ended = self._settled == len(self._latest.ended)
        return self._uploaded == self._latest and ended and self._is_settled


@contextlib.contextmanager
def opened(folder: Path, tell: Tell, stop: Tell) -> Iterator[StudyCopy | None]:
    """Hold a study of an object store while it is opened: nobody else runs it from now on. An
    exception in the block releases it. Yields None for an ordinary folder.

    Raises:
        UserError: another driver runs it, or has run it since `pull`; or the store does not
            answer.
    """
    if s3.address(folder) is None:
        yield None
        return

    copy = StudyCopy(folder, tell, stop)
    copy.take()
    try:
        yield copy
    except BaseException:
        copy.give_back()
        raise


def copy_group_log(folder: Path) -> None:
    """Upload the log of a group; do nothing for an ordinary folder.

    A group needs no lease: it has no trials, and the next run states again what a run has said
    about its table.

    Raises:
        UserError: another machine has uploaded its own log since `pull` (it is downloaded now), or
            the store refuses it.
    """
    log = folder / LOG
    if s3.address(log) is None:
        return

    with s3.needed(log):
        exists = s3.etag(log) is not None
        previous = (seen(folder) or None) if exists else None

        try:
            etag = CompareAndSwap(log, previous).put(log.read_bytes())
        except s3.Taken:
            remember(folder, s3.download(log) or "")
            raise overtaken(folder) from None

        remember(folder, etag)


def _ended_by(event: dict[str, Any], folder: Path) -> list[tuple[Path, str]]:
    """Return folder and state of the trial or repeat that this event ends; [] for other events."""
    if event["event"] != "end":
        return []

    ended = folder / "trials" / f"{event['trial']:04d}"
    if "repeat" in event:
        ended /= f"repeat-{event['repeat']}"
    return [(ended, event["state"])]
