"""It is visible that a study is in use, even to someone who may only read its folder."""

import errno
import fcntl
import json
import os
import platform
import re
from pathlib import Path

import pytest
from filelock import FileLock

from tests.studies import open_study
from tune.study.lock import StudyInUse, is_in_use, last_command, locked


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make lock files unwritable, as on someone else's disk (root may write everywhere)."""

    def refuse(self: FileLock, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(FileLock, "acquire", refuse)


def test_a_study_is_in_use_while_it_is_open(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    assert not is_in_use(folder)  # no folder yet
    study = open_study(tmp_path, 1)
    assert is_in_use(folder)
    study.close()
    assert not is_in_use(folder)


def test_who_may_only_read_sees_the_lock_of_another(tmp_path: Path, read_only: None) -> None:
    assert not is_in_use(tmp_path)  # no lock file
    path = tmp_path / ".lock"
    path.touch()
    assert not is_in_use(tmp_path)
    with path.open("rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        assert is_in_use(tmp_path)
    assert not is_in_use(tmp_path)


def test_a_disk_without_locks_shows_none(
    tmp_path: Path, read_only: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    (tmp_path / ".lock").touch()
    monkeypatch.setattr(fcntl, "flock", refuse)
    assert not is_in_use(tmp_path)


DEAD = 2**22 + 1
"""A process id that Linux never gives."""


@pytest.mark.parametrize("content", ["no JSON", "[]", "{}", '{"pid": "", "host": "here"}'])
def test_a_damaged_file_about_the_holder_names_none(tmp_path: Path, content: str) -> None:
    study = open_study(tmp_path, 1)
    (study.directory / ".holder.json").write_text(content)
    assert last_command(study.directory) == ""
    with pytest.raises(StudyInUse, match="by another process; wait for it"):
        locked(study.directory, "toy")
    study.close()


HERE = platform.node()


@pytest.mark.parametrize(
    ("pid", "host", "is_named"),
    [
        (DEAD, HERE, False),
        (os.getpid(), HERE, False),
        (os.getppid(), HERE, True),
        (DEAD, "x", True),
    ],
    ids=["dead", "this one", "its parent", "of another machine"],
)
def test_a_process_of_this_machine_is_named_while_it_runs(
    tmp_path: Path, pid: int, host: str, is_named: bool
) -> None:
    study = open_study(tmp_path, 1)
    about = {"pid": pid, "host": host, "since": "noon", "command": "make run"}
    (study.directory / ".holder.json").write_text(json.dumps(about))
    said = f" ({pid} on {host} since noon: make run)" if is_named else ""
    with pytest.raises(StudyInUse, match=re.escape(f"by another process{said}; wait for it")):
        locked(study.directory, "toy")
    assert last_command(study.directory) == "make run"
    study.close()
