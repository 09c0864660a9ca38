"""Atomic writes: a file has its old or its new content, and leftovers are removed by the next
start."""

import errno
import fcntl
import multiprocessing
import os
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from trainables.files import (
    atomic_file,
    is_partial,
    remove_own_partials,
    remove_partials,
    scratch_folder,
    write_atomically,
    write_result,
)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_text_and_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "ü\n")
    assert path.read_bytes() == "ü\n".encode()
    write_atomically(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert names(tmp_path) == {"file"}


def test_a_result_takes_the_leftovers_of_its_own_name_along(tmp_path: Path) -> None:
    for name in ("report.html.0a1b2c3d.partial", "other.html.0a1b2c3d.partial"):
        (tmp_path / name).write_text("left by a kill")
    write_result(tmp_path / "report.html", "whole")
    assert names(tmp_path) == {"report.html", "other.html.0a1b2c3d.partial"}
    assert (tmp_path / "report.html").read_text() == "whole"


@pytest.mark.parametrize("error", [OSError, RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_keeps_the_old_content_and_leaves_no_partial(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write_half() -> None:
        with atomic_file(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_text() == "old"
    assert names(tmp_path) == {"file"}


def test_content_is_on_disk_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(handle: int) -> None:
        calls.append("fsync")
        real_fsync(handle)

    def replace(source: Path, target: Path) -> None:
        assert Path(source).read_text() == "all of it"
        calls.append("rename")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write_atomically(tmp_path / "file", "all of it")
    assert calls == ["fsync", "rename", "fsync"]  # the file, then the folder's directory entry


def test_the_mode_is_that_of_an_ordinary_new_file(tmp_path: Path) -> None:
    (tmp_path / "ordinary").write_text("")
    write_atomically(tmp_path / "atomic", "")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


_KILLED = """
import os, sys
from pathlib import Path
from trainables.files import write_atomically
os.replace = lambda source, target: os._exit(9)
write_atomically(Path(sys.argv[1]), "new")
"""


def test_next_start_removes_what_a_kill_left(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(path)], check=False)
    assert killed.returncode == 9
    assert len(names(tmp_path)) == 2
    remove_partials(tmp_path)
    assert names(tmp_path) == {"file"}
    assert path.read_text() == "old"


def test_leftovers_of_earlier_versions_are_removed(tmp_path: Path) -> None:
    for name in ("best.ptk3j_x9.tmp", "last.partial", "embeddings-val-0001.partial"):
        (tmp_path / name).write_text("half")
    (tmp_path / "notes.txt").write_text("kept")
    remove_partials(tmp_path)
    assert names(tmp_path) == {"notes.txt"}


def _write_slowly(path: Path, started: object, finish: object) -> None:
    with atomic_file(path) as file:
        file.write(b"new")
        started.set()  # type: ignore[attr-defined]
        finish.wait(60)  # type: ignore[attr-defined]


def test_partial_of_a_living_process_stays(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    started, finish = context.Event(), context.Event()
    writer = context.Process(target=_write_slowly, args=(tmp_path / "file", started, finish))
    writer.start()
    assert started.wait(60)
    remove_partials(tmp_path)
    finish.set()
    writer.join(60)
    assert writer.exitcode == 0
    assert (tmp_path / "file").read_text() == "new"
    assert names(tmp_path) == {"file"}


def test_concurrent_writers_and_removers_do_not_meet(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def work(index: int) -> None:
        try:
            for turn in range(20):
                write_atomically(tmp_path / "file", f"{index} {turn} " * 1000)
                remove_partials(tmp_path)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert names(tmp_path) == {"file"}
    assert len(set((tmp_path / "file").read_text().split())) <= 2


def test_a_scratch_folder_is_gone_at_the_end_and_leftovers_of_its_name_before(
    tmp_path: Path,
) -> None:
    killed = tmp_path / "model.0a1b2c3d.partial"
    killed.mkdir()
    (killed / "weights.pt").write_text("half")
    others = {"other.0a1b2c3d.partial", "mine.tmp", "notes.partial"}  # may be in a user's folder
    for name in others:
        (tmp_path / name).write_text("")

    with scratch_folder(tmp_path / "model") as scratch:
        assert is_partial(scratch.parent.name)
        assert names(tmp_path) == {scratch.parent.name, *others}
        assert names(scratch) == set()  # moving the folder's content moves no file of ours
        with scratch_folder(tmp_path / "model"):  # another process: the first folder is in use
            assert scratch.is_dir()
        remove_partials(tmp_path)
        assert scratch.is_dir()
        (scratch / "whole").mkdir()
        (scratch / "whole").rename(tmp_path / "model")

    assert names(tmp_path) == {"model"}


@pytest.fixture
def nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make locks behave as on NFS: an exclusive lock needs a file that is open for writing."""
    flock = fcntl.flock

    def flock_of_nfs(handle: int, operation: int) -> None:
        access = fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE
        if stat.S_ISDIR(os.fstat(handle).st_mode) or access == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", flock_of_nfs)


@pytest.mark.usefixtures("nfs")
def test_a_scratch_folder_on_nfs() -> None:
    """It behaves as on a local disk."""
    with tempfile.TemporaryDirectory() as name:
        test_a_scratch_folder_is_gone_at_the_end_and_leftovers_of_its_name_before(Path(name))


@pytest.mark.usefixtures("nfs")
def test_files_are_written_and_leftovers_removed_on_nfs(tmp_path: Path) -> None:
    (tmp_path / "killed.0a1b2c3d.partial").mkdir()
    (tmp_path / "file.0a1b2c3d.partial").write_text("half")
    write_atomically(tmp_path / "file", "whole")
    remove_partials(tmp_path)
    assert names(tmp_path) == {"file"}


def test_without_any_locks_all_is_written_and_nothing_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On NFS without its lock service, nobody can tell what is in use."""

    def no_locks(*_: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    (tmp_path / "file.0a1b2c3d.partial").write_text("perhaps in use")
    (tmp_path / "model.0a1b2c3d.partial").mkdir()
    write_atomically(tmp_path / "file", "whole")
    remove_partials(tmp_path)
    with scratch_folder(tmp_path / "model") as scratch:
        (scratch / "weights.pt").write_text("whole")
    assert names(tmp_path) == {"file", "file.0a1b2c3d.partial", "model.0a1b2c3d.partial"}


def test_partial_files_that_a_function_names_itself_stay(tmp_path: Path) -> None:
    (tmp_path / "download.tmp").write_text("a function's")
    (tmp_path / "shards.partial").mkdir()
    (tmp_path / "last.pt.0a1b2c3d.partial").write_text("half")
    remove_own_partials(tmp_path)
    assert names(tmp_path) == {"download.tmp", "shards.partial"}
