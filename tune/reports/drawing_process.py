"""A lowest-priority process that draws the pictures of one trial after another."""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from tune.reports.low_priority import yield_to_all

Drawn = Literal["none", "best", "all"]
"""Trials whose pictures are drawn; "best" means the default and the best three."""
TIMEOUT_S = 300
"""Maximum time for the pictures of one trial."""
_LOOK_S = 0.1
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
    "1",
)
"""Environment of the process. While training occupies the cores, waiting linear-algebra threads
burn as much time as their work takes."""


class DrawingProcess:
    """Runs `python -m trainables.plots.draw --serve`, which ends with this process because its
    stdin closes.

    One thread draws; any other thread may call `kill`.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int | None:
        """Process id; None before the process was first started."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process unless it is running.

        Raises:
            OSError: the system cannot start another process.
        """
        if self._process is not None and self._process.poll() is None:
            return

        self.close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "trainables.plots.draw", "--serve"],
            env={**os.environ, **_ONE_THREAD},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        yield_to_all(self._process.pid)

    def draw(
        self,
        title: str,
        snapshots: Sequence[Path],
        folder: Path,
        timeout_s: float = TIMEOUT_S,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> bool:
        """Draw snapshots into a folder.

        Args:
            is_wanted: the process is ended when this returns False.
        Returns:
            False if the process died, was ended, or took longer than `timeout_s` seconds. True
            otherwise, even if it refused a file: no later attempt could draw that either.
        """
        arguments = ["--title", title, *map(str, snapshots), str(folder)]
        try:
            answer = self._ask(json.dumps(arguments), timeout_s, is_wanted)
        except OSError:
            answer = ""
        is_whole = answer.endswith("\n")
        if not is_whole:
            self.kill()
        return is_whole

    def kill(self) -> None:
        """Kill the process, if there is one."""
        process = self._process
        if process is not None:
            process.kill()
            process.wait()

    def close(self) -> None:
        """Kill the process and close its pipes."""
        self.kill()
        process = self._process
        if process is not None and process.stdin and process.stdout:
            process.stdout.close()
            try:
                process.stdin.close()
            except OSError:  # it has not read a request
                return

    def _ask(self, request: str, timeout_s: float, is_wanted: Callable[[], bool]) -> str:
        """Send a request and return the line that answers it; "" if none comes."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(request + "\n")
        process.stdin.flush()

        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and is_wanted():
            ready, _, _ = select.select([process.stdout], [], [], _LOOK_S)
            if ready:
                return process.stdout.readline()
        return ""
