"""Google's object store, against a local server that answers as it does."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.google_store import Buckets, serving
from tests.studies import manifest
from tests.toy import TOY
from trainables.errors import UserError
from trainables.files import LAST
from tune.execution.local import search_locally
from tune.object_store import google_store, lease, s3
from tune.object_store.compare_and_swap import CompareAndSwap
from tune.object_store.lease import Lease
from tune.object_store.restore import LOG, pull
from tune.object_store.study_sync import opened
from tune.study.study import Study


@pytest.fixture
def buckets(monkeypatch: pytest.MonkeyPatch) -> Iterator[Buckets]:
    held = Buckets("studies")
    with serving(held) as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        google_store.connect.cache_clear()
        yield held
    google_store.connect.cache_clear()


def machine(monkeypatch: pytest.MonkeyPatch, home: Path) -> Path:
    monkeypatch.setenv("VISTUNE_CACHE", str(home))
    return s3.local_folder("gs://studies/runs")


def test_a_path_says_which_object_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = machine(monkeypatch, tmp_path)
    assert s3.address(root / "ssl" / LOG) == "gs://studies/runs/ssl/events.jsonl"
    monkeypatch.setitem(__import__("sys").modules, "google.auth", None)
    with pytest.raises(UserError, match=r"needs google.auth: .*gcp"):
        s3.local_folder("gs://studies/runs")


@pytest.mark.usefixtures("buckets")
def test_writes_are_whole_conditional_and_carry_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = machine(monkeypatch, tmp_path) / "a b+c"
    assert s3.get(path) is None
    assert s3.etag(path) is None
    first = s3.put(path, b"one", {"k": "v"}, new=True)
    with pytest.raises(s3.Taken):
        s3.put(path, b"two", new=True)
    assert s3.download(path, lambda meta: meta == {"k": "v"}) == first
    second = s3.put(path, b"two", replaces=first)
    with pytest.raises(s3.Taken):
        s3.put(path, b"three", replaces=first)
    assert s3.download(path) == second == s3.etag(path)
    assert path.read_bytes() == b"two"
    assert s3.download(path, lambda meta: "k" in meta) is None
    found = s3.get(path, 2)
    assert found is not None
    assert found.body == b"tw"
    assert 0 <= found.age_s < 60
    assert s3.within(path.parent)[1].keys() == {path} == s3.below(path.parent).keys()
    assert s3.below(path.parent)[path] == s3.ObjectInfo(second, 3)
    copied = path.with_name("copied")
    s3.copy_object(path, copied)
    s3.copy_object(path.with_name("absent"), path.with_name("none"))
    assert s3.below(path.parent).keys() == {path, copied}
    found = s3.get(copied)
    assert found is not None
    assert found.body == b"two"
    s3.delete(path)
    s3.delete(path)
    with pytest.raises(s3.Taken):
        s3.put(path, b"three", replaces=second)


@pytest.mark.usefixtures("buckets")
def test_a_listing_of_many_pages_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = machine(monkeypatch, tmp_path)
    paths = {root / folder / f"{n}" for folder in ("a", "b", "c&d", "e") for n in range(4)}
    for path in [*paths, root / "top"]:
        s3.put(path, b"x")
    assert s3.below(root).keys() == {*paths, root / "top"}
    folders, files = s3.within(root)
    assert set(folders) == {path.parent for path in paths}
    assert files.keys() == {root / "top"}


@pytest.mark.usefixtures("buckets")
def test_one_driver_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_LOOK_S", 0.05)
    monkeypatch.setattr(lease, "EXPIRES_S", 2.0)
    a, b = (Lease(machine(monkeypatch, tmp_path / name) / "toy") for name in "ab")
    a.take(print)

    def renew(line: str) -> None:
        assert a.renew()

    with pytest.raises(UserError, match=f"'toy' is being run by {socket.gethostname()}; wait"):
        b.take(renew)
    b.take(print)  # the lease is no longer renewed
    assert not a.renew()
    assert b.renew()
    a.drop()
    b.release()


@pytest.mark.usefixtures("buckets")
def test_a_chain_has_one_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = machine(monkeypatch, tmp_path) / "a"
    first = CompareAndSwap(path, None)
    first.put(b"one")
    second = CompareAndSwap(path, first.etag)
    first.etag = None  # the write arrived, but its answer was lost
    first.put(b"two")
    with pytest.raises(s3.Taken):
        second.put(b"three")


def no_stop(reason: str) -> None:
    raise AssertionError(reason)


def run(root: Path, trials: int) -> Study:
    pull(root)
    with opened(root / "toy", print, no_stop) as copy:
        assert copy is not None
        study = Study.open(root / "toy", TOY, manifest(), trials=trials, repeats=0)
        copy.start()
    study.observers.append(copy.on_event)
    search_locally(study, TOY)
    study.emit("finish", state="FINISHED")
    assert copy.close(30)
    study.close()
    return study


def test_another_machine_continues_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buckets: Buckets
) -> None:
    first = machine(monkeypatch, tmp_path / "first")
    run(first, 2)
    held = buckets.objects["studies"]
    assert held["runs/toy/events.jsonl"].body == (first / "toy" / LOG).read_bytes()
    assert not any(key.endswith((LAST, "lease")) for key in held)

    second = machine(monkeypatch, tmp_path / "second")
    study = run(second, 3)
    assert study.finished() == 3
    log = (second / "toy" / LOG).read_bytes()
    assert log.startswith((first / "toy" / LOG).read_bytes())
    assert held["runs/toy/events.jsonl"].body == log


def test_what_is_wrong_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buckets: Buckets
) -> None:
    monkeypatch.setenv("VISTUNE_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"^there is no bucket 'absent': create it \(gcloud"):
        pull(s3.local_folder("gs://absent"))

    buckets.refuses = "AccessDenied"
    with pytest.raises(UserError, match=r"^gs://studies/runs.* is refused \(AccessDenied\)"):
        pull(machine(monkeypatch, tmp_path))

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{probe.getsockname()[1]}")
    google_store.connect.cache_clear()
    with pytest.raises(UserError, match=r"^gs://studies/runs.* cannot be reached"):
        pull(machine(monkeypatch, tmp_path))

    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")  # no gcloud on the path
    google_store.connect.cache_clear()
    with pytest.raises(UserError, match="gcloud auth application-default login"):
        pull(machine(monkeypatch, tmp_path))
