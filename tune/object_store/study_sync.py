"""A study's record and its copy in an object store: brought here before a start, copied there while
it runs.

The event log and the journal are appended to on the head's disk, as without an object store. A
thread copies them at the end of every trial, and in between where the last copy is half a minute
old. What a copy holds is taken at one moment between two steps of the study: both files only grow,
so two lengths say it. The log goes first, then the journal, which carries the log's length:
whatever upload was the last, a journal with so many bytes of the log is a state that the study was
in, and `Study.open` goes on from it as after a kill.

A head that was taken for lost may still have an upload under way, between the two files too. So
both are chains (`chain.py`), and a new head's first act is to extend the journal, to which opening
the study has added a line: from then on no journal of the old head arrives that would be about a
log which the new one has replaced. The lease alone, which is a matter of time, could not promise
that.

What the store has not got does not exist for others: MLflow is told of an event once it is copied
(`known`).
"""

import contextlib
import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from trainables.errors import UserError
from trainables.files import BEST, LAST
from tune.object_store import s3
from tune.object_store.compare_and_swap import CompareAndSwap
from tune.object_store.lease import RENEW_S, Lease

LOG, JOURNAL, MANIFEST, CONFIG = "events.jsonl", "study.journal", "study.json", "config.json"
_LENGTH = "log-bytes"  # metadata of the journal
_SEEN = ".copied"  # the journal's etag when this folder was last equal to the copy, or ahead of it
_URGENT = ("end", "summary", "finish")
_EVERY_S = 30.0
_RETRY_S, _LONGEST_RETRY_S = 1.0, 30.0

Tell = Callable[[str], None]


# -- from the store


def pull(storage: Path) -> None:
    """Bring the record of every study of an object store to `storage`; an ordinary folder is as it
    should be.

    Raises:
        UserError: the store does not answer, or a study here and its copy have each gone on alone.
    """
    if s3.address(storage) is None:
        return
    with s3.needed(storage):
        storage.mkdir(parents=True, exist_ok=True)
        for folder in s3.within(storage)[0]:
            pull_study(folder)


def pull_study(folder: Path) -> None:
    """Bring one study, or the log of a group, up to its copy; nothing where this folder is ahead of
    it, or a driver runs the study here.

    Raises:
        UserError: they have each gone on alone.
        Unreachable, Refused
    """
    files = {path.name: entry for path, entry in s3.within(folder)[1].items()}
    head = JOURNAL if JOURNAL in files else LOG
    if head not in files or _seen(folder) == files[head].etag:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (
        contextlib.suppress(Timeout),
        FileLock(folder / ".lock", timeout=0),
        FileLock(folder / ".lease", timeout=0),
    ):
        _compare(folder, head, MANIFEST in files)


def _compare(folder: Path, head: str, is_study: bool) -> None:
    newest = s3.get(folder / head)
    if newest is None:
        return
    # without: copied there by other means
    length = int(newest.meta[_LENGTH]) if _LENGTH in newest.meta else None
    log = newest if head == LOG else s3.get(folder / LOG, length)
    if log is None:
        return
    mine, theirs = _whole_lines(folder / LOG), log.body
    if not (mine.startswith(theirs) or theirs.startswith(mine)):
        raise UserError(
            f"study {folder.name!r} has gone on in {s3.address(folder)} and, apart from that, in {folder}: "
            "remove that folder to go on with the former"
        )
    journal = newest.body if head == JOURNAL else b""
    behind = len(mine) < len(theirs) or (
        len(mine) == len(theirs) and len(_whole_lines(folder / JOURNAL)) < len(journal)
    )
    if behind:
        _replace(folder, log.body, journal, is_study)
    (folder / _SEEN).write_text(newest.etag)


def _replace(folder: Path, log: bytes, journal: bytes, is_study: bool) -> None:
    """The study's folder as the store has it. A kill in the middle leaves it behind its copy, so
    that the next start does this again."""
    # of a state that is past; what is needed of them is fetched
    shutil.rmtree(folder / "trials", ignore_errors=True)
    if is_study:
        s3.download(folder / MANIFEST)
        _write(folder / JOURNAL, journal)
        for path, entry in s3.below(folder / "trials").items():
            if entry.bytes == 0:  # marks, whose name says all
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    _write(folder / LOG, log)


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def _whole_lines(path: Path) -> bytes:
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1]


def _seen(folder: Path) -> str:
    return (folder / _SEEN).read_text() if (folder / _SEEN).exists() else ""


# -- to the store


@contextlib.contextmanager
def opened(folder: Path, tell: Tell, stop: Tell) -> Iterator["StudyCopy | None"]:
    """Around the opening of a study: nobody else runs it from now on. What fails in the block gives
    it back. None for an ordinary folder.

    Raises:
        UserError: somebody runs it, or has gone on with it since `pull`; or the store does not
            answer.
    """
    copy = None if s3.address(folder) is None else StudyCopy(folder, tell, stop)
    if copy is not None:
        copy.take()
    try:
        yield copy
    except BaseException:
        if copy is not None:
            copy.give_back()
        raise


class StudyCopy:
    """Of the study that this process is about to run, in `folder`. An observer of the study; see
    the module's docstring.

    Args:
        tell: hears, once each, that copies fail and that they work again.
        stop: is called when another driver has taken the study over.
    """

    def __init__(self, folder: Path, tell: Tell, stop: Tell):
        self.folder, self.tell, self.stop = folder, tell, stop
        self._copied = 0
        self._lease = Lease(folder)
        self._log, self._journal = (
            CompareAndSwap(folder / LOG, None),
            CompareAndSwap(folder / JOURNAL, None),
        )
        self._there = -1  # bytes of the log that the store's journal is about
        self._state = (0, 0)  # bytes of log and journal, at one moment between two steps
        self._done = (-1, -1)
        self._done_at = 0.0
        self._files: list[Path] = []
        self._ended: list[tuple[Path, str]] = []
        self._wake, self._closing = threading.Event(), threading.Event()
        self._failing = self._lost = False
        self._thread = threading.Thread(target=self._work, name="object storage", daemon=True)

    def take(self) -> None:
        """Before the study is opened: nobody else runs it from now on.

        Raises:
            UserError: somebody does, or has since `pull`.
        """
        self._lease.take(self.tell)
        try:
            with s3.needed(self.folder):
                self._log.etag = s3.etag(self.folder / LOG)
                journal = s3.get(self.folder / JOURNAL, 1)
            if journal is not None:
                self._journal.etag, self._there = journal.etag, int(journal.meta.get(_LENGTH, -1))
                if journal.etag != _seen(self.folder):
                    raise _overtaken(self.folder)
        except BaseException:
            self.give_back()
            raise

    def give_back(self) -> None:
        self._lease.release()

    def start(self, *files: Path) -> None:
        """The first copy, with what trials need of this machine (`files`), and the thread that
        makes the others.

        Raises:
            UserError: the store does not take it, or another driver has gone on with the study.
        """
        self._look()
        try:
            with s3.needed(self.folder):
                for path in (self.folder / MANIFEST, *files):
                    if s3.etag(path) is None:
                        _put(path)
                if self._there == self._state[0]:
                    # the log is there, and stays until this has arrived
                    self._copy_journal(*self._state)
                else:
                    self._copy()
        except s3.Taken:
            raise _overtaken(self.folder) from None
        self._thread.start()

    def on_event(self, event: dict[str, Any]) -> None:
        """Called with the event on disk. What the driver's thread says comes between two steps of
        the study; pictures come at any time."""
        if event["event"] == "artifact":
            self._files.append(self.folder / event["path"])
            return
        self._look()
        if event["event"] == "end" and "repeat" not in event:
            self._ended.append((self.folder / "trials" / f"{event['trial']:04d}", event["state"]))
        elif event["event"] == "end":
            self._ended.append(
                (
                    self.folder / "trials" / f"{event['trial']:04d}" / f"repeat-{event['repeat']}",
                    event["state"],
                )
            )
        if event["event"] in _URGENT:
            self._wake.set()

    def known(self) -> float:
        """Bytes of the log that the store has."""
        return self._copied

    def close(self, patience_s: float) -> bool:
        """A last copy, for which to wait so long at most. True: the store has everything."""
        self._look()
        self._closing.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(patience_s)
        complete = not self._thread.is_alive() and not self._lost and self._done == self._state
        if complete:
            self._lease.release()
        return complete

    def _look(self) -> None:
        self._state = ((self.folder / LOG).stat().st_size, (self.folder / JOURNAL).stat().st_size)

    def _work(self) -> None:
        pause = _RETRY_S
        while True:
            self._wake.wait(pause if self._failing else min(_EVERY_S, RENEW_S) / 2)
            self._wake.clear()
            closing = self._closing.is_set()
            try:
                if time.monotonic() - self._lease.renewed > RENEW_S and not self._lease.renew():
                    raise s3.Taken(self._lease.path)
                self._round(closing)
            except s3.Taken:
                self._lost = True
                self._lease.drop()
                self.stop("another machine goes on with this study")
                return
            except Exception as error:
                # whatever it is, the next try may fare better, and no trial should notice
                safe = f"the study goes on, its record is safe in {self.folder}, copies are tried again"
                self._say(f"object storage fails ({error}); {safe}", True)
                pause = min(2 * pause, _LONGEST_RETRY_S) if not closing else _RETRY_S
                continue
            self._say("object storage works again, and has everything", False)
            pause = _RETRY_S
            if closing and self._done == self._state:
                return

    def _round(self, closing: bool) -> None:
        urgent = closing or self._ended or self._done_at + _EVERY_S < time.monotonic()
        if urgent and self._done != self._state:
            ended = list(self._ended)
            self._copy()
            for folder, state in ended:
                _tidy(folder, state)
                self._ended.remove((folder, state))
        while self._files:
            if (path := self._files[0]).exists() and not (path.name == BEST and s3.etag(path)):
                _put(path)
            del self._files[0]

    def _copy(self) -> None:
        log_bytes, journal_bytes = self._state
        log = _first(self.folder / LOG, log_bytes)
        try:
            self._log.put(log)
        except s3.Taken:
            # by the head before us, late, or by the one after us, which has the lease then
            self._log.etag = s3.etag(self.folder / LOG)
            if not self._lease.renew():
                raise
            self._log.put(log)
        self._copy_journal(log_bytes, journal_bytes)

    def _copy_journal(self, log_bytes: int, journal_bytes: int) -> None:
        seen = self._journal.put(
            _first(self.folder / JOURNAL, journal_bytes), {_LENGTH: str(log_bytes)}
        )
        (self.folder / _SEEN).write_text(seen)
        self._done, self._done_at, self._copied = (
            (log_bytes, journal_bytes),
            time.monotonic(),
            log_bytes,
        )

    def _say(self, line: str, failing: bool) -> None:
        if failing != self._failing:
            self._failing = failing
            self.tell(line)


def copy_group_log(folder: Path) -> None:
    """Copy the log of a group, which has no lease: no trial is in it, and what a run has said of
    its table the next one says again.

    Raises:
        UserError: another machine has copied its own since `pull`; that one is here then. Or the
            store does not take it.
    """
    log = folder / LOG
    if s3.address(log) is None:
        return
    with s3.needed(log):
        try:
            seen = (_seen(folder) or None) if s3.etag(log) is not None else None
            (folder / _SEEN).write_text(CompareAndSwap(log, seen).put(log.read_bytes()))
        except s3.Taken:
            (folder / _SEEN).write_text(s3.download(log) or "")
            raise _overtaken(folder) from None


def _overtaken(folder: Path) -> UserError:
    return UserError(
        f"study {folder.name!r} was gone on with elsewhere just now; run the same command again"
    )


def _tidy(folder: Path, state: str) -> None:
    """An ended trial is not gone on with, and one that did not complete has no export. What it left
    on this machine is copied."""
    gone = (LAST,) if state == "COMPLETE" else (LAST, BEST)
    for name in gone:
        s3.delete(folder / name)
    there = s3.within(folder)[1]
    meta = (
        s3.meta_of(json.loads((folder / CONFIG).read_text())) if (folder / CONFIG).exists() else {}
    )
    for path in sorted(folder.glob("*")):
        if (
            not path.is_file()
            or path.name in gone
            or path.name.startswith(".")
            or path.suffix == ".partial"
        ):
            continue
        # The etag is the content's MD5, where the store encrypts with no key of its own; elsewhere
        # it is sent once more.
        if (
            path not in there
            or there[path].etag.strip('"')
            != hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        ):
            _put(path, meta)


def _put(path: Path, meta: dict[str, str] | None = None) -> None:
    with path.open("rb") as file:
        s3.put(path, file, meta)


def _first(path: Path, length: int) -> bytes:
    with path.open("rb") as file:
        return file.read(length)
