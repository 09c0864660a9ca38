"""The store is built once, completely or not at all, with clear errors. Builders are forked, so
that tests can race and kill them."""

import errno
import io
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.trainables.data.test_images import REASONS, damaged
from tests.trainables.data.test_layouts import class_folders, flat
from trainables.data import DataConfig, DataSet, load_dataset, store
from trainables.data.images import CorruptImage, Picture, sha256
from trainables.data.source import Source
from trainables.data.store import Store, open_store
from trainables.errors import UserError

fork = multiprocessing.get_context("fork")


def source(log: Path | None = None, pause: float = 0.0, count: int = 40) -> Source:
    """Return a source whose row r is an image filled with r; every build adds a line to `log`."""
    if log:
        with log.open("a") as file:
            file.write("build\n")

    def at(row: int, size: int) -> np.ndarray:
        time.sleep(pause)
        return np.full((3, size, size), row, np.uint8)

    def open_row(row: int) -> Picture:
        return Picture(sha256(str(row).encode()), partial(at, row))

    return Source(count, open_row, str, np.arange(count), extra={"note": "kept"})


def opened(cache: Path, make: Callable[[], Source] = source) -> Store:
    return open_store("set", "0123456789abcdef", 8, make, cache)


def assert_whole(found: Store) -> None:
    np.testing.assert_array_equal(
        found.images, np.broadcast_to(np.arange(40).reshape(-1, 1, 1, 1), (40, 3, 8, 8))
    )
    np.testing.assert_array_equal(found.labels, np.arange(40))
    assert found.extra == {"note": "kept"}


def test_second_opening_does_not_build(tmp_path: Path) -> None:
    assert_whole(opened(tmp_path, lambda: source(tmp_path / "log")))
    assert_whole(opened(tmp_path, lambda: source(tmp_path / "log")))
    assert (tmp_path / "log").read_text() == "build\n"


def test_two_processes_build_once(tmp_path: Path) -> None:
    def work() -> None:
        assert_whole(opened(tmp_path / "cache", lambda: source(tmp_path / "log", pause=0.02)))

    workers = [fork.Process(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "build\n"


def test_build_after_kill(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    builder = fork.Process(target=lambda: opened(cache, lambda: source(tmp_path / "log", pause=30)))
    builder.start()
    deadline = time.monotonic() + 30
    while not list(cache.glob("*.building/images.npy")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert builder.pid
    os.kill(builder.pid, signal.SIGKILL)
    builder.join(30)
    assert [path.suffix for path in cache.iterdir() if path.is_dir()] == [".building"]
    assert_whole(opened(cache))
    assert [path.suffix for path in cache.iterdir() if path.is_dir()] == [""]


def test_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Source:
        good = source()
        return Source(good.count, lambda row: 1 / 0, good.describe, good.labels)  # type: ignore[arg-type, return-value]

    with pytest.raises(ZeroDivisionError):
        opened(tmp_path, broken)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    assert_whole(opened(tmp_path))


def test_rows_that_fail_are_black_and_listed(tmp_path: Path) -> None:
    def partly() -> Source:
        good = source()

        def open_row(row: int) -> Picture:
            if row in (3, 30):
                raise CorruptImage("bad")
            return good.open(row)

        return Source(good.count, open_row, lambda row: f"{row}.png", good.labels)

    found = opened(tmp_path, partly)
    assert found.skipped == (("3.png", "bad"), ("30.png", "bad"))
    assert found.skipped_rows.tolist() == [3, 30]
    assert not found.images[[3, 30]].any()
    assert (found.images[[4, 29]] == np.array([4, 29]).reshape(2, 1, 1, 1)).all()


def test_images_are_a_read_only_memory_map_shared_by_the_splits(tmp_path: Path) -> None:
    data = load_dataset(
        DataConfig(name=str(class_folders(tmp_path / "set")), image_size=8), cache_dir=tmp_path
    )
    assert isinstance(data.train.images, np.memmap)
    assert data.train.images is data.val.images is data.test.images
    with pytest.raises(ValueError, match="read-only"):
        data.train.images[0] = 0
    data.train.batch(np.arange(3)).zero_()  # a batch is a copy
    assert data.train.images[data.train.indices[:3]].any()


# errors


def message_of(make: Callable[[], object]) -> str:
    with pytest.raises(UserError) as raised:
        make()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_disk_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=35_000_000))
    message = message_of(lambda: opened(tmp_path, lambda: source(count=10_000)))
    assert f"needs 0.00192 GB in {tmp_path}, 0.035 GB free; set VISTUNE_CACHE" in message
    assert_whole(opened(tmp_path))  # a small one fits


def test_disk_that_becomes_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert f"the disk of {tmp_path} became full" in message_of(lambda: opened(tmp_path))
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    cache = tmp_path / "file" / "cache"
    expected = (
        f"cannot write to the cache directory {cache} (Not a directory); "
        "set VISTUNE_CACHE to a writable directory"
    )
    assert message_of(lambda: opened(cache)) == expected
    monkeypatch.setenv("VISTUNE_CACHE", str(cache))
    assert message_of(lambda: load_dataset(DataConfig(name="digits"))) == expected


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_cache(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "Permission denied" in message_of(lambda: opened(tmp_path))


def test_finished_store_needs_no_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(tmp_path)
    monkeypatch.setattr(store, "locked", None)
    assert_whole(opened(tmp_path))


def test_damaged_store(tmp_path: Path) -> None:
    path = opened(tmp_path).path
    (path / "images.npy").write_bytes(b"x")
    assert f"the image store {path} is damaged" in message_of(lambda: opened(tmp_path))


# corrupt files


def spoil(root: Path) -> dict[str, str]:
    """Add one file of every kind of damage; return their names and patterns of the reasons."""
    names = {}
    for kind, reason in REASONS.items():
        name = kind.replace(" ", "_") + "x.jpg"
        damaged(kind, root / name)
        names[name] = reason.removeprefix("(?i)")
    return names


def test_corrupt_files_are_all_listed(tmp_path: Path) -> None:
    root = flat(tmp_path / "set", 20)
    names = spoil(root)

    def load(**options: bool) -> DataSet:
        return load_dataset(
            DataConfig(name=str(root), image_size=8, **options), cache_dir=tmp_path / "cache"
        )

    message = message_of(load)
    assert f"{len(names)} of {20 + len(names)} images in {root} cannot be used" in message
    assert "--skip-corrupt" in message
    for name, reason in names.items():
        assert f"{name}: " in message
        assert reason in message.split(f"{name}: ")[1].split(";")[0].lower()
    listed = Path(message.split("full list in ")[1].split(";")[0]).read_text().splitlines()
    assert sorted(line.split("\t")[0] for line in listed) == sorted(names)

    data = load(skip_corrupt=True)
    assert sorted(path for path, _ in data.skipped) == sorted(names)
    assert len(data.train) + len(data.val) + len(data.test) == 20
    for split in (data.train, data.val, data.test):
        assert split.batch(np.arange(len(split))).flatten(1).any(1).all()  # no black row is in use
    assert f"{len(names)} corrupt files skipped" in data.headline()
    assert message_of(load) == message


def test_message_names_the_first_twenty(tmp_path: Path) -> None:
    root = flat(tmp_path / "set", 4)
    for i in range(30):
        (root / f"bad{i:02d}.jpg").write_bytes(b"")
    message = message_of(
        lambda: load_dataset(DataConfig(name=str(root)), cache_dir=tmp_path / "cache")
    )
    assert message.count("zero bytes") == 20
    assert "30 of 34" in message
    assert len(Path(message.split("full list in ")[1].split(";")[0]).read_text().splitlines()) == 30


def test_nothing_left(tmp_path: Path) -> None:
    spoil(tmp_path)
    config = DataConfig(name=str(tmp_path), skip_corrupt=True)
    assert "none is left" in message_of(lambda: load_dataset(config, cache_dir=tmp_path / ".cache"))


def test_class_that_loses_all_its_images(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set")
    for path in (root / "bee").iterdir():
        path.write_bytes(b"")
    config = DataConfig(name=str(root), skip_corrupt=True)
    assert "classes without a usable training image" in message_of(
        lambda: load_dataset(config, "classify", tmp_path / "cache")
    )


# progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bar_on_a_terminal_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def build(name: str, progress: bool) -> None:
        open_store(name, "0" * 16, 8, source, tmp_path, progress)

    build("a", progress=True)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    build("b", progress=False)
    assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]
    build("c", progress=True)
    assert "40/40" in sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert capfd.readouterr().out == ""
