"""Start Ray, and the template of trials' processes, while the driver still reads the data. Both
take seconds, on another core. This module imports no Ray before that."""

import contextlib
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from threadpoolctl import threadpool_limits

from tune.execution import template

_RAY = ("raylet", "gcs_server")
"""Processes of Ray whose end also ends the others."""
_OF_SEVERAL = ("torch._dynamo",)
"""Imported by torch's DistributedDataParallel, in every worker of a trial that has several."""
_GPU = Path("/dev/nvidiactl")
"""Exists on a machine with a GPU; there the template imports nothing that could look at it."""
_begun: "Future[bool] | None" = None
_ended = threading.Event()
"""Ray's processes end with the thread that started them, so that thread waits for this."""


def begin(modules: Sequence[str], workers: int, shared: bool = False) -> None:
    """Begin to start Ray on this machine for the next session, and return without waiting for it.

    Args:
        modules: modules that trials import, besides those that all import (`template.MODULES`).
        workers: workers of each trial.
        shared: see `template.Template`.
    """
    global _begun
    if _begun is not None or os.environ.get("RAY_ADDRESS"):
        return
    several = workers > 1 and not _GPU.exists()
    template.begin(modules, shared, later=_OF_SEVERAL if several else ())
    _begun = Future()
    _ended.clear()
    # Ray forks for each of its daemons. Before a fork, OpenBLAS waits for its own threads to end,
    # and they never do if this thread is using them meanwhile. So it computes without them.
    import numpy  # noqa: F401 - only a library that is loaded can be limited

    blas = threadpool_limits(limits=1, user_api="blas")
    starter = threading.Thread(
        target=_start, args=(_begun, workers, blas), name="start of Ray", daemon=True
    )
    starter.start()


def take() -> "Future[bool] | None":
    """Hand over the start that has begun, once. Its result is what `start_ray` returns."""
    global _begun
    begun, _begun = _begun, None
    return begun


def release() -> None:
    """Let the thread end that started Ray, after Ray has been stopped."""
    _ended.set()


def abandon() -> None:
    """Stop Ray in an orderly way if it was started and nobody has taken it."""
    begun = take()
    if begun is None:
        return
    from tune.execution.ray_session import stop_ray

    if begun.exception() is None and begun.result():
        stop_ray()


def discard() -> None:
    """Kill Ray if it was started and nobody has taken it, for example before a refusal. This
    process exits at once, and Ray's own processes would wait for one another for half a minute."""
    if take() is None:
        return
    template.end()
    daemons = _own_children(_RAY)
    for process in [*daemons, *_children(daemons)]:  # agents would search for it for a while
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _own_children(names: Sequence[str]) -> list[int]:
    """Ids of the processes with these names that this process has started."""
    found = []
    for process, name in _children([os.getpid()]).items():
        if name in names:
            found.append(process)
    return found


def _children(parents: Sequence[int]) -> dict[int, str]:
    """Process that one of these has started -> its name."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            before, _, after = path.read_text().rpartition(")")
        except OSError:  # it has ended
            continue
        parent = int(after.split()[1])
        if parent in parents:
            found[int(path.parent.name)] = before.partition("(")[2]
    return found


def _start(begun: "Future[bool]", workers: int, blas: threadpool_limits) -> None:
    try:
        with blas:
            from tune.execution.ray_session import start_ray

            started = start_ray(dashboard=workers > 1)
        begun.set_result(started)
    except BaseException as error:
        begun.set_exception(error)
        return
    _ended.wait()
