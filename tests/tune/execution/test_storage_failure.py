"""Errors of the storage are told from others, and cost no trial."""

import errno
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.studies import events, finish, finished, open_study, reports
from tests.toy import TOY
from trainables.files import write_atomically
from tune.execution.local import search_locally
from tune.study.disk import StorageFailed, storage_failure


def error(code: int, path: Path | None) -> OSError:
    return OSError(code, os.strerror(code), *([] if path is None else [str(path)]))


@pytest.mark.parametrize(
    "name",
    ["ESTALE", "ETIMEDOUT", "EHOSTDOWN", "EFBIG", "EACCES", "EMFILE", "ENOMEM", "EIO", "ENOSPC"],
)
def test_errors_in_the_trials_own_folder_are_the_storages(tmp_path: Path, name: str) -> None:
    code = getattr(errno, name)
    found = storage_failure(error(code, tmp_path / "last.pt"), tmp_path)
    assert found is not None
    assert f"cannot write {tmp_path}/last.pt: {os.strerror(code)}" in str(found)


@pytest.mark.parametrize("name", ["ETIMEDOUT", "EHOSTDOWN", "EFBIG", "EACCES", "ENOMEM"])
def test_errors_elsewhere_are_the_trials(tmp_path: Path, name: str) -> None:
    """They come from its data, or from a server that its code calls."""
    code = getattr(errno, name)
    assert storage_failure(error(code, Path("/data/0001.png")), tmp_path) is None
    assert storage_failure(error(code, None), tmp_path) is None


def test_a_file_that_a_trainable_looks_for_in_vain_is_its_own_affair(tmp_path: Path) -> None:
    missing = error(errno.ENOENT, tmp_path / "trial/weights.pt")
    (tmp_path / "trial").mkdir()
    assert storage_failure(missing, tmp_path, tmp_path / "trial") is None
    (tmp_path / "trial").rmdir()
    assert storage_failure(missing, tmp_path, tmp_path / "trial") is not None


def test_a_write_through_a_handle_says_which_file_it_was(tmp_path: Path) -> None:
    """A checkpoint can hit this limit of the operating system (EFBIG)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(OSError, match="File too large") as caught:
            write_atomically(tmp_path / "last.pt", bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []
    found = storage_failure(caught.value, tmp_path)
    assert f"cannot write {tmp_path}/last.pt: File too large" in str(found)


def test_a_network_disk_that_goes_away_costs_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(tmp_path / "whole", 4)

    def gone(handle: int) -> None:
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    def unplug(event: dict[str, Any]) -> None:
        if event["event"] == "start":
            monkeypatch.setattr("trainables.files.os.fsync", gone)

    study = open_study(tmp_path, 4)
    study.observers.append(unplug)
    with pytest.raises(StorageFailed, match=r"Connection timed out.*nothing recorded is lost"):
        search_locally(study, TOY)
    study.close()
    monkeypatch.undo()
    assert not [e for e in events(tmp_path) if e["event"] == "end"]
    finish(tmp_path, 4)
    assert reports(tmp_path) == reports(tmp_path / "whole")
