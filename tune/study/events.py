"""The event log of a study: append-only JSON lines, on disk before anything else sees them.

Every event is {"t": milliseconds since the epoch, "event": name, ...}:

    study     name, experiment, objective, direction, config {flat}, searched [names],
              data {name, fingerprint, path, images}, tags {}, group {name, id} or null;
              kind "group": the log is about several studies
    start     trial, config {flat}, attempt, resumed_epoch (null: from the beginning);
              enqueued true: the user named the configuration
    report    trial, epoch (from 1), metrics {name: float}
    artifact  trial (null: the study), path (relative to the study's folder),
              to (artifact sub-folder)
    end       trial, state COMPLETE|PRUNED|FAIL, value, reason, metrics {final}, error (traceback);
              a repeat also has tested {outcome of every test image, `trainables/outcomes.py`}
    early_failure   trial, reason, error: it failed before its first report, as others did, and
              stays open; if this happens a second time, it has failed
    retry     trial (null: the untrained baseline): a failed run is trained again from its
              beginning (`--retry-failed`)
    summary   metrics {}, tags {}  (of the whole study)
    finish    state FINISHED|INTERRUPTED
    rename    name: the study's name from now on; the first event still defines its identity

`start`, `report`, `artifact`, `end` and `retry` may carry `repeat` (a seed): the event is then
about the repeat of the trial under that seed.
"""

import contextlib
import errno
import json
import math
import os
import shlex
import threading
import time
from pathlib import Path
from typing import Any

from trainables.errors import UserError
from trainables.files import write_atomically
from tune.study.disk import Patience, StorageFailed

__all__ = ["AppendOnlyFile", "EventLog"]

_NON_FINITE = "$float"  # JSON has no NaN or infinity: {"$float": "nan"}
_BLOCK = 65536  # bytes per step when searching for the last newline


class AppendOnlyFile:
    """A file of whole lines, which are on disk when `append_lines` returns. One process writes; its
    threads may share the object.

    Opening removes a torn last line, which a kill or a full disk leaves in the middle of a write.
    Copies and pickles refer to the same file without opening it, because Ray Tune copies the
    objects that hold one.

    Attributes:
        patience: waits for a disk that has gone away; by default every failure is final.

    Raises:
        StorageFailed: the folder or the file cannot be written.
    """

    def __init__(self, path: Path):
        self._begin(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._cut_torn_line(self._open())
        except OSError as error:
            raise StorageFailed.of(error, self.path) from error

    def _begin(self, path: Path) -> None:
        self.path = Path(path)
        self.patience = Patience()
        self._lock = threading.Lock()
        self._fd = -1
        self._failed_at: int | None = None
        """Length of the file before a failed write; None if the last write succeeded."""
        self._torn = False
        """A part of the failed write may still be in the file."""

    def append_lines(self, lines: bytes) -> None:
        """Append whole lines; return when they are on disk.

        Raises:
            StorageFailed: the disk is full or not writable; the file is unchanged.
        """
        with self._lock:
            self.patience.insist(
                lambda: self._append_or_restore(lines), self.path, self._forget_handle
            )

    def close(self) -> None:
        """Close the file; a later write opens it again."""
        with self._lock:
            self._forget_handle()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._begin(state["path"])

    def _open(self) -> int:
        if self._fd < 0:
            flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
            if self._failed_at is None:
                flags |= os.O_CREAT
            self._fd = os.open(self.path, flags, 0o644)
        return self._fd

    def _forget_handle(self) -> None:
        """Close the file and ignore errors of its disk."""
        fd = self._fd
        self._fd = -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)

    def _append_or_restore(self, lines: bytes) -> None:
        fd = self._open()
        self._check_length(fd)
        end = os.fstat(fd).st_size
        self._failed_at = end
        self._torn = True
        try:
            _write_all(fd, lines)
            os.fsync(fd)
        except BaseException:  # KeyboardInterrupt too: a program may continue
            with contextlib.suppress(OSError):  # the next write tries again
                os.ftruncate(fd, end)
                self._torn = False
            raise
        self._failed_at = None
        self._torn = False

    def _check_length(self, fd: int) -> None:
        """Restore the file to its length before a failed write.

        Raises:
            OSError: the file is shorter. The disk may be gone, and an empty folder in its place.
        """
        end = self._failed_at
        if end is None:
            return
        if os.fstat(fd).st_size < end:
            raise OSError(errno.ESTALE, "it is not the file that it was", str(self.path))
        if self._torn:
            os.ftruncate(fd, end)

    def _cut_torn_line(self, fd: int) -> None:
        size = os.fstat(fd).st_size
        end = size
        while end > 0:
            start = max(0, end - _BLOCK)
            newline = os.pread(fd, end - start, start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            os.ftruncate(fd, end)
            os.fsync(fd)


class EventLog(AppendOnlyFile):
    """Appends events to a file and reads them back.

    Times never run backwards, even if the machine's clock is set back during a study or between two
    starts. Otherwise durations and the order of a record would be wrong.
    """

    def append(self, event: str, **fields: Any) -> dict[str, Any]:
        """Append one event; return it when it is on disk.

        Raises:
            StorageFailed: the disk is full or not writable; the log then ends with the last whole
                event.
        """
        written, line = self.prepare(event, **fields)
        self.append_lines(line)
        return written

    def prepare(self, event: str, **fields: Any) -> tuple[dict[str, Any], bytes]:
        """Return an event that happens now, and its line, which `append_lines` writes."""
        written = {"t": self._now(), "event": event, **fields}
        return written, _encode(written) + b"\n"

    def _begin(self, path: Path) -> None:
        super()._begin(path)
        self._last: tuple[int, float] | None = None
        """Time of the last event in ms since the epoch, and the monotonic clock when it was
        written, in s."""

    def _now(self) -> int:
        """Time of the next event, in ms since the epoch.

        It comes from the machine's clock. While that is behind the last event, it is the time of
        the last event plus the time that has passed since.
        """
        moment = time.monotonic()
        if self._last is None:
            self._last = _time_of_last(self.path), moment
        last, at = self._last

        now = int(time.time() * 1000)
        if now < last:
            now = last + int(1000 * (moment - at))
        self._last = now, moment
        return now

    def put_first(self, t: int, event: str, **fields: Any) -> dict[str, Any]:
        """Write an event in front of all others, after the first one was lost.

        Args:
            t: ms since the epoch.
        """
        first = {"t": t, "event": event, **fields}
        self.close()
        write_atomically(self.path, _encode(first) + b"\n" + self.path.read_bytes())
        return first

    @staticmethod
    def begins_at(path: Path, offset: object) -> bool:
        """True if an event begins at this byte of the file, or the file ends there."""
        if offset == 0:
            return True
        if not isinstance(offset, int) or not 0 < offset <= path.stat().st_size:
            return False
        with path.open("rb") as log:
            log.seek(offset - 1)
            return log.read(1) == b"\n"

    @staticmethod
    def read(
        path: Path, offset: int = 0, limit: int | None = None
    ) -> tuple[list[dict[str, Any]], int]:
        """Read whole events from byte `offset` on.

        Args:
            limit: read about this many bytes at most, but at least one event if there is one.
        Returns:
            The events, and the offset of the next one. A last line that is still being written is
            skipped. Without a file there are no events.
        Raises:
            UserError: a line is not JSON, which no crash of the writer can cause.
        """
        events = []
        for line in _whole_lines(Path(path), offset, limit):
            try:
                events.append(_decode(line))
            except ValueError as error:
                number = _line_at(Path(path), offset)
                raise UserError(
                    f"{path} is damaged after byte {offset} ({error}): restore it from a copy, or "
                    f"delete line {number} (sed -i {number}d {shlex.quote(str(path))}), and the "
                    "next start restores what the journal knows of it"
                ) from error
            offset += len(line)
        return events, offset


def _whole_lines(path: Path, offset: int, limit: int | None) -> list[bytes]:
    lines: list[bytes] = []
    size = 0
    try:
        with path.open("rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                lines.append(line)
                size += len(line)
                if limit is not None and size >= limit:
                    break
    except FileNotFoundError:
        return []
    return lines


def _time_of_last(path: Path) -> int:
    """Time of the last event in a file, in ms since the epoch; 0 if there is none."""
    try:
        line = _last_line(path)
        return int(_decode(line)["t"]) if line else 0
    except (OSError, ValueError, TypeError):  # reading the whole file reports what is wrong
        return 0


def _last_line(path: Path) -> bytes:
    """The last whole line of a file; empty if there is none."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        length = _BLOCK
        while True:
            start = max(0, size - length)
            file.seek(start)
            *whole, _torn = file.read().split(b"\n")
            if len(whole) > 1 or (whole and start == 0):
                return whole[-1]
            if start == 0:
                return b""
            length *= 4


def _line_at(path: Path, offset: int) -> int:
    """Number of the line that begins at a byte, from 1."""
    with path.open("rb") as file:
        return 1 + file.read(offset).count(b"\n")


def _write_all(fd: int, content: bytes) -> None:
    while content:
        written = os.write(fd, content)
        content = content[written:]


def _encode(record: dict[str, Any]) -> bytes:
    try:
        text = json.dumps(record, allow_nan=False, separators=(",", ":"), default=_plain)
    except ValueError:
        text = json.dumps(_without_non_finite(record), allow_nan=False, separators=(",", ":"))
    return text.encode()


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):  # a scalar of NumPy or torch
        return value.item()
    return os.fspath(value)


def _without_non_finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _without_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_non_finite(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if not isinstance(value, float):
        return _without_non_finite(_plain(value))
    return value if math.isfinite(value) else {_NON_FINITE: repr(float(value))}


def _decode(line: bytes) -> dict[str, Any]:
    record = json.loads(line, object_hook=_restore_non_finite)
    if not isinstance(record, dict) or "event" not in record or "t" not in record:
        raise ValueError(f"not an event: {line[:60]!r}")
    return record


def _restore_non_finite(item: dict[str, Any]) -> Any:
    if item.keys() == {_NON_FINITE}:
        return float(item[_NON_FINITE])
    return item
