"""Lowest priority, for a process that should only use time left idle by training."""

import contextlib
import os
from pathlib import Path

NICENESS = 19


def yield_to_all(pid: int) -> None:
    """Give the lowest priority to a process that is a session leader.

    Linux first divides the processors among sessions, each with its own niceness (autogroups, man 7
    sched). The niceness of a process only counts within its session.
    """
    os.setpriority(os.PRIO_PROCESS, pid, NICENESS)
    with contextlib.suppress(OSError):  # kernel without autogroups, or not Linux
        Path(f"/proc/{pid}/autogroup").write_text(str(NICENESS))
