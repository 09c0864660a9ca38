"""Event log of a study -> MLflow. MLflow being slow, hung, locked or gone never holds a study up;
it catches up later.

A thread replays the log and notes how far it came in the store itself (a tag of the study's run),
so that a store that was deleted, switched or restored from a copy is completed. All that is sent
may be sent again: runs are found by a tag of their own, and a metric that comes twice with the same
time, step and value is one row.
"""

import json
import math
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from trainables.errors import UserError
from trainables.files import write_atomically
from tune.command_line import command
from tune.study.events import EventLog
from tune.tracking.address import default_uri, without_password
from tune.tracking.database import mend, sqlite_path
from tune.tracking.projection import Projection
from tune.tracking.rejected import Rejected
from tune.tracking.runs import MlflowRuns

__all__ = ["Tracker", "saved_state"]

POLL_S = 0.5
REST = 2.0
"""Pause per second of work while the study runs: the driver shares its interpreter with this
thread."""
CHUNK_BYTES = 256 * 1024
PATIENCE_S = 3.0
"""`close` waits this long for a sign of life."""
RETRY_S = 0.5
LONGEST_RETRY_S = 30.0


def saved_state(study_dir: Path, uri: str) -> dict[str, Any]:
    """Return what this folder knows of the study in the store at `uri`: {"offset", "experiment_id",
    "run_id", "study_id"}; {} before the first event was sent."""
    return dict(_saved_states(study_dir).get(without_password(uri), {}))


class Tracker:
    """Replays `events.jsonl` of one study folder into MLflow, from a thread (`start`, `close`) or
    at once (`sync`).

    Start it when the imports of the driver are done: the thread imports MLflow, which takes seconds
    of CPU time.

    Args:
        study_dir: `<storage>/<study>`, the folder of the event log.
        uri: MLflow tracking URI; default: `default_uri` of the storage.

    Attributes:
        problem: why the last attempt failed, in one line; None when it succeeded.
        known: returns how many bytes of the log outlive this machine; MLflow, which may outlive
            it too, gets no more.
    """

    def __init__(self, study_dir: Path, uri: str | None = None):
        self.study_dir = Path(study_dir).absolute()
        self.uri = uri or default_uri(self.study_dir.parent)
        self.problem: str | None = None
        self.known: Callable[[], float] = lambda: math.inf
        self._log = self.study_dir / "events.jsonl"
        self._lock = FileLock(self.study_dir / "tracking.lock", thread_local=False)
        self._rejected = Rejected(self.study_dir / "tracking-rejected.jsonl")

        self._runs: MlflowRuns | None = None
        self._projection = Projection()
        self._offset = 0
        self._sent = 0

        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._abandoned = threading.Event()
        self._alive_until = 0.0
        self._complete = False

    def start(self) -> None:
        """Begin to replay in a daemon thread; returns at once."""
        self._beat(0)
        self._thread = threading.Thread(target=self._replay, name="mlflow-replay", daemon=True)
        self._thread.start()

    def last_call(self) -> None:
        """Ask the thread to finish; returns at once."""
        now = time.monotonic()
        if self.problem is None:
            self._alive_until = max(self._alive_until, now + PATIENCE_S)
        else:
            self._alive_until = now + PATIENCE_S / 2
        self._closing.set()

    def close(self, drain_s: float = 30.0) -> bool:
        """Let the thread finish for as long as it gets on, at most `drain_s` seconds. True if
        MLflow has every event. Never raises."""
        if self._thread is None:
            return False

        limit = time.monotonic() + drain_s
        if not self._closing.is_set():
            self.last_call()
        while self._thread.is_alive() and time.monotonic() < min(limit, self._alive_until):
            self._thread.join(0.02)
        self._abandoned.set()
        return not self._thread.is_alive() and self.problem is None and self._complete

    def sync(self) -> str:
        """Replay now what MLflow lacks, and say in one line what was done.

        Raises:
            UserError: there is no event log, MLflow cannot take it, or another process replays this
                study.
        """
        if not self._log.exists():
            raise UserError(
                f"{self.study_dir} is not a study: it has no events.jsonl; give a study's folder "
                f"below {self.study_dir.parent}"
            )

        self._sync_group()
        try:
            self._send_all()
        except Timeout as error:
            raise UserError(
                f"study {self.study_dir.name!r} is being sent to MLflow by its own run; nothing to "
                "do until it ends"
            ) from error
        except Exception as error:
            raise UserError(self._refusal(error)) from error
        finally:
            self._disconnect()

        said = f"{self.study_dir.name}: {self._sent} events sent to {without_password(self.uri)}"
        if self._rejected.count:
            said += f"; {self._rejected.count} records refused, see {self._rejected.path}"
        return said

    def _send_all(self) -> None:
        while True:
            try:
                while self._step():
                    pass
                return
            except Exception as error:
                if not self._mended(error):
                    raise

    def _refusal(self, error: Exception) -> str:
        again = command("report", "sync", storage=self.study_dir.parent)
        return (
            f"MLflow at {without_password(self.uri)} cannot take study {self.study_dir.name!r} "
            f"({_one_line(error)}): mend that, or set MLFLOW_TRACKING_URI, and run `{again}`"
        )

    def _sync_group(self) -> None:
        """Sync the study's group first: a study's run is below that of its group."""
        first, _ = EventLog.read(self._log, 0, limit=1)
        group = first[0].get("group") if first else None
        if group is None:
            return

        folder = self.study_dir.parent / group["name"]
        if (folder / "events.jsonl").exists():
            Tracker(folder, self.uri).sync()

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
        """True where a damaged database was the reason, and there is a new one."""
        database = sqlite_path(self.uri)
        if database is None:
            return False

        damage = mend(database, error)
        if damage is None:
            return False
        self._disconnect()
        self._tell(damage)
        return True

    def _tell(self, damage: str) -> None:
        """Say that the database is a new one, and how the other studies come into it."""
        again = command("report", "sync", storage=self.study_dir.parent)
        line = f"{damage}, with this study; `{again}` brings in the others"
        print(f"vistune: {line}", file=sys.stderr, flush=True)

    def _step(self) -> bool:
        """Send one stretch of the log; False when nothing is left to send."""
        runs = self._runs or self._connect()
        if runs is None:
            return False

        runs.check_same_file()
        allowed = min(CHUNK_BYTES, self.known() - self._offset)
        if allowed <= 0:
            return False
        events, following = EventLog.read(self._log, self._offset, int(allowed))
        if not events:
            return False

        for event in events:
            self._projection.feed(event)
        for key, changes in self._projection.take().items():
            runs.apply(self._projection.runs[key], changes)
        runs.remember(self._projection.runs["study"], following)

        self._offset = following
        self._sent += len(events)
        self._save(runs)
        return True

    def _connect(self) -> MlflowRuns | None:
        """Find the study in MLflow and bring the projection to where MLflow stands; None while the
        log is empty."""
        first, _ = EventLog.read(self._log, 0, limit=1)
        if not first:
            return None
        if not self._lock.is_locked:
            self._lock.acquire(timeout=0)

        projection = Projection()
        projection.feed(first[0])
        runs = MlflowRuns(
            self.uri,
            self.study_dir,
            first[0],
            projection.study_id,
            self._rejected,
            self._beat,
            self._tell,
        )
        self._projection = _folded(self._log, runs.offset)
        self._offset = runs.offset
        if not self._projection.runs.keys() <= runs.ids.keys():  # runs were deleted for good
            self._projection, self._offset = Projection(), 0
        self._runs = runs
        self._save(runs)
        return runs

    def _disconnect(self) -> None:
        self._runs = None
        self._lock.release()

    def _beat(self, seconds: float) -> None:
        if self.problem is None:  # trying again is not a sign of life
            self._alive_until = time.monotonic() + max(PATIENCE_S, seconds)

    def _save(self, runs: MlflowRuns) -> None:
        states = _saved_states(self.study_dir)
        states[without_password(self.uri)] = {
            "offset": self._offset,
            "experiment_id": runs.experiment_id,
            "run_id": runs.ids.get("study"),
            "study_id": runs.study_id,
        }
        write_atomically(self.study_dir / "tracking.json", json.dumps(states, indent=1))


def _folded(log: Path, offset: int) -> Projection:
    projection = Projection()
    if offset:
        for event in EventLog.read(log, 0, limit=offset)[0]:
            projection.feed(event)
        projection.take()
    return projection


def _saved_states(study_dir: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((study_dir / "tracking.json").read_text()))
    except (FileNotFoundError, ValueError):
        # a power cut can leave it empty; the store knows the offset
        return {}


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
