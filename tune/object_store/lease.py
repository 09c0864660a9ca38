"""Who runs a study in an object store: one driver at a time, on whatever machine. An object says
who, renewed while that one lives.

All of it rests on conditional writes (If-Match, If-None-Match) and on the store's clock; machines'
own clocks do not matter.
"""

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

RENEW_S = 20.0
EXPIRES_S = 90.0
"""A lease that nobody has renewed for so long is that of a machine that is gone."""
_LOOK_S = 2.0


class Lease:
    """Of the study in `folder`. Take it before anything of the study is written, renew it every
    RENEW_S, release it at the end."""

    def __init__(self, folder: Path):
        self.path = folder / "lease"
        self._here = {"host": socket.gethostname(), "folder": str(folder)}
        self._chain = CompareAndSwap(self.path, None)
        self._lock = FileLock(folder / ".lease")
        self.renewed = -float("inf")
        """When it was last known to be ours (monotonic)."""

    def take(self, tell: Callable[[str], None]) -> None:
        """Ours from now on; waits for one to expire whose owner gives no sign of life.

        Args:
            tell: hears that, and for how long, we wait.
        Raises:
            UserError: the study is being run elsewhere, or the store does not answer.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # nobody else on this machine: a lease from here is that of a process that was killed
            self._lock.acquire(timeout=0)
        except Timeout:
            raise self._busy("another process of this machine") from None
        try:
            with s3.needed(self.path):
                self._take(tell)
        except BaseException:
            self._lock.release()
            raise

    def _take(self, tell: Callable[[str], None]) -> None:
        first = s3.get(self.path)
        self._chain.etag = None if first is None else first.etag
        if first is None:
            try:
                self._write()
            except s3.Taken:
                raise self._busy("another machine, which began at the same moment") from None
            return
        owner = json.loads(first.body)
        if {key: owner.get(key) for key in self._here} != self._here:
            self._wait(first, owner, tell)
        try:
            self._write()  # given back meanwhile it counts as taken: the next start has it
        except s3.Taken:
            raise self._busy(owner["host"]) from None

    def _wait(self, first: s3.Content, owner: dict[str, str], tell: Callable[[str], None]) -> None:
        told = False
        while (now := s3.get(self.path)) is not None and now.age_s < EXPIRES_S:
            if now.etag != first.etag:
                raise self._busy(owner["host"])
            if not told:
                told = True
                tell(
                    f"{owner['host']} ran this study and was last heard of {now.age_s:.0f} s ago: waiting whether it lives, "
                    f"at most {EXPIRES_S - now.age_s:.0f} s"
                )
            time.sleep(_LOOK_S)

    def renew(self) -> bool:
        """False: another driver has it now.

        Raises:
            Unreachable, Refused: to be tried again; whether it is still ours is not known.
        """
        try:
            self._write()
        except s3.Taken:
            return False
        return True

    def release(self) -> None:
        """Give it back. That the store does not answer is no matter: it expires.

        Only for an owner whose last `renew` said True."""
        try:
            s3.delete(self.path)
        except (s3.Unreachable, s3.Refused):
            pass
        finally:
            self._lock.release()

    def drop(self) -> None:
        """Another driver has it."""
        self._lock.release()

    def _write(self) -> None:
        self._chain.put(
            json.dumps({**self._here, "pid": os.getpid(), "renewal": uuid.uuid4().hex}).encode()
        )
        self.renewed = time.monotonic()

    def _busy(self, where: str) -> UserError:
        return UserError(
            f"study {self.path.parent.name!r} is being run by {where}; wait for it, or choose another --study name"
        )
