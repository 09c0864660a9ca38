"""Notice when one of Ray's own processes on this machine dies, for example killed by the kernel
when memory runs out. Otherwise Tune would wait for ever, or Ray abort this process after a
minute."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray

from tune.study.disk import StudyEnds

_LOOK_S = 1.0
_LOOK_AT_CLUSTER_S = 10.0
_GRACE_S = 15.0
"""Time to wait for calls to a Ray that is gone; they may never return."""
_NEEDED = ("gcs_server", "raylet")


@contextlib.contextmanager
def stopped_without_ray(stop: Callable[[StudyEnds], None]) -> Iterator[None]:
    """Stop the block once the Ray of this machine has died. If the block has not ended a quarter of
    a minute later, exit the whole process, as Ray itself would.

    Args:
        stop: called in another thread, with the error to report.
    """
    ended = threading.Event()
    thread = threading.Thread(target=_look, args=(stop, ended), name="lost ray", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


def _look(stop: Callable[[StudyEnds], None], ended: threading.Event) -> None:
    node: Any = ray._private.worker._global_node
    lost = _lost_here if node.all_processes else _LostOnCluster()
    while not ended.wait(_LOOK_S):
        process = lost()
        if process:
            break
    else:
        return

    error = StudyEnds(
        f"Ray's {process} on this machine has died (killed, or out of memory); "
        "run the same command again, nothing recorded is lost"
    )
    stop(error)
    if not ended.wait(_GRACE_S):
        print(f"vistune: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def _lost_here() -> str:
    """Name of a process that has died, for a Ray that was started here; "" if none has."""
    node: Any = ray._private.worker._global_node
    dead = [] if node is None else node.dead_processes()
    return next((name for name, _ in dead if name in _NEEDED), "")


class _LostOnCluster:
    """The same for a Ray that this process has connected to, according to its head."""

    def __init__(self) -> None:
        self._node = ray.get_runtime_context().get_node_id()
        self._due = time.monotonic() + _LOOK_AT_CLUSTER_S

    def __call__(self) -> str:
        if time.monotonic() < self._due:
            return ""
        self._due = time.monotonic() + _LOOK_AT_CLUSTER_S
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        return "" if self._node in alive else "raylet"
