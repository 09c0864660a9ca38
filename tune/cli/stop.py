"""Stop a run before its end: Ctrl-C, SIGTERM, a closed terminal, the time budget."""

import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune.study.study import Study

DONE, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes."""

BROKEN_OFF = "broken off"
ON_REQUEST = "interrupted"
_BUDGET_SPENT = "time budget spent"


@dataclass(frozen=True)
class Ended:
    """The result of a run."""

    code: int
    """Exit code of a command."""
    study: Path | None = None
    """Folder of the study; None if there was none or several."""
    problem: str = ""
    """Reason why a study's folder cannot be written; "" if it can."""


class Stop:
    """Stops the current study, and each one after it, once there is a reason to.

    Args:
        budget_s: time for all studies; None: no limit.
        signals: handle Ctrl-C, SIGTERM and a closed terminal (SIGHUP) from now on; only possible in
            the main thread.

    Attributes:
        reason: the first reason to stop, as shown to the user; "" if there is none.
    """

    def __init__(self, budget_s: float | None, *, signals: bool = True):
        self.reason = ""
        self._study: Study | None = None

        if signals:
            signal.signal(signal.SIGINT, self._on_signal)
            signal.signal(signal.SIGTERM, self._on_signal)
            if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as set by `nohup`
                signal.signal(signal.SIGHUP, self._on_signal)

        if budget_s is not None:
            deadline = time.monotonic() + budget_s
            timer = threading.Thread(
                target=self._at_deadline, args=(deadline,), name="time budget", daemon=True
            )
            timer.start()

    @property
    def code(self) -> int:
        """Exit code of a run that was stopped."""
        return DONE if self.reason == _BUDGET_SPENT else INTERRUPTED

    def watch(self, study: Study) -> None:
        """Make this the study to stop from now on."""
        self._study = study
        if self.reason:
            study.stopping = True

    def now(self, reason: str) -> None:
        """Stop the study. The first reason is kept."""
        self.reason = self.reason or reason
        if self._study is not None:
            self._study.stopping = True

    def _on_signal(self, number: int, frame: Any) -> None:
        """Stop in order at the first signal, immediately at the second."""
        self.now(ON_REQUEST)
        print("\nstopping; the state is safe (Ctrl-C again to leave at once)", file=sys.stderr)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _at_deadline(self, deadline: float) -> None:
        time.sleep(max(0.0, deadline - time.monotonic()))
        self.now(_BUDGET_SPENT)
