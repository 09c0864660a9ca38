"""The right to draw a study's pictures, held by the process that claimed it last.

A process first claims the pictures, then takes their lock. A process that draws in the background
keeps checking its claim and leaves when another one replaces it. A new start, a page or a removal
of the study therefore waits only briefly.
"""

import contextlib
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from trainables.files import write_result

_CLAIM = ".pictures.claim"
_LOCK = ".pictures.lock"
_LOOK_S = 0.1


class DrawingClaim:
    """The right to draw the pictures of the study in `folder`, until another process claims it.

    Args:
        token: token of a claim made and passed on by another process; default: make a new claim.
    Raises:
        OSError: the folder is not writable, or the disk is full. On a full disk no claim holds
            afterwards.
    """

    def __init__(self, folder: Path, token: str | None = None):
        self.folder = folder
        self.token = token or secrets.token_hex(8)
        # One thread may acquire the lock and another release it.
        self._lock = FileLock(folder / _LOCK, thread_local=False)
        if token is None:
            self._write()

    def _write(self) -> None:
        path = self.folder / _CLAIM
        try:
            write_result(path, self.token)
        except OSError:
            path.unlink(missing_ok=True)
            raise

    @property
    def stands(self) -> bool:
        """True until another process claims the pictures or the study's folder is gone."""
        try:
            return (self.folder / _CLAIM).read_text() == self.token
        except OSError:
            return False

    def take(self, enough: Callable[[], bool] = lambda: False) -> bool:
        """Wait until the previous process has left, and take the lock. Return False if the claim no
        longer holds or `enough` returns True."""
        if self._lock.is_locked:
            return True
        while self.stands and not enough():
            with contextlib.suppress(Timeout, OSError):
                self._lock.acquire(timeout=0)
                return True
            time.sleep(_LOOK_S)
        return False

    def release(self) -> None:
        """Release the lock so that others can draw."""
        self._lock.release(force=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()
