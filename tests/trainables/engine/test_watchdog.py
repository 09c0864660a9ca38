"""A process that hangs ends itself and says where it hung; one that makes progress does not."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import REPO
from trainables.engine import watchdog
from trainables.engine.watchdog import beat, watching

HANGS = """
import ctypes, sys
from pathlib import Path
from trainables.engine.watchdog import watching
with watching(0.5, Path(sys.argv[1])):
    ctypes.PyDLL(None).sleep(60)  # the GIL is held
"""


def test_a_process_that_hangs_ends_and_says_where(tmp_path: Path) -> None:
    began = time.monotonic()
    command = [sys.executable, "-c", HANGS, str(tmp_path / "hung-0.txt")]
    done = subprocess.run(command, cwd=REPO, timeout=60, check=False)
    assert done.returncode == 1
    assert time.monotonic() - began < 30
    assert 'File "<string>", line 6' in (tmp_path / "hung-0.txt").read_text()


def test_beats_keep_a_process_that_takes_longer_than_the_patience(tmp_path: Path) -> None:
    with watching(1.0, tmp_path / "hung-0.txt"):
        for _ in range(20):
            time.sleep(0.1)
            beat()
        assert (tmp_path / "hung-0.txt").exists()
    assert not (tmp_path / "hung-0.txt").exists()
    assert watchdog._beat is None


def test_nobody_watches_after_an_end_of_any_kind(tmp_path: Path) -> None:
    with pytest.raises(SystemExit), watching(0.3, tmp_path / "hung-0.txt"):
        raise SystemExit
    time.sleep(0.6)
    assert list(tmp_path.iterdir()) == []
    with watching(None, tmp_path / "hung-0.txt"):
        beat()
    assert list(tmp_path.iterdir()) == []
