"""The processors that this process may use."""

import os


def available_processors() -> int:
    """Count them. If the system does not say which ones, count all of the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
