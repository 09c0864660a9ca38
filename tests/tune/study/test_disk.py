"""One rule for errors of a study's disk, and the wait for a disk that machines share."""

import errno
import itertools
import os
from pathlib import Path
from typing import Any

import pytest

from tests.studies import events, finish, finished, open_study, reports
from tests.toy import TOY
from tune.execution.local import search_locally
from tune.study import disk
from tune.study.disk import (
    LONGEST_PAUSE_S,
    PATIENCE_S,
    Patience,
    StorageFailed,
    StudyEnds,
    file_system,
    storage_failure,
)
from tune.study.events import EventLog
from tune.study.requeues import Requeues
from tune.study.work import Work, WorkId

# The format of `man 5 proc`: before the dash there may be any number of optional fields.
MOUNTS = r"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
35 22 0:30 / /home rw,nosuid shared:15 master:2 - nfs4 server:/home rw,vers=4.2
36 35 0:31 / /home/ada/my\040data rw - cifs //server/share rw
37 22 0:32 / /home2 rw - xfs /dev/sdb rw
38 22 0:33 / /over rw - ext4 /dev/sdc rw
39 38 0:34 / /over rw - fuse.sshfs ada@server: rw
a line of a later kernel
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/srv/runs", "ext4"),
        ("/home/ada/runs", "nfs4"),
        ("/home/ada/my data/runs", "cifs"),
        ("/home2/runs", "xfs"),  # a common prefix is not a parent folder
        ("/over/runs", "fuse.sshfs"),
        ("/over", "fuse.sshfs"),
    ],
)
def test_the_file_system_is_that_of_the_innermost_mount(folder: str, kind: str) -> None:
    assert file_system(Path(folder), MOUNTS) == kind


def test_a_mount_of_a_folder_above_that_is_listed_later_changes_nothing() -> None:
    first, *others = MOUNTS.splitlines(keepends=True)
    assert file_system(Path("/home/ada/runs"), "".join([*others, first])) == "nfs4"


def test_this_machine_says_what_findmnt_says(tmp_path: Path) -> None:
    assert file_system(tmp_path) not in ("", *disk.SHARED)
    assert file_system(Path("/proc/self")) == "proc"


def oserror(code: int, path: Path | None = None) -> OSError:
    return OSError(code, os.strerror(code), *([] if path is None else [str(path)]))


@pytest.mark.parametrize(
    "name", ["ESTALE", "ETIMEDOUT", "EHOSTDOWN", "EFBIG", "EACCES", "EMFILE", "ENOMEM", "EPERM"]
)
@pytest.mark.parametrize(
    "work_id", [WorkId(3), WorkId(3, 1234), WorkId(None)], ids=["trial", "repeat", "baseline"]
)
def test_an_error_anywhere_below_the_studys_folder_is_the_storages(
    tmp_path: Path, name: str, work_id: WorkId
) -> None:
    work = Work(work_id, 0, {}, str(work_id.folder(tmp_path)))
    assert work.study == tmp_path
    own = Path(work.directory)
    own.mkdir(parents=True)
    found = storage_failure(
        oserror(getattr(errno, name), tmp_path / "events.jsonl"), work.study, own
    )
    assert found is not None
    assert found.code == getattr(errno, name)
    assert storage_failure(oserror(errno.EACCES, Path("/data/1.png")), work.study, own) is None


def test_a_folder_that_does_not_even_answer_is_the_storages(tmp_path: Path) -> None:
    """torch.save only says "iostream error", so the disk is checked, and it is gone."""
    wrapped = RuntimeError("iostream error")
    assert storage_failure(wrapped, tmp_path) is None
    found = storage_failure(wrapped, tmp_path / "gone")
    assert found is not None
    assert found.code == errno.ENOENT


class Clock:
    """Replace the module `time` for the rule of the disk. Time passes only during sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now = 100.0
        for place in ("disk", "requeues", "recording"):
            monkeypatch.setattr(f"tune.study.{place}.time", self)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("disk", "requeues"):
        monkeypatch.setattr(f"tune.study.{place}.is_shared", lambda folder: True)


FAILURE = StorageFailed.of(OSError(errno.ESTALE, "Stale file handle"), "/home/runs/x")


def test_pauses_grow_and_are_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    shared(monkeypatch)
    said: list[str] = []
    patience = Patience(tmp_path)
    patience.tell = said.append
    pauses = []
    for _ in range(9):
        before = clock.now
        assert patience.wait(FAILURE)
        pauses.append(round(clock.now - before))
    assert pauses == [1, 2, 4, 8, 16, 32, LONGEST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
    assert len(said) == 1
    assert "cannot write /home/runs/x: Stale file handle; waiting up to 1 h" in said[0]

    patience.succeeded()
    assert "can be written again after 4 min 03 s" in said[1]
    patience.succeeded()
    assert len(said) == 2
    assert patience.wait(FAILURE)  # another failure is told again
    assert len(said) == 3


def test_patience_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    shared(monkeypatch)
    patience = Patience(tmp_path)
    began = clock.now
    while patience.wait(FAILURE):
        pass
    assert PATIENCE_S < clock.now - began < PATIENCE_S + 2 * LONGEST_PAUSE_S


def test_a_run_that_is_to_stop_waits_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    shared(monkeypatch)
    patience = Patience(tmp_path)
    patience.is_over = lambda: clock.now > 103
    while patience.wait(FAILURE):
        pass
    assert clock.now < 104


@pytest.mark.parametrize("code", [errno.EFBIG, errno.EMFILE, errno.ENOMEM])
def test_limits_of_this_machine_are_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    shared(monkeypatch)
    assert not Patience(tmp_path).wait(StorageFailed.of(oserror(code), tmp_path))


def test_a_disk_of_this_machine_is_not_waited_for(tmp_path: Path) -> None:
    assert not Patience(tmp_path).wait(FAILURE)


def failing(monkeypatch: pytest.MonkeyPatch, times: int, code: int = errno.ETIMEDOUT) -> None:
    """Let fsync fail this many times, after the bytes were written."""
    left = itertools.repeat(True, times)
    real = os.fsync

    def fsync(handle: int) -> None:
        if next(left, False):
            raise oserror(code)
        real(handle)

    monkeypatch.setattr("os.fsync", fsync)


def log_on_a_shared_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> EventLog:
    """A log that waits for its disk, and has the report of epoch 1."""
    Clock(monkeypatch)
    shared(monkeypatch)
    log = EventLog(folder / "events.jsonl")
    log.patience = Patience(folder)
    log.append("report", epoch=1)
    return log


def test_a_log_on_a_shared_disk_has_each_event_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = log_on_a_shared_disk(tmp_path, monkeypatch)
    failing(monkeypatch, 3)
    log.append("report", epoch=2)
    log.append("report", epoch=3)
    assert [event["epoch"] for event in EventLog.read(log.path)[0]] == [1, 2, 3]


def test_a_part_that_could_not_be_taken_back_is_cut_off_when_the_disk_is_there_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = log_on_a_shared_disk(tmp_path, monkeypatch)
    gone = itertools.repeat(True, 1)
    real = os.ftruncate

    def ftruncate(handle: int, length: int) -> None:
        if next(gone, False):
            raise oserror(errno.EIO)
        real(handle, length)

    failing(monkeypatch, 1)
    monkeypatch.setattr("os.ftruncate", ftruncate)
    log.append("report", epoch=2)
    assert [event["epoch"] for event in EventLog.read(log.path)[0]] == [1, 2]


def test_an_empty_folder_in_the_place_of_a_disk_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unmounted disk leaves an empty mount point, in which the study would begin anew."""
    clock = Clock(monkeypatch)
    shared(monkeypatch)
    log = EventLog(tmp_path / "runs/events.jsonl")
    log.patience = Patience(tmp_path)
    log.append("report", epoch=1)
    failing(monkeypatch, 1)

    def unmount(seconds: float) -> None:
        clock.now += seconds
        if not (tmp_path / "away").exists():
            (tmp_path / "runs").rename(tmp_path / "away")
            (tmp_path / "runs").mkdir()

    monkeypatch.setattr(clock, "sleep", unmount)
    log.patience.is_over = lambda: clock.now > 160
    with pytest.raises(StorageFailed):
        log.append("report", epoch=2)
    assert list((tmp_path / "runs").iterdir()) == []


def test_an_interrupt_in_the_middle_of_a_write_leaves_whole_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program, such as a notebook, continues after the interrupt."""
    log = EventLog(tmp_path / "events.jsonl")
    log.append("report", epoch=1)
    with monkeypatch.context() as patch:

        def half(handle: int, content: bytes) -> int:
            os.pwrite(handle, content[:9], os.fstat(handle).st_size)
            raise KeyboardInterrupt

        patch.setattr("os.write", half)
        with pytest.raises(KeyboardInterrupt):
            log.append("report", epoch=2)
    log.append("report", epoch=3)
    assert [event["epoch"] for event in EventLog.read(log.path)[0]] == [1, 3]


@pytest.mark.parametrize("where", ["trainables.files.os.fsync", "os.fsync"])
def test_a_study_waits_for_its_shared_disk_and_equals_one_that_need_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The disk is away while a checkpoint is written, or while the driver writes anything."""
    finished(tmp_path / "whole", 4)
    clock = Clock(monkeypatch)
    shared(monkeypatch)
    said: list[str] = []
    monkeypatch.setattr("tune.study.disk.warn", said.append)
    monkeypatch.setattr("tune.study.requeues.warn", said.append)
    real = os.fsync

    def fsync(handle: int) -> None:
        if 100.0 < clock.now < 120.0:
            raise oserror(errno.ETIMEDOUT)
        real(handle)

    def unplug(event: dict[str, Any]) -> None:
        if event["event"] == "report" and event["epoch"] == 2 and event["trial"] == 1:
            clock.now = max(clock.now, 100.1)

    monkeypatch.setattr(where, fsync)
    study = open_study(tmp_path, 4)
    study.observers.append(unplug)
    search_locally(study, TOY)
    study.close()
    assert clock.now >= 120.0
    assert reports(tmp_path) == reports(tmp_path / "whole")
    ends = [e for e in events(tmp_path) if e["event"] == "end" and "repeat" not in e]
    assert len(ends) == 4
    assert all(e["state"] != "FAIL" for e in ends)
    assert len([line for line in said if "cannot write" in line]) == 1


def test_a_process_that_never_can_write_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the mount of its own process is broken, not the driver's. The hour counts from its last
    epoch."""
    Clock(monkeypatch)
    shared(monkeypatch)
    study = open_study(tmp_path, 2)

    def broken(*words: Any) -> None:
        raise FAILURE

    monkeypatch.setattr("tune.execution.local.run", broken)
    with pytest.raises(StorageFailed):
        search_locally(study, TOY)
    study.close()
    monkeypatch.undo()
    assert finish(tmp_path, 2).finished() == 2
    assert not [e for e in events(tmp_path) if e["event"] == "end" and e["state"] == "FAIL"]


def lost(count: int, node: str | None, study: Requeues) -> None:
    for _ in range(count):
        study.add(FAILURE, node)


def test_work_is_handed_out_again_after_pauses_that_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    shared(monkeypatch)
    failures = Requeues(tmp_path)
    failures.tell = lambda said: None
    pauses = []
    for _ in range(8):
        lost(1, None, failures)
        failed_at = clock.now
        while failures.rests:
            clock.sleep(0.5)
        pauses.append(clock.now - failed_at)
    assert pauses == [1, 2, 4, 8, 16, 32, LONGEST_PAUSE_S, LONGEST_PAUSE_S]


def test_one_machine_with_a_broken_mount_holds_up_nobody_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing sleeps, a trial of another machine reports, and the third failure names the
    machine."""
    clock = Clock(monkeypatch)
    shared(monkeypatch)
    said: list[str] = []
    failures = Requeues(tmp_path)
    failures.tell = said.append
    before = clock.now
    lost(2, "10.0.0.2", failures)
    assert clock.now == before
    assert failures.rests
    clock.now += 2.5
    assert not failures.rests
    failures.note_report("10.0.0.1")
    with pytest.raises(StudyEnds, match=r"trials on 10.0.0.2: .*, while those of other machines"):
        lost(1, "10.0.0.2", failures)
    assert len(said) == 1


def test_a_machine_with_a_broken_mount_is_left_out_where_others_get_its_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch)
    shared(monkeypatch)
    asked: list[tuple[str, int, str]] = []
    failures = Requeues(tmp_path)
    failures.tell = lambda line: None
    failures.leave_out = lambda *about: bool(asked.append(about) or True)
    lost(3, "10.0.0.2", failures)
    failures.note_report("10.0.0.1")
    lost(1, "10.0.0.2", failures)
    assert asked == [("10.0.0.2", 4, str(FAILURE).partition(";")[0])]


def test_an_epoch_of_the_machine_itself_ends_the_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch)
    shared(monkeypatch)
    failures = Requeues(tmp_path)
    for _ in range(4):
        lost(2, "10.0.0.2", failures)
        failures.note_report("10.0.0.1")
        failures.note_report("10.0.0.2")
        assert not failures.rests


def test_on_a_disk_of_this_machine_the_first_failure_is_final(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed):
        lost(1, None, Requeues(tmp_path))


def test_any_number_of_failures_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    shared(monkeypatch)
    failures = Requeues(tmp_path)
    lost(2000, None, failures)
    clock.now += LONGEST_PAUSE_S
    assert not failures.rests
