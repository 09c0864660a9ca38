"""Send the event log of a study to a destination. A slow, hung, locked or missing destination never
delays the study; it catches up later.

A thread replays the log and records its progress in the destination itself. So a destination that
was deleted, switched or restored from a copy is brought up to date. Everything that is sent may be
sent again.
"""

import contextlib
import math
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from trainables.errors import UserError, first_line
from tune.command_line import command
from tune.study.events import EventLog
from tune.study.identity import STUDY, study_id
from tune.tracking.destination import Connection, Destination, Opening
from tune.tracking.projection import Projection

__all__ = ["Replay"]

MLFLOW = "mlflow"
"""Name of the destination that every study is sent to."""
TRACKING_LOCK = "tracking.lock"
"""File in a study's folder, locked by the process that sends the study to MLflow."""

POLL_S = 0.5
REST = 2.0
"""Seconds of pause per second of work while the study runs, because the driver shares its
interpreter with this thread."""
CHUNK_BYTES = 256 * 1024
PATIENCE_S = 3.0
"""`close` waits this long for a sign of life."""
RETRY_S = 0.5
LONGEST_RETRY_S = 30.0


class Replay:
    """Replays `events.jsonl` of one study folder into a destination, either in a thread (`start`,
    `close`) or immediately (`sync`).

    Start the thread after the driver has finished its imports, because the thread may import
    packages such as MLflow, which take seconds of CPU time.

    Args:
        study_dir: `<storage>/<study>`, the folder of the event log.

    Attributes:
        problem: reason why the last attempt failed, in one line; None if it succeeded.
        known: returns how many bytes of the log would survive the loss of this machine. The
            destination may survive it too, so it gets no more than these.
    """

    def __init__(self, study_dir: Path, destination: Destination):
        self.study_dir = Path(study_dir).absolute()
        self.destination = destination
        self.problem: str | None = None
        self.known: Callable[[], float] = lambda: math.inf
        self._log = self.study_dir / "events.jsonl"
        lock = TRACKING_LOCK if destination.name == MLFLOW else f"{destination.name}.lock"
        self._lock = FileLock(self.study_dir / lock, thread_local=False)

        self._connection: Connection | None = None
        self._projection = self._fresh_projection()
        self._offset = 0
        self._sent = 0

        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._abandoned = threading.Event()
        self._alive_until = 0.0
        self._complete = False

    def start(self) -> None:
        """Start replaying in a daemon thread; return at once."""
        self._beat(0)
        name = f"{self.destination.name}-replay"
        self._thread = threading.Thread(target=self._replay, name=name, daemon=True)
        self._thread.start()

    def last_call(self) -> None:
        """Ask the thread to finish; return at once."""
        now = time.monotonic()
        if self.problem is None:
            self._alive_until = max(self._alive_until, now + PATIENCE_S)
        else:
            self._alive_until = now + PATIENCE_S / 2
        self._closing.set()

    def close(self, drain_s: float = 30.0) -> bool:
        """Let the thread finish as long as it makes progress, for at most `drain_s` seconds. Return
        True if the destination has every event. Never raises."""
        if self._thread is None:
            return False

        limit = time.monotonic() + drain_s
        if not self._closing.is_set():
            self.last_call()
        while self._thread.is_alive() and time.monotonic() < min(limit, self._alive_until):
            self._thread.join(0.02)
        self._abandoned.set()
        return not self._thread.is_alive() and self.problem is None and self._complete

    def sync(self, is_wanted: Callable[[], bool] = lambda: True) -> str:
        """Send everything that the destination lacks now, and return one line that says what was
        done.

        Args:
            is_wanted: called between two chunks of the log; False stops the replay.
        Raises:
            UserError: there is no event log, the destination rejects it, or another process is
                replaying this study.
        """
        if not self._log.exists():
            raise UserError(
                f"{self.study_dir} is not a study: it has no events.jsonl; give a study's folder "
                f"below {self.study_dir.parent}"
            )

        try:
            self._send_all(is_wanted)
        except Timeout as error:
            raise UserError(
                f"study {self.study_dir.name!r} is being sent to {self.destination.title} by its "
                "own run; nothing to do until it ends"
            ) from error
        except Exception as error:
            raise UserError(self._refusal(error)) from error
        finally:
            self._disconnect()

        where = self.destination.where(self.study_dir)
        return f"{self.study_dir.name}: {self._sent} events sent to {where}"

    def _send_all(self, is_wanted: Callable[[], bool]) -> None:
        while True:
            try:
                while is_wanted() and self._step():
                    pass
                return
            except Exception as error:
                if not self._mended(error):
                    raise

    def _refusal(self, error: Exception) -> str:
        place = f"{self.destination.title} at {self.destination.where(self.study_dir)}"
        return (
            f"{place} cannot take study {self.study_dir.name!r} ({_one_line(error)}): "
            f"{self.destination.remedy(self.study_dir)}"
        )

    def _replay(self) -> None:
        pause = RETRY_S
        while not self._abandoned.is_set():
            began = time.monotonic()
            try:
                busy = self._step()
            except Exception as error:
                if not self._mended(error):
                    self._wait_after(error, pause)
                    pause = min(2 * pause, LONGEST_RETRY_S)
                continue

            self.problem = None
            pause = RETRY_S
            if not busy and self._closing.is_set():
                self._complete = not self._log.exists() or self._offset >= self._log.stat().st_size
                break
            self._closing.wait(max(POLL_S, REST * (time.monotonic() - began)))
        self._disconnect()

    def _wait_after(self, error: Exception, pause: float) -> None:
        self.problem = _one_line(error)
        self._alive_until = min(self._alive_until, time.monotonic() + PATIENCE_S)
        self._disconnect()
        self._closing.wait(pause)
        if self._closing.is_set():
            self._abandoned.wait(RETRY_S)

    def _mended(self, error: Exception) -> bool:
        """True if damage was the cause, and the destination has been replaced."""
        damage = self.destination.mend(error)
        if damage is None:
            return False
        self._disconnect()
        self._tell(damage)
        return True

    def _tell(self, damage: str) -> None:
        """Tell the user that the destination is new, and how to send the other studies to it."""
        again = command("report", "sync", storage=self.study_dir.parent)
        line = f"{damage}, with this study; `{again}` brings in the others"
        print(f"vistune: {line}", file=sys.stderr, flush=True)

    def _step(self) -> bool:
        """Send one chunk of the log; False if nothing is left to send."""
        connection = self._connection or self._connect()
        if connection is None:
            return False

        connection.check()
        allowed = min(CHUNK_BYTES, self.known() - self._offset)
        if allowed <= 0:
            return False
        events, following = EventLog.read(self._log, self._offset, int(allowed))
        if not events:
            return False

        for event in events:
            self._projection.feed(event)
        for key, changes in self._projection.take().items():
            connection.apply(self._projection.runs[key], changes)
        connection.remember(self._projection.runs[STUDY], following)

        self._offset = following
        self._sent += len(events)
        return True

    def _connect(self) -> Connection | None:
        """Find the study in the destination, and fold the log up to the destination's offset.
        Return None while the log is empty."""
        first, _ = EventLog.read(self._log, 0, limit=1)
        if not first:
            return None
        if not self._lock.is_locked:
            self._lock.acquire(timeout=0)

        identity = study_id(first[0])
        opening = Opening(
            self.study_dir, first[0], identity, beat=self._beat, fits=self._fits, tell=self._tell
        )
        connection = self.destination.connect(opening)
        self._offset = connection.offset
        self._projection = self._folded(connection.offset)
        if connection.lacks(self._projection.runs.keys()):
            self._offset = 0
            self._projection = self._fresh_projection()
        for key, changes in self._projection.take().items():
            connection.recall(self._projection.runs[key], changes)
        self._connection = connection
        return connection

    def _fits(self, offset: object) -> bool:
        """True if an event begins at this byte of the log. Otherwise the log is not the one that
        was sent, and all of it is sent again."""
        return EventLog.begins_at(self._log, offset)

    def _folded(self, offset: int) -> Projection:
        """Return the projection of the log before byte `offset`."""
        projection = self._fresh_projection()
        if offset:
            for event in EventLog.read(self._log, 0, limit=offset)[0]:
                projection.feed(event)
        return projection

    def _fresh_projection(self) -> Projection:
        return Projection(logarithms=self.destination.logarithms)

    def _disconnect(self) -> None:
        connection = self._connection
        self._connection = None
        if connection is not None:
            with contextlib.suppress(Exception):  # whatever was not recorded is sent again
                connection.close()
        self._lock.release()

    def _beat(self, seconds: float) -> None:
        if self.problem is None:  # a retry is not a sign of life
            self._alive_until = time.monotonic() + max(PATIENCE_S, seconds)


def _one_line(error: BaseException) -> str:
    line = first_line(error)
    kind = type(error).__name__
    return line if line == kind else f"{kind}: {line}"
