"""Run a command in a process group of its own, and end the group with the process that starts it.

    python -I -S supervisor.py COMMAND...

Standard input is a pipe from the starter. When a byte arrives or the pipe closes, because the trial
has ended, or when the starter is gone (even by `kill -9`), the group gets SIGTERM, and SIGKILL two
seconds later. To watch for the end of the pipe is not enough: a process that the starter has forked
may hold it open. Only the standard library is imported, so that this starts in a few hundredths of
a second.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time

GRACE_S = 2.0
NOT_FOUND = 127
_LOOK_S = 1.0
_SIGNALLED = 128  # plus the signal, as in a shell


def main(words: list[str]) -> int:
    """Run the command and return its exit code, as a shell would."""
    starter = os.getppid()
    try:
        child = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        print(f"{words[0]}: {error.strerror}", file=sys.stderr)
        return NOT_FOUND

    threading.Thread(target=_end_with_starter, args=(child, starter), daemon=True).start()
    code = child.wait()
    _signal(child, signal.SIGKILL)  # for what it has left running
    return code if code >= 0 else _SIGNALLED - code


def _end_with_starter(child: "subprocess.Popen[bytes]", starter: int) -> None:
    """Wait until the starter writes to standard input, closes it or is gone, then end the group."""
    is_told = False
    while not is_told and os.getppid() == starter:
        is_told = bool(select.select([0], [], [], _LOOK_S)[0])
    _signal(child, signal.SIGTERM)
    time.sleep(GRACE_S)
    _signal(child, signal.SIGKILL)


def _signal(child: "subprocess.Popen[bytes]", number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
