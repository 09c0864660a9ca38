"""A study is seen to be in use, also by who may only read its folder."""

import fcntl
from pathlib import Path

import pytest
from filelock import FileLock

from tests.studies import open_study
from tune.study.lock import is_in_use


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lock files cannot be opened for writing, as on somebody else's disk; root may write all."""

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
