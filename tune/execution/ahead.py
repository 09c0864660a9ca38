"""Ray, and the template of trials' processes, started while the driver still reads the data: both
take seconds, of another core. Imports no Ray before that."""

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future

from tune.execution import template

_begun: "Future[bool] | None" = None
_ended = threading.Event()
"""Ray's processes end with the thread that has started them, which therefore waits for this."""


def begin(modules: Sequence[str], workers: int) -> None:
    """Begin to start Ray on this machine, for the session that comes next; returns at once.

    Args:
        modules: what trials import, besides what all do (`template.MODULES`).
        workers: workers of each trial.
    """
    global _begun
    if _begun is not None or os.environ.get("RAY_ADDRESS"):
        return
    template.begin(modules)
    _begun = Future()
    _ended.clear()
    starter = threading.Thread(
        target=_start, args=(_begun, workers), name="start of Ray", daemon=True
    )
    starter.start()


def take() -> "Future[bool] | None":
    """Hand over what has begun, once: it becomes what `start_ray` returns."""
    global _begun
    begun, _begun = _begun, None
    return begun


def release() -> None:
    """Let the thread end that has started Ray, which has been stopped."""
    _ended.set()


def abandon() -> None:
    """Stop what has begun and nobody has taken; a command that leaves need not, as its end does."""
    begun = take()
    if begun is None:
        return
    from tune.execution.ray_session import stop_ray

    if begun.exception() is None and begun.result():
        stop_ray()


def _start(begun: "Future[bool]", workers: int) -> None:
    try:
        from tune.execution.ray_session import start_ray

        begun.set_result(start_ray(dashboard=workers > 1))
    except BaseException as error:
        begun.set_exception(error)
        return
    _ended.wait()
