"""A trial's folder and its copy in an object store, in the process that trains. Another process, on
any machine, resumes from the copy.

Checkpoints are written to this machine's disk, as without an object store. A thread uploads what
has changed, the checkpoint last and at most every half minute. What a lost machine has not uploaded
is trained again. The metadata of every object names the configuration, because after the loss of
the head a trial number may go to another one.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainables.base import Runtime
from trainables.engine import distributed
from trainables.engine.checkpoint import load_checkpoint
from trainables.files import BEST, LAST, content_hash, write_atomically
from tune.object_store import s3
from tune.object_store.trial_folder import CONFIG, config_meta, files_to_upload
from tune.object_store.uploader import Uploader

_POLL_S = 1.0
_EVERY_S = 30.0
_RETRY_S = 5.0
_STOP_S = 1.0
PATIENCE_S = 60.0
"""Maximum time that the end of a trial waits for its uploads; the thread then keeps trying."""

_NOTE = ".copied"
"""JSON file: digest of the config, and etag of the checkpoint's copy that this folder was last
equal to, or ahead of."""
_HEAD = "study.json"


@contextlib.contextmanager
def copied(
    folder: Path, config: Mapping[str, Any], runtime: Runtime, holds_history: bool = True
) -> Iterator["TrialCopy | None"]:
    """Keep the copy of a trial in `folder` up to date while it trains. Yields None for an ordinary
    folder, which has no copy.

    Args:
        holds_history: the checkpoint was written by `fit` and contains the metrics of its epochs; a
            function or a script has its own.
    Raises:
        Refused: the store denies access.
    """
    if s3.address(folder) is None:
        yield None
        return

    copy = TrialCopy(folder, config, runtime, holds_history)
    try:
        copy.begin()
        yield copy
    finally:
        copy.end()


@dataclass(frozen=True)
class Version:
    """Distinguishes one content of a file from the next: every write replaces the file."""

    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Version":
        return cls(status.st_mtime_ns, status.st_ino)


Snapshot = dict[str, Version]
"""Names and versions of the files of a folder at one moment."""


class TrialCopy:
    """The copy of one trial or repeat, in this process.

    Attributes:
        complete: set this once the trial has run to its end.
    """

    def __init__(
        self, folder: Path, config: Mapping[str, Any], runtime: Runtime, holds_history: bool = True
    ):
        self.folder, self.runtime = folder, runtime
        self._holds_history = holds_history
        self.complete = False
        self._meta = config_meta(config)
        self._digest = self._meta[CONFIG]
        self._uploader = Uploader("trial copy", self._upload)

        # A repeat's folder is inside that of its trial.
        study_folders = (folder.parents[1], folder.parents[2])
        self._on_head = any((study / _HEAD).exists() for study in study_folders)
        self._folder_is_ours = runtime.rank == 0

        self._sent: Snapshot = {}
        self._checkpoint_sent_at = -float("inf")

    def begin(self) -> None:
        """Download what another machine has done for this trial, and report epochs that a restored
        record may lack.

        Raises:
            Refused: the store denies access.
        """
        if self.runtime.rank == 0:
            # Without the store, the trial resumes from the local files, or starts.
            with contextlib.suppress(s3.Unreachable):
                self._fetch()

            self._note(self._noted())
            self._uploader.start()

        self.share(LAST)
        if self.runtime.rank == 0 and self._holds_history:
            self._report_again()

    def share(self, name: str) -> None:
        """Copy a file from rank 0's folder to that of every worker, which may be on another
        machine."""
        if self.runtime.world_size == 1:
            return

        path = self.folder / name
        is_first = self.runtime.rank == 0
        digest = content_hash(path) if is_first and path.exists() else None
        wanted = distributed.broadcast(digest)

        if wanted is None:
            path.unlink(missing_ok=True)  # left from an attempt whose rank 0 was elsewhere
        missing = wanted is not None and not (path.exists() and content_hash(path) == wanted)

        somebody_lacks_it = distributed.all_sum(
            torch.tensor(float(missing), device=self.runtime.device)
        )
        if not somebody_lacks_it:
            return

        content = distributed.broadcast(path.read_bytes() if is_first else b"")
        if missing:
            self._folder_is_ours = True
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)

    def end(self) -> None:
        """End the uploads. If a complete trial is not on the head's machine, wait a while until its
        files are in the store; the head has them on its own disk."""
        if self._uploader.started:
            if self.complete and not self._on_head:
                self._uploader.finish(PATIENCE_S)  # the thread then removes the folder's files
                return

            self._uploader.abandon(_STOP_S)

        self._leave()

    # -- from the store

    def _fetch(self) -> None:
        noted = self._noted()
        if noted is None:
            # Files of another configuration, or of none.
            for name in (LAST, BEST):
                (self.folder / name).unlink(missing_ok=True)

        _, entries = s3.within(self.folder)
        checkpoint = self.folder / LAST
        in_store = entries.get(checkpoint)

        if in_store is not None and in_store.etag == noted and checkpoint.exists():
            return  # nobody has resumed the trial since this folder was copied

        for path in sorted(entries, key=lambda path: path.name == LAST):
            etag = s3.download(path, self._accepts)
            if etag is None:
                s3.delete(path)
                continue

            self._sent[path.name] = Version.of(path.stat())
            if path == checkpoint:
                noted = etag

        self._note(noted)

    def _accepts(self, meta: Mapping[str, str]) -> bool:
        # An object without the digest was copied there by other means.
        return meta.get(CONFIG, self._digest) == self._digest

    def _noted(self) -> str | None:
        """Return the noted etag; None if the note is missing or about another configuration."""
        with contextlib.suppress(OSError, ValueError):
            note = json.loads((self.folder / _NOTE).read_text())
            if note[CONFIG] == self._digest:
                return str(note["etag"])
        return None

    def _note(self, etag: str | None) -> None:
        note = {CONFIG: self._digest, "etag": etag or ""}
        write_atomically(self.folder / _NOTE, json.dumps(note))

    def _report_again(self) -> None:
        saved = load_checkpoint(self.folder / LAST)
        if saved is None:
            return

        # `fit` reports the last epoch.
        for epoch, metrics in enumerate(saved["history"][:-1], 1):
            self.runtime.report(epoch, metrics)

    # -- to the store

    def _upload(self, finishing: bool) -> float | None:
        """Upload what has changed, for `Uploader`."""
        try:
            self._upload_changed(with_checkpoint=not finishing)
        except (s3.Unreachable, s3.Refused, OSError):
            # The head, which uses the same store, reports it.
            return _RETRY_S

        if finishing:
            self._leave()
            return None
        return _POLL_S

    def _upload_changed(self, *, with_checkpoint: bool) -> None:
        """Upload changed files. The checkpoint is opened first and sent last, so that nothing in
        the store is older than the checkpoint."""
        with contextlib.ExitStack() as stack:
            due = time.monotonic() - self._checkpoint_sent_at >= _EVERY_S
            checkpoint = None

            if with_checkpoint and due and (self.folder / LAST).exists():
                checkpoint = stack.enter_context((self.folder / LAST).open("rb"))

            for name, version in self._snapshot().items():
                if self._sent.get(name) != version:
                    s3.put_file(self.folder / name, self._meta)
                    self._sent[name] = version

            if checkpoint is None:
                return

            version = Version.of(os.fstat(checkpoint.fileno()))
            if self._sent.get(LAST) != version:
                self._checkpoint_sent_at = time.monotonic()
                self._note(s3.put(self.folder / LAST, checkpoint, self._meta))
                self._sent[LAST] = version

    def _snapshot(self) -> Snapshot:
        """List the files other than the checkpoint, with versions. A file that is newer when it is
        sent is sent once more."""
        return {
            path.name: Version.of(path.stat())
            for path in files_to_upload(self.folder)
            if path.name != LAST
        }

    def _leave(self) -> None:
        """Remove the files of a temporary folder. Only the head's folder is kept. A repeat may be
        running in a folder inside this one."""
        if self._on_head or not self._folder_is_ours:
            return

        for path in list(self.folder.iterdir()):
            if path.is_file():
                path.unlink(missing_ok=True)

        with contextlib.suppress(OSError):
            self.folder.rmdir()
