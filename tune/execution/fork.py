"""A fork of this process that calls one function: it has everything imported at once.

Only a process with one thread may be forked: a lock that another thread holds would never be
released in the fork. Libraries of linear algebra have threads as soon as they are imported, and
handle forks themselves.
"""

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_FIRST_FILE = 3
"""First descriptor after standard input, output and error."""


def may_fork() -> bool:
    """True if this process has no threads except those of linear algebra."""
    if sys.platform != "linux" or threading.active_count() > 1:
        return False
    return len(list(Path("/proc/self/task").iterdir())) <= 1 + _waiting_threads()


def _waiting_threads() -> int:
    """Number of threads that OpenBLAS has created, which wait for work."""
    from threadpoolctl import threadpool_info

    pools = [pool for pool in threadpool_info() if pool["internal_api"] == "openblas"]
    return sum(pool["num_threads"] - 1 for pool in pools)


class Fork:
    """The forked process, in a session of its own, as its parent sees it.

    Its standard input is a pipe that closes when this process ends; its output is discarded.

    Args:
        call: what the process does; the process ends when it returns.
        keep: number of an open file that the fork keeps. All others are closed.
    """

    def __init__(self, call: Callable[[], None], keep: int):
        reader, writer = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            _become(call, reader, keep)
        os.close(reader)
        self.stdin = os.fdopen(writer, "wb")

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while the process lives."""
        return self._wait(os.WNOHANG)

    def wait(self) -> int:
        """Wait for its end, and return the exit code."""
        code = self._wait(0)
        assert code is not None
        return code

    def kill(self) -> None:
        """End the process at once."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def _wait(self, options: int) -> int | None:
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, options)
            except ChildProcessError:  # somebody who waits for all children has reaped it
                self.returncode = 0
            else:
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


Process = Fork | subprocess.Popen[bytes]


def _become(call: Callable[[], None], reader: int, keep: int) -> NoReturn:
    """Call the function in the fork, then exit as a Python process does. Nothing of the caller's
    code runs any more."""
    code = 1
    try:
        os.setsid()
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        _leave_files(reader, keep)
        _forget_what_the_callers_would_do_at_their_end()
        call()
        code = 0
    except SystemExit as end:
        code = _exit_code(end)
    except BaseException:
        traceback.print_exc()
    finally:
        _end(code)


def _leave_files(reader: int, keep: int) -> None:
    """Take the pipe as standard input, discard the output, and close all other files. Otherwise two
    processes would hold a lock that this process held."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number, file in ((0, reader), (1, nowhere), (2, nowhere)):
        os.dup2(file, number)
    os.closerange(_FIRST_FILE, keep)
    os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX"))
    # A stream that replaces one of these later must not close the descriptor.
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, closefd=False) for number, mode in enumerate("rww")
    )


def _forget_what_the_callers_would_do_at_their_end() -> None:
    """Clear the parent's exit handlers. At the end of the fork, or of a fork of it, they would
    remove the parent's temporary folders."""
    atexit._clear()
    weakref.finalize._registry.clear()  # type: ignore[attr-defined]
    atexit.register(weakref.finalize._exitfunc)  # type: ignore[attr-defined]


def _exit_code(end: SystemExit) -> int:
    if end.code is None:
        return 0
    return end.code if isinstance(end.code, int) else 1


def _end(code: int) -> NoReturn:
    """Exit as the interpreter does when its script has ended."""
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()
    os._exit(code)
