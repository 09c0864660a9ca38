"""The toy on a spot machine. This file is copied next to a study, and imports only what every
checkout has (`toy_command.py`)."""

import os
import signal
from pathlib import Path
from typing import Any

from tests.toy import Toy

KILLS = 5
"""Processes that the trial loses: more than it may lose without a new epoch."""


class Spot(Toy):
    """A trial whose process ends after every new epoch, for the first few epochs."""

    def check(self, history: list[Any]) -> None:
        super().check(history)
        record = Path(os.environ["VISTUNE_ACT_FOLDER"]) / "kills"
        times = len(record.read_text()) if record.exists() else 0
        if times < KILLS and len(history) == times + 2:
            with record.open("a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
