"""A low-priority process yields to all others, according to the operating system."""

import os
import subprocess
from pathlib import Path

import pytest

from tune.reports.low_priority import yield_to_all


def test_process_and_session_have_the_lowest_priority() -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
        try:
            yield_to_all(process.pid)
            assert os.getpriority(os.PRIO_PROCESS, process.pid) == 19
            session = Path(f"/proc/{process.pid}/autogroup")
            if not session.exists():
                pytest.skip("this kernel has no autogroups")
            assert session.read_text().endswith("nice 19\n")
        finally:
            process.kill()
