"""A process that hangs (in a kernel, a driver, an exchange with a lost worker) ends itself, so that
another one can resume its trial.

    with watching(1800, folder / "hung-0.txt"):
        ...
        beat()   # at every step

faulthandler's timer is a thread of C: it ends the process even where no thread of Python can run.
There is one timer in a process, as there is one trial.
"""

import contextlib
import faulthandler
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_RESET_SHARE = 0.05  # of the patience: a reset at every step would cost more than it is worth

_beat: Callable[[], None] | None = None


@contextlib.contextmanager
def watching(patience_s: float | None, path: Path) -> Iterator[None]:
    """End this process (exit code 1) when `patience_s` seconds pass without a beat, and write the
    stack of each thread to `path`. None: wait for ever, as a debugger needs it."""
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
    """Tell the watchdog that the process makes progress. Costs nothing where none is set."""
    if _beat is not None:
        _beat()
