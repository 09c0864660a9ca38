"""A process that draws one trial's pictures after another, at the lowest priority."""

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
"""Trials whose pictures are drawn: "best" are the default and the best three."""
TIMEOUT_S = 300
"""Longest time for the pictures of one trial."""
_LOOK_S = 0.1
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
    "1",
)
"""Environment of the process. Threads of linear algebra that wait for a core, which training has,
spend as much time as their work takes."""


class DrawingProcess:
    """`python -m trainables.plots.draw --serve`. It ends with this process, as its input does.

    One thread draws; any other may `kill`.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int | None:
        """Id of the process; None before it has been started."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process, unless it runs.

        Raises:
            OSError: there is no room for another process.
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
            is_wanted: ends the process when it returns False.
        Returns:
            False where the process has died, was ended, or took longer than `timeout_s` seconds.
            True otherwise: a refused file is one that no later attempt could draw either.
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
        """End the process at once, where there is one."""
        process = self._process
        if process is not None:
            process.kill()
            process.wait()

    def close(self) -> None:
        """End the process, and give its pipes back."""
        self.kill()
        process = self._process
        if process is not None and process.stdin and process.stdout:
            process.stdout.close()
            try:
                process.stdin.close()
            except OSError:  # a request that it has not read
                return

    def _ask(self, request: str, timeout_s: float, is_wanted: Callable[[], bool]) -> str:
        """The line that answers; "" where none comes."""
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
