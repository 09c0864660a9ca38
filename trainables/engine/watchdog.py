"""A watchdog: a process that hangs (in a kernel, a driver, a collective with a lost worker) ends
itself, so that another process can resume its trial.

    with watching(1800, folder / "hung-0.txt"):
        ...
        beat()   # at every step

The timer of faulthandler is a C thread: it ends the process even if no Python thread can run. A
process has one timer, because it runs one trial.
"""

import contextlib
import faulthandler
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_RESET_SHARE = 0.05  # of the patience: resetting the timer at every step would be too slow

_beat: Callable[[], None] | None = None


@contextlib.contextmanager
def watching(patience_s: float | None, path: Path) -> Iterator[None]:
    """End this process (exit code 1) if `patience_s` seconds pass without a beat, after writing the
    stack of each thread to `path`. None: wait for ever, for use with a debugger."""
    global _beat
    if patience_s is None:
        yield
        return
    with path.open("a") as file:
        reset_at = time.monotonic()

        def reset() -> None:
            nonlocal reset_at
            if time.monotonic() - reset_at > _RESET_SHARE * patience_s:
                reset_at = time.monotonic()
                faulthandler.dump_traceback_later(patience_s, exit=True, file=file)

        faulthandler.dump_traceback_later(patience_s, exit=True, file=file)
        _beat = reset
        try:
            yield
        finally:
            _beat = None
            faulthandler.cancel_dump_traceback_later()
            if not path.stat().st_size:
                path.unlink()


def beat() -> None:
    """Tell the watchdog that the process makes progress. Costs nothing if none is running."""
    if _beat is not None:
        _beat()
