"""A trial's folder and its copy in an object store, in the process that trains; another process,
anywhere, goes on from the copy.

Checkpoints are written to this machine's disk as without an object store; a thread copies what has
changed, the checkpoint last and at most every half minute. What a vanished machine has not copied
is trained again. Every object says of which configuration it is: after the loss of the head a trial
number may be given to another one.
"""

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from trainables.base import Runtime
from trainables.engine import distributed
from trainables.engine.checkpoint import load_checkpoint
from trainables.files import BEST, LAST, content_hash
from tune.object_store import s3
from tune.object_store.s3 import CONFIG, meta_of

_POLL_S = 1.0
_EVERY_S = 30.0
_RETRY_S = 5.0
_STOP_S = 1.0
PATIENCE_S = 60.0
"""The end of a trial waits so long for its files to be in the store; the thread goes on trying."""
# JSON: config, and the etag of the checkpoint's copy that this folder was last equal to, or ahead
# of
_NOTE = ".copied"
_HEAD = "study.json"


@contextlib.contextmanager
def copied(
    folder: Path, config: Mapping[str, Any], runtime: Runtime
) -> Iterator["TrialCopy | None"]:
    """Around the training of a trial in `folder`; None where that is an ordinary folder, which has
    no copy.

    Raises:
        Refused: the store does not let this machine in.
    """
    if s3.address(folder) is None:
        yield None
        return
    copy = TrialCopy(folder, config, runtime)
    try:
        copy.begin()
        yield copy
    finally:
        copy.end()


class TrialCopy:
    """Of one trial, or repeat, in this process.

    Attributes:
        complete: set it when the trial has run to its end.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], runtime: Runtime):
        self.folder, self.runtime = folder, runtime
        self.complete = False
        self._meta = meta_of(config)
        self._digest = self._meta[CONFIG]
        # Of a trial, and of a repeat, which is in the folder of its trial.
        self._on_head = any(
            (parent / _HEAD).exists() for parent in (folder.parents[1], folder.parents[2])
        )
        self._ours = False  # several workers: this one's machine has a folder of its own
        self._sent: dict[str, tuple[int, int]] = {}
        self._checkpoint_at = -float("inf")
        self._wake = threading.Event()
        self._finishing = self._abandoned = False
        self._thread = threading.Thread(target=self._work, name="trial copy", daemon=True)

    def begin(self) -> None:
        """Bring here what another machine has done of this trial, and report what a record that was
        restored may lack of it.

        Raises:
            Refused: the store does not let this machine in.
        """
        if self.runtime.rank == 0:
            # then from what is here, or from the beginning
            with contextlib.suppress(s3.Unreachable):
                self._fetch()
            self._note(self._known())
            self._thread.start()
        self.share(LAST)
        if (saved := load_checkpoint(self.folder / LAST)) is not None and self.runtime.rank == 0:
            for epoch, metrics in enumerate(saved["history"][:-1], 1):  # `fit` reports the last one
                self.runtime.report(epoch, metrics)

    def share(self, name: str) -> None:
        """A file of rank 0's folder, in that of every worker: they may be on other machines."""
        path = self.folder / name
        if self.runtime.world_size == 1:
            return
        wanted = distributed.broadcast(
            content_hash(path) if self.runtime.rank == 0 and path.exists() else None
        )
        if wanted is None:
            path.unlink(missing_ok=True)  # of an earlier time, on another machine than rank 0's
        has = wanted is None or (path.exists() and content_hash(path) == wanted)
        if not distributed.all_sum(torch.tensor(float(not has), device=self.runtime.device)):
            return
        content = distributed.broadcast(path.read_bytes() if self.runtime.rank == 0 else b"")
        if not has:
            self._ours = True
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def end(self) -> None:
        """Of a complete trial on another machine than the head's: wait for its files to be in the
        store, for a while. The head has them."""
        if self.runtime.rank == 0 and self._thread.ident is not None:
            if self.complete and not self._on_head:
                self._finishing = True
                self._wake.set()
                self._thread.join(PATIENCE_S)
                return
            self._abandoned = True
            self._wake.set()
            self._thread.join(_STOP_S)
        self._leave()

    # -- from the store

    def _fetch(self) -> None:
        known = self._known()
        if known is None:  # of another configuration, or of none
            for name in (LAST, BEST):
                (self.folder / name).unlink(missing_ok=True)
        there = {path.name: (path, entry) for path, entry in s3.within(self.folder)[1].items()}
        if LAST in there and there[LAST][1].etag == known and (self.folder / LAST).exists():
            return  # nobody has gone on since this folder was copied
        for name, (path, _) in sorted(there.items(), key=lambda item: item[0] == LAST):
            etag = s3.download(path, self._accepts)
            if etag is None:
                s3.delete(path)
                continue
            self._sent[name] = self._state(name)
            if name == LAST:
                known = etag
        self._note(known)

    def _accepts(self, meta: Mapping[str, str]) -> bool:
        # without: copied there by other means
        return meta.get(CONFIG, self._digest) == self._digest

    def _known(self) -> str | None:
        with contextlib.suppress(OSError, ValueError):
            note = json.loads((self.folder / _NOTE).read_text())
            if note[CONFIG] == self._digest:
                return str(note["etag"])
        return None

    def _note(self, etag: str | None) -> None:
        partial = self.folder / f"{_NOTE}.partial"
        partial.write_text(json.dumps({CONFIG: self._digest, "etag": etag or ""}))
        partial.replace(self.folder / _NOTE)

    # -- to the store

    def _work(self) -> None:
        while not self._abandoned:
            finishing, pause = self._finishing, _POLL_S
            try:
                self._copy(finishing)
            except (s3.Unreachable, s3.Refused, OSError):
                # the head, which has the same store, says so
                self._wake.clear()
                pause = _RETRY_S
            else:
                if finishing:
                    self._leave()
                    return
            self._wake.wait(pause)

    def _copy(self, finishing: bool) -> None:
        """What has changed. The checkpoint was opened first, so that nothing in the store is older
        than what it goes on from."""
        with contextlib.ExitStack() as stack:
            checkpoint = None
            if (
                not finishing
                and time.monotonic() - self._checkpoint_at >= _EVERY_S
                and self._changed(LAST)
            ):
                checkpoint, state = (
                    stack.enter_context((self.folder / LAST).open("rb")),
                    self._state(LAST),
                )
            for path in sorted(self.folder.iterdir()):
                if (
                    path.is_file()
                    and path.name != LAST
                    and not path.name.startswith(".")
                    and path.suffix != ".partial"
                ):
                    self._send(path)
            if checkpoint is not None:
                self._checkpoint_at = time.monotonic()
                self._note(s3.put(self.folder / LAST, checkpoint, self._meta))
                self._sent[LAST] = state

    def _send(self, path: Path) -> None:
        if self._changed(path.name):
            state = self._state(path.name)
            with path.open("rb") as file:
                s3.put(path, file, self._meta)
            self._sent[path.name] = state

    def _changed(self, name: str) -> bool:
        return (self.folder / name).exists() and self._sent.get(name) != self._state(name)

    def _state(self, name: str) -> tuple[int, int]:
        found = (self.folder / name).stat()
        return found.st_mtime_ns, found.st_ino

    def _leave(self) -> None:
        """Only the head's folder lasts; on another machine it was scratch. A repeat may be at work
        in one inside."""
        if not self._on_head and (self.runtime.rank == 0 or self._ours):
            for path in list(self.folder.iterdir()):
                if path.is_file():
                    path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.folder.rmdir()
