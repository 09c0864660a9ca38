"""CPU time of a command with everything that it starts, including Ray's daemons.

The processes are found in /proc by a variable in their environment, which every started process
inherits, or by a parent that has it (Ray's workers overwrite their environment with a title). A
process that ends between two looks counts with its value at the last one; with a look every 50 ms,
at most 50 ms are missed.
"""

import contextlib
import os
import signal
import threading
from dataclasses import dataclass, replace
from pathlib import Path

MARK = "VISTUNE_BENCH_MARK"
COMMAND = "the command"
_TICK = os.sysconf("SC_CLK_TCK")
_ROLES = (
    ("gcs_server", "Ray: gcs_server"),
    ("dashboard/agent.py", "Ray: dashboard agent"),
    ("dashboard/dashboard.py", "Ray: dashboard"),
    ("runtime_env/agent", "Ray: environment agent"),
    ("log_monitor", "Ray: log monitor"),
    ("raylet/raylet", "Ray: raylet"),
    ("silent_agent", "Ray: dashboard agent"),
    ("ray::DashboardAgent", "Ray: dashboard agent"),
    ("ray::RuntimeEnvAgent", "Ray: environment agent"),
    ("template.py", "template of trials' processes"),
    ("ray::IDLE", "Ray: idle workers"),
    ("default_worker", "Ray: idle workers"),
    ("setup_worker", "Ray: idle workers"),
    ("ray::", "trials' processes"),
    ("plots.draw", "pictures"),
    ("draw_behind", "pictures"),
)
"""Part of a command line -> role of the process; the first match counts."""


@dataclass(frozen=True)
class Process:
    """A process as /proc shows it."""

    pid: int
    begun: int
    """Ticks since the machine started. With the id, this distinguishes a process from a later
    one."""
    parent: int
    role: str
    seconds: float
    """CPU time without that of its children, which are read themselves."""

    @property
    def key(self) -> tuple[int, int]:
        return self.pid, self.begun


def marked(value: str) -> list[Process]:
    """Return the living processes that have MARK=`value` in their environment, and their
    descendants."""
    living = [process for folder in _folders() if (process := _read(folder)) is not None]
    ours = {process.pid for process in living if _has_mark(process.pid, value)}
    for process in sorted(living, key=lambda process: process.begun):
        if process.parent in ours:
            ours.add(process.pid)
    return [process for process in living if process.pid in ours]


def by_role(processes: list[Process]) -> dict[str, float]:
    """Return {role: CPU seconds of all its processes}."""
    roles: dict[str, float] = {}
    for process in processes:
        roles[process.role] = roles.get(process.role, 0.0) + process.seconds
    return roles


def kill(value: str) -> None:
    """Kill all processes with this mark, which are ours, until none is left."""
    while processes := marked(value):
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)


class Meter:
    """Adds up the CPU time of all processes with a mark, in a thread, while the block runs."""

    def __init__(self, value: str, pause_s: float = 0.05):
        self._value = value
        self._pause_s = pause_s
        self._seen: dict[tuple[int, int], Process] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Meter":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def roles(self) -> dict[str, float]:
        """Return {role: CPU seconds of all its processes}."""
        return by_role(list(self._seen.values()))

    def _look(self) -> None:
        while not self._ended.wait(self._pause_s):
            for process in marked(self._value):
                before = self._seen.get(process.key)
                if process.role == COMMAND and before is not None:  # ending: its name is gone
                    process = replace(process, role=before.role)
                self._seen[process.key] = process


def _folders() -> list[Path]:
    return list(Path("/proc").glob("[0-9]*"))


def _read(folder: Path) -> Process | None:
    """Read the process of a folder in /proc; None if it ended meanwhile."""
    try:
        line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        words = (folder / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    ticks = int(words[11]) + int(words[12])  # utime, stime
    return Process(int(folder.name), int(words[19]), int(words[1]), _role(line), ticks / _TICK)


def _has_mark(pid: int, value: str) -> bool:
    try:
        return f"{MARK}={value}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def _role(line: str) -> str:
    for part, role in _ROLES:
        if part in line:
            return role
    return COMMAND
