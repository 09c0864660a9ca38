"""Rename, archive, delete and bundle studies in an object store, from machines that share nothing
but the bucket, with a kill at any write. One machine also enqueues configurations for another."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.object_store import BUCKET, keys, machine
from tests.studies import events
from tests.tune.object_store.test_sync import finish, start, told
from trainables.errors import UserError
from trainables.files import BEST
from tune.execution.local import search_locally
from tune.object_store import lease, s3
from tune.object_store.enqueued import EnqueuedCopy, share_enqueued
from tune.object_store.lease import Lease
from tune.object_store.removals import finish_removals
from tune.object_store.removed import REMOVED
from tune.object_store.restore import pull
from tune.reports.storage import study_folders
from tune.study.enqueued import enqueue, read_enqueued
from tune.study.manifest import read_manifest
from tune.study.record import read_record
from tune.upkeep import actions
from tune.upkeep.bundle import bundle
from tune.upkeep.mlflow_side import MlflowSide

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The storage folder of a machine that has run a study to its end."""
    root = machine(monkeypatch, tmp_path / "first")
    finish(root, 2)
    return root


def looked(monkeypatch: pytest.MonkeyPatch, home: Path) -> Path:
    """The storage folder of a machine that has pulled what the store has."""
    root = machine(monkeypatch, home)
    pull(root)
    pull(root / "archived")
    return root


def of_study(store: Any, name: str) -> set[str]:
    """Names of a study's objects, relative to the study."""
    prefix = f"runs/{name}/"
    return {key.removeprefix(prefix) for key in keys(store) if key.startswith(prefix)}


def rename(root: Path) -> None:
    actions.rename(root, root / "toy", "other", MlflowSide(root))


def archive(root: Path) -> None:
    actions.archive(root, [root / "toy"], MlflowSide(root))


def delete(root: Path) -> None:
    actions.delete(root, [root / "toy"], MlflowSide(root))


def test_a_renamed_study_goes_on_under_its_name_on_every_machine(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Any
) -> None:
    before = of_study(store, "toy")
    second = looked(monkeypatch, tmp_path / "second")
    rename(second)
    assert of_study(store, "toy") == set()
    assert of_study(store, "other") == before

    root = looked(monkeypatch, tmp_path / "first")
    assert [folder.name for folder in study_folders(root)] == ["other"]
    record = read_record(root / "other")
    assert record.manifest.name == "other"
    assert record.manifest.identity == "toy"
    assert len(record.frozen_trials()) == 2
    assert s3.present(root / "other/trials/0000" / BEST).is_file()
    # The first machine may have had more than the store: that is kept.
    assert list((root / REMOVED).glob("toy-*/events.jsonl"))


def test_an_archived_study_comes_back_as_it_was(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Any
) -> None:
    before, log = of_study(store, "toy"), told(first)
    second = looked(monkeypatch, tmp_path / "second")
    archive(second)
    assert study_folders(second) == []
    assert of_study(store, "archived/toy") == before

    root = looked(monkeypatch, tmp_path / "first")
    assert study_folders(root) == []
    actions.restore(root, [root / "archived/toy"], MlflowSide(root))
    assert of_study(store, "toy") == before
    assert of_study(store, "archived") == set()

    third = looked(monkeypatch, tmp_path / "second")
    assert told(third) == log
    study = finish(third, 4)
    assert len(study.frozen_trials()) == 4


def test_a_deleted_study_is_gone_from_every_machine(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Any
) -> None:
    identity = events(first)[0]["t"]
    second = looked(monkeypatch, tmp_path / "second")
    delete(second)
    assert of_study(store, "toy") == set()
    assert not (second / "toy").exists()

    root = looked(monkeypatch, tmp_path / "first")
    assert study_folders(root) == []
    assert not (root / "toy").exists()
    finish(root, 1)  # another study of that name
    assert events(root)[0]["t"] != identity
    again = looked(monkeypatch, tmp_path / "third")
    assert len(read_record(again / "toy").trials) == 1


class Killed(BaseException):
    """End the process."""


def kill_at(patch: pytest.MonkeyPatch, number: int) -> None:
    """End the process before its n-th write to the store. Nothing is written after that."""
    count = 0

    def dying(write: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count >= number:
                raise Killed
            return write(*given, **named)

        return call

    for name in ("put", "copy_object", "delete"):
        patch.setattr(s3, name, dying(getattr(s3, name)))


def snapshot(store: Any) -> dict[str, tuple[bytes, dict[str, str]]]:
    found = {}
    for key in keys(store):
        answer = store.get_object(Bucket=BUCKET, Key=key)
        found[key] = (answer["Body"].read(), answer["Metadata"])
    return found


def put_back(store: Any, found: dict[str, tuple[bytes, dict[str, str]]]) -> None:
    for key in keys(store):
        store.delete_object(Bucket=BUCKET, Key=key)
    for key, (body, meta) in found.items():
        store.put_object(Bucket=BUCKET, Key=key, Body=body, Metadata=meta)


def check_kills(
    action: Callable[[Path], None],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    store: Any,
    step: int,
) -> None:
    """Repeat the killed command on the same machine, and check that it leaves what an undisturbed
    one does."""
    monkeypatch.setattr("os.fsync", lambda fd: None)
    monkeypatch.setattr("tune.object_store.removals.EXPIRES_S", 0.0)
    begun = snapshot(store)
    action(looked(monkeypatch, home / "whole"))
    expected = {key for key in keys(store) if REMOVED not in key}

    for number in range(1, 1000, step):
        put_back(store, begun)
        root = looked(monkeypatch, home / str(number))
        with monkeypatch.context() as patch:
            kill_at(patch, number)
            try:
                action(root)
                return
            except Killed:
                pass

        root = looked(monkeypatch, home / str(number))
        finish_removals(root)
        if (root / "toy" / "study.json").exists():
            action(root)
        finish_removals(root)
        left = {key for key in keys(store) if REMOVED not in key and not key.endswith("lease")}
        assert left == expected, number
        fresh = looked(monkeypatch, home / f"fresh {number}")
        assert {folder.name for folder in study_folders(fresh)} == {
            key.split("/")[1] for key in expected if key.endswith("/study.json")
        } - {"archived"}
    raise AssertionError("it never came to its end")


ACTIONS = pytest.mark.parametrize("action", [rename, archive, delete])


@pytest.mark.heavy
@ACTIONS
def test_a_command_that_was_killed_is_repeated(
    first: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    store: Any,
    action: Callable[[Path], None],
) -> None:
    check_kills(action, tmp_path, monkeypatch, store, step=6)


@pytest.mark.slow
@ACTIONS
def test_a_command_that_was_killed_at_any_write_is_repeated(
    first: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    store: Any,
    action: Callable[[Path], None],
) -> None:
    check_kills(action, tmp_path, monkeypatch, store, step=1)


@ACTIONS
def test_a_study_that_another_machine_runs_is_left_alone(
    first: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    store: Any,
    action: Callable[[Path], None],
) -> None:
    study, copy = start(first, 3)
    before = keys(store)
    monkeypatch.setattr(lease, "_LOOK_S", 0.01)
    second = looked(monkeypatch, tmp_path / "second")
    monkeypatch.setattr(Lease, "_wait", lambda self, first, host, tell: _refuse(self, host))
    with pytest.raises(UserError, match="study 'toy' is being run by"):
        action(second)
    assert keys(store) == before
    assert copy.close(30)
    study.close()


def _refuse(found: Lease, host: str) -> None:
    """Stand in for the wait for a sign of life: the other machine is alive, so the lease is
    busy."""
    raise found._busy(host)


def test_a_name_that_another_study_has_is_refused(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = looked(monkeypatch, tmp_path / "second")
    s3.put(second / "other" / "events.jsonl", b'{"t":1,"event":"study","name":"other"}\n')
    with pytest.raises(UserError, match=f"s3://{BUCKET}/runs/other already exists"):
        rename(second)
    assert read_manifest(second / "toy/study.json").name == "toy"


def test_a_bundle_has_what_the_store_has(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = looked(monkeypatch, tmp_path / "second")
    assert not list((second / "toy").rglob(BEST))
    bundle([second / "toy"], tmp_path / "toy.tar.gz", overwrite=False)
    with tarfile.open(tmp_path / "toy.tar.gz") as packed:
        names = set(packed.getnames())
        (weights,) = [name for name in names if name.endswith(f"0000/{BEST}")]
        content = packed.extractfile(weights)
        assert content is not None
        assert content.read() == (first / weights).read_bytes()
    assert names >= {"toy/study.json", "toy/events.jsonl", "toy/study.journal", "toy/report.html"}
    assert "toy/lease" not in names


OWN, OTHER = {"optim.lr": 0.25}, {"optim.lr": 0.5}


def test_a_configuration_of_another_machine_is_tried(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Any
) -> None:
    second = looked(monkeypatch, tmp_path / "second")
    enqueue(second / "toy", [OWN])
    share_enqueued(second / "toy")
    assert [json.loads(line)["params"] for line in _lines(store)] == [OWN]

    root = machine(monkeypatch, tmp_path / "first")
    study, copy = start(root, 4)
    enqueue(second / "toy", [OTHER])
    EnqueuedCopy(second / "toy").exchange()
    copy._enqueued.exchange()  # its thread does this every few seconds
    search_locally(study, study.experiment)
    rates = [trial.params["optim.lr"] for trial in study.frozen_trials()]
    assert rates[2:] == [0.25, 0.5]
    assert copy.close(30)
    study.close()


def test_nothing_that_two_machines_enqueue_at_once_is_lost(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Any
) -> None:
    """One machine appends a line between the other's read and its write."""
    second = looked(monkeypatch, tmp_path / "second")
    here, there = EnqueuedCopy(first / "toy"), EnqueuedCopy(second / "toy")
    enqueue(first / "toy", [OWN])
    enqueue(second / "toy", [OTHER])

    put = s3.put
    calls = []

    def late(*given: Any, **named: Any) -> str:
        calls.append(given)
        if len(calls) == 1:
            there.exchange()
        return put(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(s3, "put", late)
        here.exchange()
    there.exchange()
    for folder in (first / "toy", second / "toy"):
        assert sorted(map(str, read_enqueued(folder))) == sorted(map(str, [OWN, OTHER]))
    assert len(_lines(store)) == 2


def _lines(store: Any) -> list[bytes]:
    answer = store.get_object(Bucket=BUCKET, Key="runs/toy/enqueued.jsonl")
    return list(answer["Body"].read().splitlines())
