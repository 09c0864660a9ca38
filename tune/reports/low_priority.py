"""The lowest priority for a process that may only use time that training leaves idle."""

import contextlib
import os
from pathlib import Path

NICENESS = 19


def yield_to_all(pid: int) -> None:
    """Give the lowest priority to a process that leads a session of its own.

    Linux divides the processors among sessions first, each of which has a niceness (autogroups, man
    7 sched): that of a process counts among those of its session alone.
    """
    os.setpriority(os.PRIO_PROCESS, pid, NICENESS)
    with contextlib.suppress(OSError):  # a kernel without autogroups, or another system
        Path(f"/proc/{pid}/autogroup").write_text(str(NICENESS))
