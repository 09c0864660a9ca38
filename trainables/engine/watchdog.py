"""A process that hangs (in a kernel, a driver, an exchange with a worker that is gone) ends itself,
so that its trial goes on in another.

    with watching(1800, folder / "hung-0.txt"):
        ...
        beat()   # at every step

faulthandler's timer is a thread of C: it ends the process also where Python does not get to run. A
process has one, as it has one trial.
"""

import contextlib
import faulthandler
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_SHARE = 0.05  # of the patience: the timer is set anew so often, not at every step

_beat: Callable[[], None] | None = None


@contextlib.contextmanager
def watching(patience_s: float | None, path: Path) -> Iterator[None]:
    """End this process (exit code 1) when `patience_s` pass without a beat, and leave in the file
    `path` where each thread was. None: wait for ever, as a debugger must."""
    global _beat
    if patience_s is None:
        yield
        return
    with path.open("a") as file:
        set_at = time.monotonic()

        def again() -> None:
            nonlocal set_at
            if time.monotonic() - set_at > _SHARE * patience_s:
                set_at = time.monotonic()
                faulthandler.dump_traceback_later(patience_s, exit=True, file=file)

        faulthandler.dump_traceback_later(patience_s, exit=True, file=file)
        _beat = again
        try:
            yield
        finally:
            _beat = None
            faulthandler.cancel_dump_traceback_later()
            if not path.stat().st_size:
                path.unlink()


def beat() -> None:
    """Something has moved on. Costs nothing where nobody watches."""
    if _beat is not None:
        _beat()
