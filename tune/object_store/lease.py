"""The lease on a study in an object store: one driver at a time, on any machine.

An object names the driver, which renews it while it lives. Everything rests on conditional writes
(If-Match, If-None-Match) and on the store's clock; machines' own clocks do not matter.
"""

import contextlib
import json
import os
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from trainables.errors import UserError
from tune.object_store import s3
from tune.object_store.compare_and_swap import CompareAndSwap

LEASE = "lease"
"""Name of the object in a study's folder."""
RENEW_S = 20.0
EXPIRES_S = 90.0
"""A lease that was not renewed for this long belongs to a machine that is gone."""
_LOOK_S = 2.0


class Lease:
    """The lease on the study in `folder`.

    Take it before anything of the study is written, renew it every RENEW_S, release it at the end.

    Attributes:
        renewed: when this driver was last known to hold it (`time.monotonic()`).
    """

    def __init__(self, folder: Path):
        self.path = folder / LEASE
        self.renewed = -float("inf")
        self._here = {"host": socket.gethostname(), "folder": str(folder)}
        self._object = CompareAndSwap(self.path, None)
        self._lock = FileLock(folder / ".lease")

    def take(self, tell: Callable[[str], None]) -> None:
        """Take the lease. If its owner gives no sign of life, wait for it to expire.

        Args:
            tell: called with one line if that wait is necessary.
        Raises:
            UserError: the study is being run elsewhere, or the store does not answer.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)

        # While this process has the lock, a lease of this machine belongs to a killed process.
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise self._busy("another process of this machine") from None

        try:
            with s3.needed(self.path):
                self._take(tell)
        except BaseException:
            self._lock.release()
            raise

    def renew(self) -> bool:
        """Renew the lease; return False if another driver has it now.

        Raises:
            Unreachable, Refused: it is not known who holds it; try again.
        """
        try:
            self._write()
        except s3.Taken:
            return False
        return True

    def release(self) -> None:
        """Release the lease, if the last `renew` returned True.

        If the store does not answer, the lease expires.
        """
        try:
            with contextlib.suppress(s3.Unreachable, s3.Refused):
                s3.delete(self.path)
        finally:
            self._lock.release()

    def drop(self) -> None:
        """Forget the lease, which another driver holds now."""
        self._lock.release()

    def _take(self, tell: Callable[[str], None]) -> None:
        first = s3.get(self.path)

        if first is None:
            self._object.etag = None
            self._write_or_refuse("another machine, which began at the same moment")
            return

        self._object.etag = first.etag
        owner = json.loads(first.body)
        ours = all(owner.get(key) == value for key, value in self._here.items())
        if not ours:
            self._wait(first, owner["host"], tell)

        # If it was released in the meantime, this write fails too, and the next start succeeds.
        self._write_or_refuse(owner["host"])

    def _wait(self, first: s3.Content, host: str, tell: Callable[[str], None]) -> None:
        told = False

        while True:
            now = s3.get(self.path)
            if now is None or now.age_s >= EXPIRES_S:
                return

            if now.etag != first.etag:
                raise self._busy(host)

            if not told:
                told = True
                tell(
                    f"{host} ran this study and was last heard of {now.age_s:.0f} s ago: waiting "
                    f"whether it lives, at most {EXPIRES_S - now.age_s:.0f} s"
                )

            time.sleep(_LOOK_S)

    def _write_or_refuse(self, host: str) -> None:
        try:
            self._write()
        except s3.Taken:
            raise self._busy(host) from None

    def _write(self) -> None:
        content = {**self._here, "pid": os.getpid(), "renewal": uuid.uuid4().hex}
        self._object.put(json.dumps(content).encode())
        self.renewed = time.monotonic()

    def _busy(self, where: str) -> UserError:
        return UserError(
            f"study {self.path.parent.name!r} is being run by {where}; wait for it, or choose "
            "another --study name"
        )
