"""Functions and commands that hang: nothing is heard of them for many times a usual epoch
(`--hung-after N`).

A command is ended. A function is ended by an exception in its thread. A function that waits inside
C code can be interrupted only in the main thread. In any other thread, the process ends itself, and
leaves a note from which the next process knows that the trial has failed.

    .hung.json    {"error": how long, and where the function stood}
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trainables.errors import TrialFailed
from trainables.files import write_atomically
from tune.formatting import duration
from tune.study.work import Work

HUNG = "hung"
"""Reason of a trial that hung and was given up."""
LEAST_S = 60.0
"""Minimum time before a run is given up: an epoch that validates or saves may take longer than
others."""

_NOTE = ".hung.json"
_LOOK_S = 1.0
_GRACE_S = 10.0


class TrialHung(BaseException):
    """Ends the function. `except Exception` does not catch it."""


class Silence:
    """The time since a run was last heard of, against its usual epoch."""

    def __init__(self, work: Work):
        self._factor = work.hung_after
        self._usual_s = work.usual_epoch_s
        self._heard_at = time.monotonic()
        self._is_answered = True

    @property
    def is_limited(self) -> bool:
        """False if the run is waited for, however long it takes."""
        return self._factor > 0

    def heard(self) -> None:
        """Note a sign of life."""
        self._heard_at = time.monotonic()

    def note_epoch(self, seconds: float) -> None:
        """Note the length of an epoch: the longest one counts as usual."""
        self._usual_s = max(self._usual_s, seconds)

    @contextlib.contextmanager
    def ours(self) -> Iterator[None]:
        """Mark a block in which the run waits for the study, which may wait for a disk."""
        self._is_answered = False
        try:
            yield
        finally:
            self.heard()
            self._is_answered = True

    def overdue(self) -> str:
        """Describe for how long nothing was heard, if that is too long; "" if it is not, or if no
        epoch is known yet."""
        # Checked first: a run that gets its answer between the two lines has just been heard.
        is_known = self.is_limited and self._usual_s > 0 and self._is_answered
        silent_s = time.monotonic() - self._heard_at
        if not is_known or silent_s < max(LEAST_S, self._factor * self._usual_s):
            return ""
        return (
            f"no report for {duration(silent_s)}, where an epoch takes {duration(self._usual_s)} "
            f"(--hung-after {self._factor:g})"
        )


def call_until_silent(call: Callable[[], object], silence: Silence, folder: Path) -> None:
    """Call a function; end it by an exception if nothing was heard of it for too long.

    Args:
        folder: folder of the trial.
    Raises:
        TrialFailed: `hung`, now or in an earlier process.
    """
    _fail_as_noted(folder / _NOTE)
    if not silence.is_limited:
        call()
        return

    watch = _Watch(silence, folder / _NOTE)
    try:
        try:
            watch.begin()
            call()
        finally:
            watch.end()
    except TrialHung:
        # It arrives anywhere in the thread, even after the function's last line, within `end`.
        watch.end()
        raise TrialFailed(HUNG, watch.said) from None


def _fail_as_noted(note: Path) -> None:
    """Fail a trial if one of its processes has ended itself, and remove the note about that."""
    if not note.exists():
        return
    error = json.loads(note.read_text())["error"]
    note.unlink()
    raise TrialFailed(HUNG, error)


class _Watch:
    """A thread that watches whether a function, in the thread that creates this, is still heard
    of."""

    def __init__(self, silence: Silence, note: Path):
        self.said = ""
        self._silence = silence
        self._note = note
        self._function = threading.current_thread()
        self._is_main = self._function is threading.main_thread()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="silence", daemon=True)
        self._has_begun = False
        self._handler: Any = None

    def begin(self) -> None:
        """Begin to watch."""
        if self._is_main:
            # The signal interrupts waits in C code, such as a sleep, a socket or a lock.
            self._handler = signal.signal(signal.SIGUSR2, _raise_hung)
        self._thread.start()
        self._has_begun = True  # `start` waits for the thread, and must not be interrupted

    def end(self) -> None:
        """Stop watching. A second call does what the first one has left undone."""
        with self._lock:
            self._ended.set()
        if self._is_main:
            signal.signal(signal.SIGUSR2, self._handler)
        elif self.said:
            _raise_in(self._function, None)  # in case it has not arrived yet

    def _look(self) -> None:
        while not self._ended.wait(_LOOK_S):
            overdue = self._silence.overdue()
            if overdue and self._has_begun:
                self._leave(overdue)

    def _leave(self, overdue: str) -> None:
        with self._lock:
            if self._ended.is_set():
                return
            self.said = f"{overdue}\n{_stack(self._function)}"
            if self._is_main:
                signal.pthread_kill(_id(self._function), signal.SIGUSR2)
            else:
                _raise_in(self._function, TrialHung)

        if not self._ended.wait(_GRACE_S) and not self._is_main:
            write_atomically(self._note, json.dumps({"error": self.said}) + "\n")
            os._exit(1)


def _raise_hung(number: int, frame: object) -> None:
    raise TrialHung


def _raise_in(thread: threading.Thread, error: type[BaseException] | None) -> None:
    """Raise an exception in another thread, as soon as it runs Python; None cancels one."""
    what = ctypes.py_object() if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(_id(thread)), what)


def _stack(thread: threading.Thread) -> str:
    """The lines at which a thread stands, in the form of a traceback."""
    frame = sys._current_frames().get(_id(thread))
    return "".join(traceback.format_stack(frame)) if frame is not None else ""


def _id(thread: threading.Thread) -> int:
    assert thread.ident is not None  # it runs
    return thread.ident
