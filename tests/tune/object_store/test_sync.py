"""Object storage against moto's S3 server on this machine: copies, leases, what is restored after
which loss, refusals."""

import functools
import json
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from tests.object_store import BUCKET, keys, machine
from tests.processes import wait_for
from tests.studies import manifest
from tests.toy import TOY
from trainables.engine.checkpoint import load_checkpoint
from trainables.errors import UserError
from trainables.files import BEST, HISTORY, LAST
from tune.execution.local import search_locally
from tune.execution.runtimes import LocalRuntime
from tune.execution.trial import run
from tune.object_store import client, lease, s3, study_sync, trial_sync
from tune.object_store.compare_and_swap import CompareAndSwap
from tune.object_store.lease import Lease
from tune.object_store.restore import JOURNAL, LOG, pull
from tune.object_store.study_sync import StudyCopy
from tune.object_store.trial_folder import files_to_upload
from tune.object_store.trial_sync import TrialCopy, copied
from tune.object_store.uploader import Uploader
from tune.study.events import EventLog
from tune.study.group import Group
from tune.study.identity import study_id
from tune.study.study import Study
from tune.study.work import WorkId
from tune.tracking.logs import sync_study

pytestmark = pytest.mark.usefixtures("store")


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a client for this test alone, from the current environment."""
    monkeypatch.setattr(client, "connect", functools.cache(client.connect.__wrapped__))


def no_stop(reason: str) -> None:
    raise AssertionError(reason)


def start(root: Path, trials: int = 3, stop: Any = no_stop) -> tuple[Study, StudyCopy]:
    """Do what a session does: pull, take the lease, open, start copying."""
    pull(root)
    with study_sync.opened(root / "toy", print, stop) as copy:
        assert copy is not None
        study = Study.open(root / "toy", TOY, manifest(), trials=trials, repeats=1)
        copy.start()
    study.observers.append(copy.on_event)
    return study, copy


def finish(root: Path, trials: int = 3) -> Study:
    study, copy = start(root, trials)
    search_locally(study, TOY)
    study.emit("finish", state="FINISHED")
    assert copy.close(30)
    study.close()
    return study


def told(root: Path) -> list[Any]:
    """A study's reports and ends, without what differs from run to run."""
    found = [e for e in EventLog.read(root / "toy" / LOG)[0] if e["event"] in ("report", "end")]
    return [
        e
        | {"t": 0, "metrics": {k: v for k, v in e["metrics"].items() if not k.startswith("time/")}}
        for e in found
    ]


def test_a_checkpoint_that_arrives_after_its_trial_has_ended_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Any
) -> None:
    """The process of a trial does not wait long for an upload that it has begun."""
    root = machine(monkeypatch, tmp_path)
    study, copy = start(root, 1)
    search_locally(study, TOY)
    late = s3.address(root / "toy/trials/0000" / LAST)
    assert late is not None
    wait_for(lambda: copy.known() == (root / "toy" / LOG).stat().st_size)
    store.put_object(Bucket=BUCKET, Key=late.removeprefix(f"s3://{BUCKET}/"), Body=b"late")
    assert copy.close(30)
    study.close()
    assert not [key for key in keys(store) if key.endswith(LAST)]


def test_a_path_says_which_object_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = machine(monkeypatch, tmp_path)
    assert s3.address(root / "ssl" / LOG) == "s3://studies/runs/ssl/events.jsonl"
    assert s3.address(tmp_path / "runs") is None
    assert s3.local_folder(str(tmp_path)) == tmp_path
    for wrong in ("ftp://bucket", "s3://", "gs://", "s3://bucket/../other"):
        with pytest.raises(UserError, match="use a folder, or s3://bucket/prefix"):
            s3.local_folder(wrong)


def test_writes_are_whole_conditional_and_carry_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = machine(monkeypatch, tmp_path) / "a"
    assert s3.get(path) is None
    assert s3.etag(path) is None
    first = s3.put(path, b"one", {"k": "v"}, new=True)
    with pytest.raises(s3.Taken):
        s3.put(path, b"two", new=True)
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
    s3.delete(path)
    with pytest.raises(s3.Taken):
        s3.put(path, b"three", replaces=second)


def test_what_is_wrong_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISTUNE_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"^there is no bucket 'absent': create it"):
        pull(s3.local_folder("s3://absent"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{probe.getsockname()[1]}")
    forget(monkeypatch)
    with pytest.raises(UserError, match=r"s3://studies/runs cannot be reached \(Could not connect"):
        pull(machine(monkeypatch, tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    forget(monkeypatch)
    with pytest.raises(UserError, match="Unable to locate credentials; set AWS_ACCESS_KEY_ID"):
        pull(machine(monkeypatch, tmp_path))


def test_one_driver_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_LOOK_S", 0.05)
    a, b = (Lease(machine(monkeypatch, tmp_path / name) / "toy") for name in "ab")
    said: list[str] = []
    a.take(said.append)
    with pytest.raises(UserError, match="is being run by another process of this machine"):
        Lease(a.path.parent).take(said.append)

    def renew(line: str) -> None:
        said.append(line)
        assert a.renew()

    with pytest.raises(UserError, match=f"'toy' is being run by {socket.gethostname()}; wait"):
        b.take(renew)
    assert "waiting whether it lives" in said[0]
    monkeypatch.setattr(lease, "EXPIRES_S", 1.0)
    b.take(said.append)  # the lease is no longer renewed
    assert not a.renew()
    assert b.renew()
    a.drop()
    b.release()
    a.take(said.append)
    a._lock.release()  # as if killed
    Lease(a.path.parent).take(no_stop)  # the same machine need not wait


def test_an_answer_that_was_lost_is_no_loss_of_the_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Lease(machine(monkeypatch, tmp_path) / "toy")
    mine.take(print)
    before = mine._object.etag
    assert mine.renew()
    mine._object.etag = before  # the write arrived, but its answer was lost
    assert mine.renew()


def test_a_chain_has_one_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = machine(monkeypatch, tmp_path) / "a"
    first = CompareAndSwap(path, None)
    with pytest.raises(s3.Taken):
        CompareAndSwap(path, first.put(b"one") + "?").put(b"two")
    second = CompareAndSwap(path, first.etag)
    first.etag = None  # the write arrived, but its answer was lost
    first.put(b"two")
    first.put(b"three")
    with pytest.raises(s3.Taken):
        second.put(b"four")
    s3.delete(path)
    with pytest.raises(s3.Taken):
        first.put(b"five")


@pytest.mark.parametrize(
    "log_arrives", ["before its successor looks", "after its successor has begun"]
)
def test_what_a_lost_head_still_sends_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_arrives: str
) -> None:
    """It hangs in the middle of a copy until another head has continued. Then its uploads
    arrive."""
    monkeypatch.setattr(lease, "EXPIRES_S", 0.0)
    monkeypatch.setattr(Uploader, "start", lambda self: None)  # the test uploads by hand
    first, old = start(machine(monkeypatch, tmp_path / "old"))
    first.observers.append(lambda event: setattr(first, "stopping", event["event"] == "end"))
    search_locally(first, TOY)
    snapshot = old._latest
    assert snapshot.log_bytes > old.known()
    early = log_arrives.startswith("before")
    if early:
        old.record.log.put((old.folder / LOG).read_bytes())
    second, new = start(machine(monkeypatch, tmp_path / "new"))
    if not early:
        old.record.log.put((old.folder / LOG).read_bytes())
    with pytest.raises(s3.Taken):
        old.record.upload_journal(snapshot)
    search_locally(second, TOY)
    new.record.upload(new._latest, new._lease.renew)
    with pytest.raises(s3.Taken):
        old.record.upload(old._latest, old._lease.renew)
    for study, copy in ((first, old), (second, new)):
        copy._lease.drop()
        study.close()
    reader = machine(monkeypatch, tmp_path / "reader")
    pull(reader)
    for name in (LOG, JOURNAL):
        assert (reader / "toy" / name).read_bytes() == (new.folder / name).read_bytes()
    assert second.finished() == 3


def test_a_new_head_goes_on_as_the_old_one_would_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Any
) -> None:
    plain = tmp_path / "plain"
    whole = Study.open(plain / "toy", TOY, manifest(), trials=5, repeats=1)
    search_locally(whole, TOY)
    whole.close()
    finish(machine(monkeypatch, tmp_path / "a"), trials=3)
    assert not any(key.endswith((LAST, "lease")) for key in keys(store))
    new = machine(monkeypatch, tmp_path / "b")
    study = finish(new, trials=5)
    assert study.finished() == 5
    ends = [
        (e["trial"], e.get("repeat"))
        for e in EventLog.read(new / "toy" / LOG)[0]
        if e["event"] == "end"
    ]
    assert len(set(ends)) == len(ends)
    trials = [e for e in told(new) if "repeat" not in e]
    assert trials == [e for e in told(plain) if "repeat" not in e]
    best = new / "toy" / "trials" / f"{study.best_number():04d}" / BEST
    assert s3.present(best).exists()
    for path, entry in s3.below(new / "toy" / "trials").items():
        assert not path.exists() or path.stat().st_size == entry.bytes


@pytest.mark.parametrize("lost", ["journal", "both"])
def test_every_last_upload_leaves_a_state_to_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str, store: Any
) -> None:
    """Three heads die in turn, each at the second end that it writes: between the uploads of log
    and journal, or before both."""
    plain = tmp_path / "plain"
    whole = Study.open(plain / "toy", TOY, manifest(), trials=4, repeats=1)
    search_locally(whole, TOY)
    whole.close()

    class Died(Exception):
        pass

    with monkeypatch.context() as patched:
        patched.setattr(Uploader, "start", lambda self: None)  # the test uploads by hand
        for head in range(3):
            root = machine(monkeypatch, tmp_path / str(head))
            study, copy = start(root, trials=4)
            ends: list[None] = []

            def die(event: dict[str, Any], copy: StudyCopy = copy, ends: list[None] = ends) -> None:
                if event["event"] == "end":
                    ends.append(None)
                    if len(ends) == 2:
                        if lost == "journal":
                            length = copy._latest.log_bytes
                            copy.record.log.put((copy.folder / LOG).read_bytes()[:length])
                        raise Died
                    copy.record.upload(copy._latest, copy._lease.renew)  # this one is uploaded

            study.observers[:] = [lambda event, copy=copy: copy._look(), die]
            with pytest.raises(Died):
                search_locally(study, TOY)
            copy.give_back()  # has the effect of an expired lease
            study.close()
    new = machine(monkeypatch, tmp_path / "last")
    finish(new, trials=4)
    assert [e for e in told(new) if "repeat" not in e] == [
        e for e in told(plain) if "repeat" not in e
    ]
    assert not [e for e in told(new) if told(new).count(e) > 1]


def test_two_histories_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = machine(monkeypatch, tmp_path / "a")
    finish(old, trials=1)
    new = machine(monkeypatch, tmp_path / "b")
    finish(new, trials=2)
    EventLog(old / "toy" / LOG).append("finish", state="INTERRUPTED")  # exists nowhere else
    with pytest.raises(
        UserError,
        match=f"'toy' has diverged: {old}/toy and s3://studies/runs/toy have each continued alone",
    ):
        pull(old)
    shutil.rmtree(old / "toy")
    pull(old)
    assert (old / "toy" / LOG).read_bytes() == (new / "toy" / LOG).read_bytes()
    (old / "toy" / LOG).open("a").write('{"torn')  # a kill tore it, and the copy is ahead
    finish(new, trials=3)
    pull(old)
    assert (old / "toy" / JOURNAL).read_bytes() == (new / "toy" / JOURNAL).read_bytes()


@pytest.mark.heavy
def test_a_copy_that_fails_holds_nothing_up_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str, store: Any
) -> None:
    monkeypatch.setattr(study_sync, "_RETRY_S", 0.05)
    root, said = machine(monkeypatch, tmp_path), []
    study, copy = start(root)
    copy.tell = said.append
    with socket.socket() as hung:
        hung.bind(("127.0.0.1", 0))
        hung.listen(50)  # connections are accepted but never answered
        monkeypatch.setitem(client._PATIENCE, "read_timeout", 0.2)
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*hung.getsockname()))
        forget(monkeypatch)
        began = time.monotonic()
        search_locally(study, TOY)
        took = time.monotonic() - began
        assert not copy.close(2.0)
        assert study.finished() == 3
        assert copy.known() < (root / "toy" / LOG).stat().st_size
        print(f"{took:.1f} s with a store that hangs")
    assert len(said) == 1
    assert said[0].startswith("object storage fails (")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    forget(monkeypatch)
    assert copy.close(30)
    assert said[1:] == ["object storage works again, and has everything"]
    assert (
        store.get_object(Bucket=BUCKET, Key="runs/toy/events.jsonl")["Body"].read()
        == (root / "toy" / LOG).read_bytes()
    )
    study.close()


def test_the_copy_of_an_ended_trial_is_finished_at_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Any
) -> None:
    upload_ended = study_sync.upload_ended
    tries: list[str] = []

    def fail_once(folder: Path, state: str) -> None:
        tries.append(folder.name)
        if len(tries) == 1:
            raise s3.Unreachable("no answer")
        upload_ended(folder, state)

    monkeypatch.setattr(study_sync, "_RETRY_S", 0.05)
    monkeypatch.setattr(study_sync, "upload_ended", fail_once)
    finish(machine(monkeypatch, tmp_path), trials=1)
    assert tries[:2] == ["0000", "0000"]
    assert "runs/toy/trials/0000/config.json" in keys(store)
    assert not any(key.endswith(LAST) for key in keys(store))


def test_a_driver_that_another_one_has_replaced_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_sync, "RENEW_S", 0.0)
    reasons: list[str] = []
    study, copy = start(machine(monkeypatch, tmp_path / "a"), stop=reasons.append)
    s3.put(copy.folder / "lease", json.dumps({"host": "other", "id": "x"}).encode())
    copy._uploader.wake()
    assert copy._uploader.join(20)
    assert reasons == ["another machine has taken this study over"]
    assert not copy.close(1)
    found = s3.get(copy.folder / "lease")
    assert found is not None
    assert json.loads(found.body)["host"] == "other"
    study.close()


def test_two_machines_that_say_something_of_a_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second machine then has the first one's log, and writes its own event again."""
    roots = [machine(monkeypatch, tmp_path / name) for name in "ab"]
    a = Group.open(roots[0] / "both", "toy", "val/top1", [])
    study_sync.copy_group_log(a.folder)
    with pytest.raises(UserError, match="'both' was continued elsewhere just now"):
        study_sync.copy_group_log(Group.open(roots[1] / "both", "toy", "val/top1", []).folder)
    b = Group.at(roots[1] / "both")
    assert b.id == a.id
    a.emit("finish", state="FINISHED")
    study_sync.copy_group_log(a.folder)
    b.emit("summary", metrics={}, tags={})
    with pytest.raises(UserError, match="'both' was continued elsewhere just now"):
        study_sync.copy_group_log(b.folder)
    b.emit("summary", metrics={}, tags={})
    study_sync.copy_group_log(b.folder)
    pull(roots[0])
    assert [e["event"] for e in EventLog.read(a.folder / LOG)[0]] == ["study", "finish", "summary"]


# -- trials


def trial(root: Path, reports: list[int], until: int = 99, **config: Any) -> Any:
    """Run trial 0 in this process, as on a machine that has no study. It is told to stop after
    epoch `until`."""
    from tune.study.work import Work, WorkId

    work = Work(WorkId(0), 0, {**manifest().base, **config}, str(root / "toy" / "trials" / "0000"))

    def report(epoch: int, metrics: Any) -> bool:
        reports.append(epoch)
        if epoch == until:
            deadline = time.monotonic() + 20
            while _epochs(work) < epoch:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        return epoch < until

    return run(TOY, work, LocalRuntime(Path(work.directory), report))


def _epochs(work: Any) -> int:
    """Number of epochs in the checkpoint in the store."""
    content = s3.get(Path(work.directory) / LAST)
    if content is None:
        return 0
    scratch = Path(work.directory).parent / "seen.pt"
    scratch.write_bytes(content.body)
    saved = load_checkpoint(scratch)
    assert saved is not None
    return len(saved["history"])


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_sync, "_EVERY_S", 0.0)
    monkeypatch.setattr(trial_sync, "_POLL_S", 0.01)


@pytest.mark.usefixtures("eager")
def test_a_trial_goes_on_on_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Any
) -> None:
    whole: list[int] = []
    plain = trial(tmp_path / "plain", whole)
    first, second = [], []
    a, b = machine(monkeypatch, tmp_path / "a"), machine(monkeypatch, tmp_path / "b")
    trial(a, first, until=2)
    assert not (a / "toy" / "trials" / "0000").exists()  # a worker's disk keeps nothing
    outcome = trial(b, second)
    assert (first, second) == ([1, 2], [1, 2, 3, 4])  # the record may lack some, so all are resent
    assert (outcome.value, outcome.metrics) == (plain.value, plain.metrics)
    head = machine(monkeypatch, tmp_path / "head") / "toy" / "trials" / "0000"
    s3.present_in(head)
    assert (head / BEST).read_bytes() == (
        tmp_path / "plain" / "toy" / "trials" / "0000" / BEST
    ).read_bytes()


@pytest.mark.usefixtures("eager")
def test_another_configuration_under_the_same_number_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = machine(monkeypatch, tmp_path / "a"), machine(monkeypatch, tmp_path / "b")
    trial(a, [], until=2)
    alone: list[int] = []
    other = trial(tmp_path / "plain", alone, **{"optim.lr": 0.5})
    reports: list[int] = []
    outcome = trial(b, reports, **{"optim.lr": 0.5})
    assert reports == alone == [1, 2, 3, 4]
    assert outcome.value == other.value


@pytest.mark.usefixtures("eager")
def test_the_checkpoint_that_was_gone_on_from_elsewhere_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = machine(monkeypatch, tmp_path / "head")
    (root / "toy").mkdir(parents=True)
    (root / "toy" / "study.json").touch()  # the head's folder stays
    folder = root / "toy" / "trials" / "0000"
    trial(root, [], until=1)
    kept = (folder / LAST).read_bytes()
    trial(machine(monkeypatch, tmp_path / "b"), [], until=3)
    monkeypatch.setenv("VISTUNE_CACHE", str(tmp_path / "head"))
    with copied(folder, manifest().base, LocalRuntime(folder, lambda *_: True)) as copy:
        assert isinstance(copy, TrialCopy)
        saved = load_checkpoint(folder / LAST)
        assert saved is not None
        assert len(saved["history"]) == 3
        newer = (folder / LAST).read_bytes()
    assert newer != kept
    (folder / LAST).write_bytes(kept)  # stands in for one that is newer here than its copy
    with copied(folder, manifest().base, LocalRuntime(folder, lambda *_: True)):
        assert (folder / LAST).read_bytes() == kept


def test_a_machine_that_may_not_read_the_store_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISTUNE_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="there is no bucket 'absent'"):
        trial(s3.local_folder("s3://absent"), [])


def test_the_next_start_settles_what_a_kill_left_in_the_bucket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Any
) -> None:
    """It removes partial files and the checkpoint of a trial that has ended, and uploads the best
    weights that are missing."""
    root = machine(monkeypatch, tmp_path)
    study = finish(root)
    whole = keys(store)
    ended = WorkId(0).folder(study.directory)
    s3.delete(ended / BEST)
    for name in (LAST, HISTORY, "best.pt.0a1b2c3d.partial", "best.pt.tmp"):
        s3.put(ended / name, b"left by a kill")

    finish(root)

    assert keys(store) == whole
    assert s3.download(ended / BEST) is not None


def test_no_temporary_file_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Any
) -> None:
    folder = machine(monkeypatch, tmp_path) / "toy/model"
    folder.mkdir(parents=True)
    for name in ("weights.pt", "weights.pt.0a1b2c3d.partial", "weights.pt.tmp"):
        (folder / name).write_text("content")

    s3.copy(folder)

    assert keys(store) == {"runs/toy/model/weights.pt"}
    assert [path.name for path in files_to_upload(folder)] == ["weights.pt"]


def copy_within(store: Any, study: str, name: str) -> None:
    """Copy a study to another name in its bucket, as `aws s3 sync` does."""
    for key in keys(store):
        if key.startswith(f"runs/{study}/"):
            there = key.replace(f"runs/{study}/", f"runs/{name}/")
            source = {"Bucket": BUCKET, "Key": key}
            store.copy_object(Bucket=BUCKET, Key=there, CopySource=source)


def continued(root: Path, name: str, trials: int) -> Study:
    """Resume a study as its command does."""
    pull(root)
    with study_sync.opened(root / name, print, no_stop) as copy:
        assert copy is not None
        study = Study.open(root / name, TOY, manifest(name=name), trials=trials, repeats=1)
        copy.start()
    study.observers.append(copy.on_event)
    search_locally(study, TOY)
    assert copy.close(30)
    study.close()
    return study


def identity(root: Path, name: str) -> str:
    return study_id(EventLog.read(root / name / LOG, 0, limit=1)[0][0])


def test_a_study_that_was_copied_in_its_bucket_is_one_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Any
) -> None:
    """Every machine gives it the same identity, whether it had seen the copy before or not."""
    finish(machine(monkeypatch, tmp_path / "a"))
    copy_within(store, "toy", "twin")
    seen_before = machine(monkeypatch, tmp_path / "b")
    pull(seen_before)
    with pytest.raises(UserError, match="run its command with --study twin once"):
        sync_study(seen_before / "twin")

    a = machine(monkeypatch, tmp_path / "a")
    twin = continued(a, "twin", 4)
    assert twin.notes == ["a copy of study toy: from now on a study of its own, also in MLflow"]
    assert identity(a, "twin") != identity(a, "toy")

    for home in ("b", "c"):
        other = machine(monkeypatch, tmp_path / home)
        assert continued(other, "twin", 5).notes == []
        assert identity(other, "twin") == identity(a, "twin")
        assert identity(other, "toy") == identity(a, "toy")
    assert continued(machine(monkeypatch, tmp_path / "a"), "toy", 3).notes == []


def test_a_copy_whose_first_upload_was_cut_short_has_one_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Any
) -> None:
    """The head is lost between uploading the record and the manifest."""
    finish(machine(monkeypatch, tmp_path / "a"))
    copy_within(store, "toy", "twin")
    a = machine(monkeypatch, tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setattr(StudyCopy, "_update_manifest", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            continued(a, "twin", 4)

    b = machine(monkeypatch, tmp_path / "b")
    continued(b, "twin", 4)
    assert identity(b, "twin") == identity(a, "twin")
