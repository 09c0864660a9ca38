"""The crash enumerator: its model of a disk, the defects that it must find, and a sample of its
crashes. `make test-crash` tries all of them."""

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests import REPO
from tests.crash.crashes import KINDS, crashes_of
from tests.crash.disk import Disk, restore
from tests.crash.growth import Growth, Use
from tests.crash.operations import Change, compiler

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C compiler")


def left(root: Path, changes: list[Change], loss: str) -> dict[str, bytes]:
    """The files that a power cut leaves."""
    restore(root, Disk(root).apply_all(changes).left(loss))
    found = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


def test_a_log_loses_what_was_appended_after_the_last_sync(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    changes = [
        Change("create", log, "", 0, b""),
        Change("write", log, "", 0, b"one\n"),
        Change("sync", log, "", 0, b""),
        Change("write", log, "", 4, b"two\n"),
    ]
    assert left(tmp_path, changes, "names") == {"log": b"one\n"}
    assert left(tmp_path, changes, "data") == {"log": b"one\n"}
    assert left(tmp_path, changes, "zeros") == {"log": b"one\n\0\0\0\0"}


def test_a_rename_without_a_sync_leaves_the_old_file_or_an_empty_one(tmp_path: Path) -> None:
    new, final = str(tmp_path / "new"), str(tmp_path / "final")
    old = [
        Change("create", final, "", 0, b""),
        Change("write", final, "", 0, b"old"),
        Change("sync", final, "", 0, b""),
    ]
    write = [Change("create", new, "", 0, b""), Change("write", new, "", 0, b"new")]
    rename = [Change("rename", new, final, 0, b"")]
    assert left(tmp_path, old + write + rename, "names") == {"final": b"old"}
    assert left(tmp_path, old + write + rename, "data") == {"final": b""}

    synced = [Change("sync", new, "", 0, b"")]
    folder = [Change("sync", str(tmp_path), "", 0, b"")]
    kept = {"final": b"new"}
    assert left(tmp_path, old + write + synced + rename, "data") == kept
    assert left(tmp_path, old + write + synced + rename, "names") == {
        "final": b"old",
        "new": b"new",
    }
    assert left(tmp_path, old + write + synced + rename + folder, "names") == kept


def test_crashes_that_leave_the_same_files_are_one(tmp_path: Path) -> None:
    partial, final = str(tmp_path / "a.00000000.partial"), str(tmp_path / "a")
    changes = [
        Change("create", partial, "", 0, b""),
        Change("write", partial, "", 0, b"one"),
        Change("write", partial, "", 3, b"two"),
        Change("sync", partial, "", 0, b""),
        Change("rename", partial, final, 0, b""),
        Change("sync", str(tmp_path), "", 0, b""),
    ]
    draw = Random(0)
    draw.random = lambda: 1.0  # type: ignore[method-assign]
    found = crashes_of(tmp_path, changes, KINDS, None, draw)
    # kills leave nothing, a partial file, or the file; power cuts leave old names or an empty
    # partial file, so nothing new
    assert {str(crash) for crash in found.tried} == {"kill:1", "kill:2", "kill:6"}
    assert (found.differing, found.all) == (3, 6 + 2 + 3 * 6)


def enumerate_crashes(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tests.crash", *words], cwd=REPO, capture_output=True, text=True
    )


@needs_compiler
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_sample_of_crashes_is_recovered_from() -> None:
    done = enumerate_crashes("--points", "40", "--seed", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "crashes: 0 not recovered from, 0 that left files behind" in done.stdout


@needs_compiler
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("defect", "kind", "study"),
    [
        ("unsynced", "power", "toy"),
        ("torn", "torn", "toy"),
        ("leftover", "kill", "toy"),
        ("twice", "kill", "toy"),
        ("forgets", "kill", "kept"),
    ],
)
def test_a_planted_defect_is_found(defect: str, kind: str, study: str) -> None:
    done = enumerate_crashes("--study", study, "--kind", kind, "--defect", defect)
    assert done.returncode == 1, done.stdout + done.stderr
    assert " 0 not recovered from, 0 that left" not in done.stdout


@needs_compiler
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_damaged_record_is_mended_or_refused_by_name() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash.damage", "--quiet"],
        cwd=REPO,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_compiler
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_sampled_crashes_on_ray_are_recovered_from() -> None:
    done = enumerate_crashes("--study", "toy", "--points", "2", "--ray", "2")
    assert done.returncode == 0, done.stdout + done.stderr


def looks(trials: range, **grows: float) -> list[Use]:
    """Resources of a driver, some of which grow with every trial."""
    still = {"memory_mb": 400.0, "handles": 60.0, "threads": 20.0, "processes": 12.0}
    return [
        Use(number, **{name: value + number * grows.get(name, 0) for name, value in still.items()})
        for number in trials
    ]


def test_a_soak_tells_what_grows() -> None:
    starts = [looks(range(100)), looks(range(100, 130), handles=1.0)]  # the second is too short
    growth = Growth(starts, [(n, 10_000_000 + 5_000 * n) for n in range(0, 200, 20)])
    assert growth.check() == []

    growth.uses.append(looks(range(130, 400), handles=0.1, memory_mb=0.5))
    growth.sizes += [(n, 11_000_000 + 20_000 * (n - 200)) for n in range(200, 400, 20)]
    wrong = [line.partition(" grew")[0] for line in growth.check()]
    assert wrong == ["memory_mb", "handles", "bytes of a trial"]
