"""The process of a command, which ends with the process that started it; the message of a
failure."""

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Self

from tune.execution import supervisor

_LINES = 20  # of output, shown in a failure
_PATIENCE_S = 30.0
"""Time that the supervisor has to end the command. On a busy machine it may wait for its turn, and
without it the command would live on."""


class Process:
    """The running command; leaving the block ends it and everything that it has started."""

    def __init__(
        self, words: list[str], folder: str, environment: dict[str, str], output: Path, lock: int
    ):
        self._words = [sys.executable, "-I", "-S", supervisor.__file__, *words]
        self._folder = folder
        self._environment = environment
        self._output = output
        self._lock = lock

    def __enter__(self) -> Self:
        with self._output.open("ab") as file:
            if file.tell():
                file.write(b"\n")  # a kill may have cut off a line
            self._process = subprocess.Popen(
                self._words,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                pass_fds=[self._lock],  # held by the supervisor, which may outlive this process
                start_new_session=True,  # Ctrl-C is for vistune, which lets an epoch end
            )
        return self

    def poll(self) -> int | None:
        """Exit code; None while it runs."""
        return self._process.poll()

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
            pipe.write(b"end")
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def failure(code: int, output: Path) -> str:
    """Describe how a command ended, and what it printed last."""
    how = f"exit code {code}"
    if code > 128:
        how = f"killed by signal {code - 128}"
    text = output.read_text(errors="replace") if output.exists() else ""
    lines = [line for line in text.splitlines() if line.strip()][-_LINES:]
    if not lines:
        return f"{how}, without a word"
    return "\n".join([f"{how}: {lines[-1].strip()}", *lines])
