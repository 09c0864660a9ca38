"""Protect a command from its surroundings: a proxy in the environment, an output that is closed,
passwords in error messages, a deleted current folder."""

import contextlib
import io
import os
import signal
import sys
import threading
import traceback
from types import TracebackType
from typing import Any

from trainables.redaction import redacted

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
_EXCEPTIONS = ("no_proxy", "NO_PROXY")
_WRONG_USE = 2


def prepare_process() -> None:
    """Protect this process and its children from all of these, and let Ctrl-C raise
    KeyboardInterrupt from now on. Call it before anything else."""
    bypass_proxy()
    outlive_reader()
    hide_passwords()
    _refuse_lost_folder()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # set by `startup.end_on_interrupt`
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _refuse_lost_folder() -> None:
    """End the process if its current folder was deleted, because no path can be resolved there."""
    try:
        os.getcwd()  # noqa: PTH109, pathlib says the same with a longer traceback
    except FileNotFoundError:
        print("vistune: the current folder was deleted: change to another", file=sys.stderr)
        sys.exit(_WRONG_USE)


def bypass_proxy() -> None:
    """Exclude this machine from the environment's proxy.

    MLflow and Ray run servers on the loopback interface. A proxy on another machine would look for
    them on its own.
    """
    named = [name for name in os.environ if name.lower() in _PROXIES and os.environ[name]]
    if not named:
        return

    # Some programs read one spelling and some the other, so both get everything.
    words = [word for name in _EXCEPTIONS for word in os.environ.get(name, "").split(",")]
    listed = [word.strip() for word in words if word.strip()]
    if "*" in listed:
        return
    for name in _EXCEPTIONS:
        os.environ[name] = ",".join(dict.fromkeys([*listed, *_LOOPBACK]))


def outlive_reader() -> None:
    """Discard further output when standard output or standard error cannot be written any more, as
    after `| head`, on a full disk or in a closed terminal. Python would raise an error and end the
    study. Characters that the encoding lacks are written as escapes."""
    _open_closed()
    sys.stdout = _lasting(sys.stdout, 1)
    sys.stderr = _lasting(sys.stderr, 2)


def _open_closed() -> None:
    """Open closed standard descriptors (`>&-`). Otherwise the next opened file would get the
    descriptor, and the printed output."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor


def hide_passwords() -> None:
    """Print tracebacks without passwords, because third-party errors may contain addresses."""
    sys.excepthook = _print_redacted
    threading.excepthook = _print_of_thread


def _print_redacted(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    lines = traceback.format_exception(kind, error, trace)
    print(redacted("".join(lines)), end="", file=sys.stderr)


def _print_of_thread(arguments: Any) -> None:
    kind, error, trace, thread = arguments
    if kind is SystemExit:
        return
    name = thread.name if thread is not None else "a thread"
    print(f"Exception in {name}:", file=sys.stderr)
    _print_redacted(kind, error, trace)


def has_fallen_silent(stream: Any) -> bool:
    """True for a standard stream created by `outlive_reader` that now discards its output."""
    with contextlib.suppress(OSError, ValueError):
        stream.flush()
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return isinstance(raw, _LastingFile) and raw.is_silent


class _LastingFile(io.FileIO):
    """A file that discards all writes after one has failed."""

    is_silent = False

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BlockingIOError:
            raise
        except OSError:
            self.is_silent = True
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(memoryview(data).cast("B"))


def _lasting(stream: Any, number: int) -> Any:
    """Return the same stream on top of a `_LastingFile`; unchanged if it has no file descriptor, as
    in tests.

    Args:
        number: descriptor to use if the stream was closed.
    """
    if stream is None:
        stream = os.fdopen(number, "w", closefd=False)
    try:
        descriptor = stream.fileno()
        stream.flush()
    except (AttributeError, OSError, ValueError):
        return stream

    file = _LastingFile(descriptor, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(file),
        encoding=stream.encoding,
        errors="backslashreplace",
        # for an unbuffered stream (PYTHONUNBUFFERED), `write_through` alone would stop in our
        # buffer
        line_buffering=stream.line_buffering or stream.write_through,
        write_through=stream.write_through,
    )
