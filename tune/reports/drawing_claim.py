"""The right to draw a study's pictures, which the process has that asked for it last.

A process claims the pictures, then takes their lock. One that draws behind a command that has
ended looks again and again whether it is still its claim that stands, and leaves when it is not; so
a new start, a page and whoever removes the study wait for a moment at most.
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
        token: of a claim that another process has made and passed on; default: a new claim.
    Raises:
        OSError: the folder cannot be written; on a full disk no claim stands then.
    """

    def __init__(self, folder: Path, token: str | None = None):
        self.folder = folder
        self.token = token or secrets.token_hex(8)
        # One thread may take the lock, and another give it back.
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
        """True until another process claims the pictures, or the study's folder has gone."""
        try:
            return (self.folder / _CLAIM).read_text() == self.token
        except OSError:
            return False

    def take(self, enough: Callable[[], bool] = lambda: False) -> bool:
        """Wait until whoever drew before has left; False where the claim does not stand any more,
        or `enough` says that nobody waits."""
        if self._lock.is_locked:
            return True
        while self.stands and not enough():
            with contextlib.suppress(Timeout, OSError):
                self._lock.acquire(timeout=0)
                return True
            time.sleep(_LOOK_S)
        return False

    def release(self) -> None:
        """Let others draw."""
        self._lock.release(force=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()
