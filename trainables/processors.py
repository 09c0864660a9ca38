"""The processors that this process may use."""

import os


def available_processors() -> int:
    """Count them; all of the machine's if the system does not say which this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
