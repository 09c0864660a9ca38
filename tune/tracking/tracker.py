"""Event log of a study -> MLflow. MLflow being slow, hung, locked or gone never holds a study up;
it catches up later.

A thread replays the log and notes how far it came in the store itself (a tag of the study's run),
so that a store that was deleted, switched or restored from a copy is completed. All that is sent
may be sent again: runs are found by a tag of their own, and a metric that comes twice with the same
time, step and value is one row.
"""

import json
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from filelock import FileLock, Timeout

from trainables.errors import UserError
from trainables.files import write_atomically
from tune.command_line import command
from tune.study.events import EventLog
from tune.tracking.projection import Projection
from tune.tracking.runs import MlflowRuns, Rejected

__all__ = ["Tracker", "default_uri", "saved_state", "without_password"]

POLL_S = 0.5
# pause per second of work while the study runs: the driver shares its interpreter with this thread
REST = 2.0
CHUNK_BYTES = 256 * 1024
PATIENCE_S = 3.0  # `close` waits this long for a sign of life
RETRY_S, LONGEST_RETRY_S = 0.5, 30.0


def default_uri(storage: Path) -> str:
    """MLFLOW_TRACKING_URI, or an SQLite file in the storage folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{storage.absolute()}/mlflow.db"


def saved_state(study_dir: Path, uri: str) -> dict[str, Any]:
    """Return what this folder knows of the study in the store at `uri`: {"offset", "experiment_id",
    "run_id", "study_id"}; {} before the first event was sent."""
    return dict(_saved_states(study_dir).get(without_password(uri), {}))


def without_password(uri: str) -> str:
    """`uri` fit to be shown and stored."""
    parts = urlsplit(uri)
    return (
        urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        if "@" in parts.netloc
        else uri
    )


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
        self._closing, self._abandoned = threading.Event(), threading.Event()
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
        self._alive_until = (
            max(self._alive_until, now + PATIENCE_S)
            if self.problem is None
            else now + PATIENCE_S / 2
        )
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
        shown = without_password(self.uri)
        again = command("report", "sync", storage=self.study_dir.parent)
        self._sync_group()
        try:
            while self._step():
                pass
        except Timeout as error:
            raise UserError(
                f"study {self.study_dir.name!r} is being sent to MLflow by its own run; nothing to "
                "do until it ends"
            ) from error
        except Exception as error:
            raise UserError(
                f"MLflow at {shown} cannot take study {self.study_dir.name!r} "
                f"({_one_line(error)}): mend that, "
                f"or set MLFLOW_TRACKING_URI, and run `{again}`"
            ) from error
        finally:
            self._disconnect()
        refused = (
            f"; {self._rejected.count} records refused, see {self._rejected.path}"
            if self._rejected.count
            else ""
        )
        return f"{self.study_dir.name}: {self._sent} events sent to {shown}{refused}"

    def _sync_group(self) -> None:
        """A study's run is below that of its group."""
        first, _ = EventLog.read(self._log, 0, limit=1)
        if (
            first
            and (group := first[0].get("group"))
            and (self.study_dir.parent / group["name"] / "events.jsonl").exists()
        ):
            Tracker(self.study_dir.parent / group["name"], self.uri).sync()

    def _replay(self) -> None:
        pause = RETRY_S
        while not self._abandoned.is_set():
            began = time.monotonic()
            try:
                busy = self._step()
            except Exception as error:
                self.problem = _one_line(error)
                self._alive_until = min(self._alive_until, time.monotonic() + PATIENCE_S)
                self._disconnect()
                self._closing.wait(pause)
                pause = min(2 * pause, LONGEST_RETRY_S)
                if self._closing.is_set():
                    self._abandoned.wait(RETRY_S)
                continue
            self.problem, pause = None, RETRY_S
            if not busy and self._closing.is_set():
                self._complete = not self._log.exists() or self._offset >= self._log.stat().st_size
                break
            self._closing.wait(max(POLL_S, REST * (time.monotonic() - began)))
        self._disconnect()

    def _step(self) -> bool:
        """Send one stretch of the log; False when nothing is left to send."""
        runs = self._runs or self._connect()
        if runs is None:
            return False
        runs.check_same_file()
        allowed = min(CHUNK_BYTES, self.known() - self._offset)
        events, following = (
            EventLog.read(self._log, self._offset, int(allowed))
            if allowed > 0
            else ([], self._offset)
        )
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
            self.uri, self.study_dir, first[0], projection.study_id, self._rejected, self._beat
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
