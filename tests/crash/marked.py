"""Processes that carry a mark in their environment: all those that a command has started."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

MARK = "VISTUNE_TEST_MARK"
"""Environment variable that holds the mark."""


def marked(mark: str) -> Iterator[tuple[int, str]]:
    """Yield id and command line of each process with the mark."""
    wanted = f"{MARK}={mark}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            if wanted not in (process / "environ").read_bytes().split(b"\0"):
                continue
            if (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z":
                continue
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ")
            yield int(process.name), words.decode(errors="replace")


def end_marked(mark: str, patience_s: float = 60.0) -> None:
    """Kill all processes with the mark, and wait until they are gone."""
    deadline = time.monotonic() + patience_s
    while pids := [pid for pid, _ in marked(mark)]:
        assert time.monotonic() < deadline, f"processes {pids} do not end"
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
