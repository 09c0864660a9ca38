"""Folders of Ray's sessions: ours are removed when their run has ended, others stay."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tune.execution import session_folder
from tune.execution.session_folder import SessionFolder, remove_old

NAME = "session_2026-11-29_05-22-15_503893_20691"
DAY_S = 24 * 3600.0


@pytest.fixture(autouse=True)
def _no_folder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)


def made(root: Path, name: str = NAME) -> Path:
    folder = root / name
    (folder / "logs").mkdir(parents=True)
    (folder / "logs/raylet.out").write_text("all is well")
    return folder


def test_the_folder_of_a_run_that_has_ended_is_removed(tmp_path: Path) -> None:
    mine, other = made(tmp_path), made(tmp_path, f"{NAME}7")
    (tmp_path / "session_latest").symlink_to(mine)
    SessionFolder(mine).remove()
    assert list(tmp_path.iterdir()) == [other]


def test_the_name_of_the_latest_folder_stays_where_it_is_another_s(tmp_path: Path) -> None:
    mine, other = made(tmp_path), made(tmp_path, f"{NAME}7")
    (tmp_path / "session_latest").symlink_to(other)
    SessionFolder(mine).remove()
    assert sorted(tmp_path.iterdir()) == [other, tmp_path / "session_latest"]


def test_logs_that_somebody_may_want_stay_for_a_day(tmp_path: Path) -> None:
    mine = made(tmp_path)
    folder = SessionFolder(mine)
    folder.is_wanted = True
    folder.remove()
    remove_old(tmp_path)
    assert (mine / "logs/raylet.out").exists()

    ended(mine, DAY_S - 60)
    remove_old(tmp_path)
    assert mine.exists()
    ended(mine, DAY_S + 60)
    remove_old(tmp_path)
    assert not mine.exists()


def test_who_names_the_folder_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    mine = made(tmp_path)
    SessionFolder(mine).remove()
    assert mine.exists()


def ended(folder: Path, seconds_ago: float) -> None:
    then = time.time() - seconds_ago
    os.utime(folder / "vistune.lock", (then, then))


@contextlib.contextmanager
def process(program: str, *words: str) -> Iterator[None]:
    """A Python process that has reported that it is ready."""
    running = subprocess.Popen(
        [sys.executable, "-S", "-c", f"{program}; print(1, flush=True); input()", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert running.stdout is not None
    assert running.stdout.readline() == b"1\n"
    try:
        yield
    finally:
        running.communicate(b"\n")


def test_a_folder_that_processes_still_use_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_folder, "_PATIENCE_S", 0.1)
    mine = made(tmp_path)
    with process("pass", f"--session-dir={mine}"):
        SessionFolder(mine).remove()
    assert mine.exists()


def test_folders_of_other_programs_and_of_runs_that_last_stay(tmp_path: Path) -> None:
    others, running, killed = (made(tmp_path, f"{NAME}{n}") for n in range(3))
    for folder in (running, killed):
        (folder / "vistune.lock").touch()
        ended(folder, 2 * DAY_S)
    lock = "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.flock(f, fcntl.LOCK_EX)"
    with process(lock, str(running / "vistune.lock")):
        remove_old(tmp_path)
    assert sorted(tmp_path.iterdir()) == [others, running]
