"""The MLflow projection, against a real MLflow store that is read through SQL: it has what the log
has, once, whatever happened."""

import contextlib
import json
import math
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.event_logs import begin, end, report, start, study_of
from tests.mlflow_store import begin_store, reported, rows, store
from trainables.errors import UserError
from tune.study.events import EventLog
from tune.study.identity import study_id
from tune.tracking.address import default_uri, without_password
from tune.tracking.mlflow_names import mlflow_key
from tune.tracking.projection import Projection
from tune.tracking.tracker import Tracker, saved_state


@pytest.fixture(autouse=True)
def _no_foreign_store(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def storage(tmp_path):
    storage = tmp_path / "my runs"  # the blank in the path must not matter
    begin_store(storage)
    return storage


def assert_equals_log(storage, log):
    runs = store(storage)
    wanted = reported(log)
    assert set(runs) == {"ssl-1", *wanted}
    for name, metrics in wanted.items():
        derived = ("best/", "log10/", "test/")  # not from reports
        assert [
            row for row in runs[name]["metrics"] if not row[0].startswith(derived)
        ] == metrics, name
        steps = [row[:2] for row in runs[name]["metrics"]]
        assert len(steps) == len(set(steps)), f"{name} has a step twice"
        running, best = -math.inf, []
        for _, step, value, t, _ in sorted(row for row in metrics if row[0] == "val/knn_top1"):
            if value > running:
                running = value
                best.append(("best/val/knn_top1", step, value, t, 0))
        assert [row for row in runs[name]["metrics"] if row[0].startswith("best/")] == best
    return runs


@pytest.mark.heavy
def test_a_study_waits_for_the_run_of_its_group(storage):
    """Both trackers begin at the end of a short search, the group's perhaps later."""
    group = begin(storage, "both", kind="group")
    about = {"name": "both", "id": study_id(EventLog.read(group.path)[0][0])}
    log = begin(storage, group=about)
    start(log, 0)
    report(log, 0, 1, 0.2)
    early, late = (Tracker(each.path.parent) for each in (log, group))
    early.start()
    while not rows(storage / "mlflow.db", "select * from experiments where name = 'ssl'"):
        time.sleep(0.05)
    time.sleep(0.5)  # it has looked for the group
    assert early.problem is None
    late.start()
    assert late.close()
    assert early.close()
    assert store(storage)["ssl-1"]["parent"] == "both"


def test_replay_equals_the_log(storage):
    log = study_of(storage)
    start(log, 4, lr=0.01)
    report(log, 4, 1, 0.2)
    end(
        log,
        4,
        state="FAIL",
        reason="nan",
        error="Traceback (most recent call last):\n  File\nValueError: loss is nan\n",
    )
    log.append("finish", state="FINISHED")
    message = Tracker(log.path.parent).sync()
    assert (
        message
        == f"ssl-1: {len(EventLog.read(log.path)[0])} events sent to sqlite:///{storage}/mlflow.db"
    )

    runs = assert_equals_log(storage, log)
    assert [runs[f"trial-{i:03d}"]["status"] for i in range(5)] == ["FINISHED"] * 4 + ["FAILED"]
    assert [runs[f"trial-{i:03d}"]["tags"]["trial.state"] for i in range(5)] == [
        "COMPLETE",
        "PRUNED",
        "COMPLETE",
        "PRUNED",
        "FAIL",
    ]
    assert all(runs[f"trial-{i:03d}"]["parent"] == "ssl-1" for i in range(5))
    parent, failed = runs["ssl-1"], runs["trial-004"]
    assert (parent["status"], parent["parent"]) == ("FINISHED", None)
    assert parent["params"] == {
        "optim.lr": "0.1",
        "optim.name": "sgd",
        "data.batch_size": "64",
        "aug.crop": "none",
    }
    expected = {
        "kind": "study",
        "objective": "val/knn_top1",
        "verdict": "tuning helps",
        "git.commit": "abc",
        "study.state": "FINISHED",
    }
    assert expected.items() <= parent["tags"].items()
    assert [row[:3] for row in parent["metrics"]] == [("baseline/knn_top1", 0, 0.11)]
    assert failed["params"] == parent["params"] | {"optim.lr": "0.01"}
    assert [row[:3] for row in failed["metrics"] if row[0].startswith("log10")] == [
        ("log10/optim.lr", 0, -2.0)
    ]
    expected = {
        "kind": "trial",
        "trial.number": "4",
        "trial.reason": "nan",
        "trial.error": "ValueError: loss is nan",
        "study": "ssl-1",
    }
    assert expected.items() <= failed["tags"].items()
    assert (
        (storage / "mlartifacts" / failed["id"] / "artifacts" / "error.txt")
        .read_text()
        .endswith("ValueError: loss is nan\n")
    )
    starts = [event["t"] for event in EventLog.read(log.path)[0] if event["event"] == "start"]
    assert [
        row[0] for row in rows(storage / "mlflow.db", "SELECT start_time FROM runs ORDER BY name")
    ][1:] == starts


def test_data_set_is_an_input_of_the_study_and_named_in_each_run(storage):
    from mlflow import MlflowClient

    log = study_of(storage, trials=1)
    Tracker(log.path.parent).sync()
    runs = store(storage)
    (data,) = MlflowClient(default_uri(storage)).get_run(runs["ssl-1"]["id"]).inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("glyphs", "f00d")
    assert json.loads(data.dataset.profile) == {"images": 1530}
    assert all(
        run["tags"]["data.name"] == "glyphs" and run["tags"]["data.fingerprint"] == "f00d"
        for run in runs.values()
    )


@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 6))]
)
def test_tracker_killed_anywhere_loses_and_doubles_nothing(storage, seed, monkeypatch):
    """Cut the log at random places. At each, a tracker dies before, within or after its writes, and
    a new one continues."""
    import tune.tracking.replay
    import tune.tracking.tracker

    log, rng = study_of(storage, trials=3, epochs=4, seed=seed), random.Random(seed)
    lines = log.path.read_bytes().splitlines(keepends=True)
    monkeypatch.setattr(tune.tracking.replay, "CHUNK_BYTES", rng.choice([1, 600, 5000]))
    for cut in sorted(rng.sample(range(1, len(lines)), 5)):
        # leave a torn line, too
        log.path.write_bytes(b"".join(lines[:cut]) + lines[cut][: rng.randrange(len(lines[cut]))])
        fatal = rng.randrange(12)
        calls = iter(range(1000))

        def dying(
            self, run, batch, fatal=fatal, calls=calls, send=tune.tracking.tracker.MlflowRuns._send
        ):
            if next(calls) == fatal:
                raise ConnectionError("killed")
            send(self, run, batch)
            if next(calls) == fatal:
                raise ConnectionError("killed after it was written")

        with monkeypatch.context() as patch:
            patch.setattr(tune.tracking.tracker.MlflowRuns, "_send", dying)
            try:
                Tracker(log.path.parent).sync()
            except UserError as error:
                assert "killed" in str(error)  # noqa: PT017
    log.path.write_bytes(b"".join(lines))
    Tracker(log.path.parent).sync()
    runs = assert_equals_log(storage, log)
    assert {run["status"] for run in runs.values()} == {"FINISHED"}


KILLED = """
import sys, time
from pathlib import Path
from tune.tracking.tracker import Tracker
tracker = Tracker(Path(sys.argv[1]))
tracker.start()
print("started", flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_process_killed_at_random_moments(storage):
    log, rng = study_of(storage, trials=40, epochs=10), random.Random(3)
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(log.path.parent)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "started\n"
        time.sleep(rng.uniform(2, 6))
        process.kill()
        process.wait()
    Tracker(log.path.parent).sync()
    assert {run["status"] for run in assert_equals_log(storage, log).values()} == {"FINISHED"}


def test_thread_follows_a_growing_log(storage):
    log = begin(storage)
    tracker = Tracker(log.path.parent)
    tracker.start()
    start(log, 0)
    for epoch in range(1, 4):
        report(log, 0, epoch, epoch / 10)
        time.sleep(0.2)
    wait_until(lambda: store(storage).get("trial-000", {"status": ""})["status"] == "RUNNING", 20)
    end(log, 0, value=0.3)
    log.append("finish", state="FINISHED")
    assert tracker.close(20) is True
    assert {run["status"] for run in assert_equals_log(storage, log).values()} == {"FINISHED"}


def test_close_without_work_is_at_once(storage):
    tracker = Tracker(storage / "empty")
    (storage / "empty").mkdir()
    tracker.start()
    began = time.monotonic()
    assert tracker.close(20) is True
    assert time.monotonic() - began < 1


def test_interrupted_study_is_killed_and_comes_back(storage):
    log = begin(storage)
    for trial in (0, 1):
        start(log, trial)
        report(log, trial, 1, 0.1)
    end(log, 0)
    log.append("finish", state="INTERRUPTED")
    Tracker(log.path.parent).sync()
    runs = store(storage)
    assert [runs[name]["status"] for name in ("ssl-1", "trial-000", "trial-001")] == [
        "KILLED",
        "FINISHED",
        "KILLED",
    ]
    assert runs["trial-001"]["tags"]["trial.state"] == "INTERRUPTED"

    begin(storage)
    start(log, 1, attempt=2, resumed_epoch=1)
    Tracker(log.path.parent).sync()
    runs = store(storage)
    assert [runs[name]["status"] for name in ("ssl-1", "trial-000", "trial-001")] == [
        "RUNNING",
        "FINISHED",
        "RUNNING",
    ]
    assert runs["trial-001"]["tags"]["trial.resumed_epoch"] == "1"
    report(log, 1, 1, 0.1)  # the checkpoint's epoch again
    report(log, 1, 2, 0.3)
    end(log, 1, value=0.3, metrics={"best/val/knn_top1": 0.3})
    log.append("finish", state="FINISHED")
    Tracker(log.path.parent).sync()
    runs = assert_equals_log(storage, log)
    assert {run["status"] for run in runs.values()} == {"FINISHED"}
    assert runs["trial-001"]["tags"]["trial.state"] == "COMPLETE"


def test_repeats_are_grandchildren(storage):
    log = study_of(storage, trials=2, finish=None)
    for seed in (7, 8):
        start(log, 0, repeat=seed)
        report(log, 0, 1, seed / 10, repeat=seed)
        end(log, 0, repeat=seed, metrics={"test/knn_top1": seed / 100})
    log.append("finish", state="FINISHED")
    Tracker(log.path.parent).sync()
    runs = assert_equals_log(storage, log)
    assert sorted(name for name, run in runs.items() if run["parent"] == "ssl-1") == [
        "trial-000",
        "trial-001",
    ]
    assert sorted(name for name, run in runs.items() if run["parent"] == "trial-000") == [
        "trial-000-seed-7",
        "trial-000-seed-8",
    ]
    assert runs["trial-000-seed-7"]["tags"]["kind"] == "repeat"
    assert [
        row[:3] for row in runs["trial-000-seed-8"]["metrics"] if row[0] == "test/knn_top1"
    ] == [("test/knn_top1", 1, 0.08)]
    assert {run["status"] for run in runs.values()} == {"FINISHED"}


def test_not_a_number_and_infinity(storage):
    log = begin(storage)
    start(log, 0)
    log.append(
        "report",
        trial=0,
        epoch=1,
        metrics={"val/knn_top1": math.nan, "train/loss": math.inf, "gone": None},
    )
    report(log, 0, 2, 0.5)
    Tracker(log.path.parent).sync()
    metrics = {
        (key, step): (value, is_nan)
        for key, step, value, _, is_nan in store(storage)["trial-000"]["metrics"]
    }
    assert metrics["val/knn_top1", 1][1] == 1
    assert metrics["train/loss", 1][0] == sys.float_info.max
    assert metrics["best/val/knn_top1", 2] == (0.5, 0)
    assert ("best/val/knn_top1", 1) not in metrics


def test_minimised_objective(storage):
    log = begin(storage, objective="val/loss", direction="minimize")
    start(log, 0)
    for epoch, value in enumerate([0.5, 0.7, 0.2], 1):
        log.append("report", trial=0, epoch=epoch, metrics={"val/loss": value})
    Tracker(log.path.parent).sync()
    assert [
        row[1:3] for row in store(storage)["trial-000"]["metrics"] if row[0] == "best/val/loss"
    ] == [(1, 0.5), (3, 0.2)]


def test_limits_are_split_and_cut(storage):
    """Send more than MLflow takes in one call (1000 metrics, 100 params, 100 tags, 1 MB), and
    values longer than it keeps."""
    config = {f"block.{i}": "x" * 5000 for i in range(250)} | {"long": "y" * 9000}
    log = begin(storage, config=config, tags={f"tag.{i}": "z" * 9000 for i in range(150)})
    log.append("start", trial=0, config=config, attempt=1, resumed_epoch=None)
    log.append("report", trial=0, epoch=1, metrics={f"m/{i}": float(i) for i in range(2500)})
    log.append("report", trial=0, epoch=2, metrics={"k" * 400: 1.0})
    Tracker(log.path.parent).sync()
    trial = store(storage)["trial-000"]
    assert len(trial["params"]) == 251
    assert trial["params"]["block.7"] == "x" * 5000
    assert trial["params"]["long"] == "y" * 6000
    assert trial["tags"]["tag.149"] == "z" * 8000
    assert sorted(row[2] for row in trial["metrics"] if row[1] == 1) == [
        float(i) for i in range(2500)
    ]
    assert [len(row[0]) for row in trial["metrics"] if row[1] == 2] == [250]
    assert not (log.path.parent / "tracking-rejected.jsonl").exists()


@pytest.mark.parametrize(
    "name",
    [
        "a[0]",
        "top@1",
        "/val/x",
        "a//b",
        "../x",
        "a/../b",
        "./a",
        "ü/ä",
        "%",
        "a b:c",
        ".",
        "..",
        "x" * 300,
        "a/",
    ],
)
def test_keys_are_such_as_mlflow_takes(name):
    from mlflow.utils.validation import _validate_metric_name

    key = mlflow_key(name)
    _validate_metric_name(key)
    assert 0 < len(key) <= 250
    assert mlflow_key(key) == key


def test_refused_records_are_set_aside_and_the_rest_goes_on(storage):
    log = begin(storage)
    start(log, 0, lr=0.1)
    start(log, 0, lr=0.2, attempt=2)  # MLflow cannot change a param
    report(log, 0, 1, 0.4)
    log.append("artifact", trial=0, path="trials/0000/missing.png", to="plots")
    (log.path.parent / "plot.png").write_bytes(b"png")
    log.append("artifact", trial=None, path="plot.png", to="plots")
    end(log, 0)
    for _ in range(2):
        Tracker(log.path.parent).sync()
        runs = assert_equals_log(storage, log)
        log.append("summary", metrics={}, tags={})
    message = Tracker(log.path.parent).sync()
    refused = [
        json.loads(line)
        for line in (log.path.parent / "tracking-rejected.jsonl").read_text().splitlines()
    ]
    assert sorted((line["run"], line["kind"], line["name"]) for line in refused) == [
        ("trial-000", "artifact", "trials/0000/missing.png")
    ]
    assert "1 records refused, see" in message
    # both starts came in one chunk, so the later one counts
    assert runs["trial-000"]["params"]["optim.lr"] == "0.2"
    start(log, 0, lr=0.3, attempt=3)
    Tracker(log.path.parent).sync()
    refused = [
        json.loads(line)
        for line in (log.path.parent / "tracking-rejected.jsonl").read_text().splitlines()
    ]
    assert (refused[-1]["kind"], refused[-1]["name"], refused[-1]["value"]) == (
        "param",
        "optim.lr",
        "0.3",
    )
    assert "Changing param values is not allowed" in refused[-1]["reason"]
    assert "refused by MLflow" in store(storage)["ssl-1"]["tags"]["tracking.rejected"]
    assert (
        storage / "mlartifacts" / runs["ssl-1"]["id"] / "artifacts" / "plots" / "plot.png"
    ).read_bytes() == b"png"


def test_artifact_location_that_refuses_keeps_the_numbers(storage):
    """A server made the experiment, so it takes no files from a client that writes directly to the
    database."""
    from mlflow import MlflowClient

    MlflowClient(default_uri(storage)).create_experiment(
        "ssl", artifact_location="mlflow-artifacts:/9"
    )
    log = study_of(storage, trials=2, finish=None)
    (log.path.parent / "plot.png").write_bytes(b"png")
    log.append("artifact", trial=0, path="plot.png", to="plots")
    Tracker(log.path.parent).sync()
    assert_equals_log(storage, log)
    refused = (log.path.parent / "tracking-rejected.jsonl").read_text()
    assert "plot.png" in refused
    assert "tracking URI must be a valid http" in refused


def test_a_file_whose_upload_was_killed_leaves_nothing_else(storage):
    """MLflow writes a temporary file, which it never removes after a kill."""
    log = study_of(storage, trials=2, finish=None)
    Tracker(log.path.parent).sync()
    place = storage / "mlartifacts" / store(storage)["trial-000"]["id"] / "artifacts/plots"
    place.mkdir(parents=True)
    (place / ".artifact.uploading._no31wal").write_bytes(b"pn")

    (log.path.parent / "plot.png").write_bytes(b"png")
    log.append("artifact", trial=0, path="plot.png", to="plots")
    Tracker(log.path.parent).sync()
    assert_equals_log(storage, log)
    assert [path.name for path in place.iterdir()] == ["plot.png"]


def test_deleted_database_is_filled_again(storage):
    log = study_of(storage, trials=2, finish=None)
    tracker = Tracker(log.path.parent)
    tracker.start()
    wait_until(lambda: "trial-001" in store(storage), 20)
    (storage / "mlflow.db").unlink()
    begin_store(storage)
    wait_until(lambda: "trial-001" in store(storage), 30)  # although there are no new events
    log.append("finish", state="FINISHED")
    wait_until(lambda: store(storage)["ssl-1"]["status"] == "FINISHED", 60)
    assert tracker.close(20) is True
    assert_equals_log(storage, log)

    (storage / "mlflow.db").unlink()
    begin_store(storage)
    Tracker(log.path.parent).sync()
    assert_equals_log(storage, log)


def test_database_restored_from_an_older_copy_is_completed(storage):
    log = study_of(storage, trials=2, finish=None)
    Tracker(log.path.parent).sync()
    shutil.copy(storage / "mlflow.db", storage / "copy.db")
    report(log, 1, 6, 0.9)
    Tracker(log.path.parent).sync()
    (storage / "copy.db").replace(storage / "mlflow.db")
    Tracker(log.path.parent).sync()
    assert_equals_log(storage, log)


def test_a_log_that_lost_a_line_is_sent_from_the_beginning(storage):
    """MLflow's offset belongs to a log that no longer exists, and no event begins there."""
    log = study_of(storage)
    Tracker(log.path.parent).sync()
    lines = log.path.read_bytes().splitlines(keepends=True)
    log.close()
    log.path.write_bytes(b"".join(lines[:3] + lines[4:]))
    again = EventLog(log.path)
    start(again, 9)
    report(again, 9, 1, 0.75)
    Tracker(log.path.parent).sync()
    runs = store(storage)
    assert ("val/knn_top1", 1, 0.75) in [row[:3] for row in runs["trial-009"]["metrics"]]
    assert len(runs) == 6


def test_runs_and_experiments_deleted_in_the_ui(storage):
    from mlflow import MlflowClient

    log = study_of(storage, trials=2, finish=None)
    Tracker(log.path.parent).sync()
    client = MlflowClient(default_uri(storage))
    client.delete_run(store(storage)["trial-000"]["id"])
    report(log, 0, 6, 0.9)
    Tracker(log.path.parent).sync()
    client.delete_experiment(client.get_experiment_by_name("ssl").experiment_id)
    report(log, 0, 7, 0.95)
    Tracker(log.path.parent).sync()
    assert_equals_log(storage, log)


def test_run_that_was_deleted_for_good_is_written_again(storage):
    """`mlflow gc` leaves nothing of a deleted run."""
    log = study_of(storage, trials=2, finish=None)
    Tracker(log.path.parent).sync()
    gone = store(storage)["trial-000"]["id"]
    with sqlite3.connect(storage / "mlflow.db") as connection:
        for table in ("metrics", "latest_metrics", "params", "tags", "runs"):
            connection.execute(f"DELETE FROM {table} WHERE run_uuid = '{gone}'")
    Tracker(log.path.parent).sync()
    assert_equals_log(storage, log)


def test_new_study_under_an_old_name_does_not_mix(storage):
    log = study_of(storage, trials=1)
    Tracker(log.path.parent).sync()
    shutil.rmtree(log.path.parent)
    time.sleep(0.002)  # the time of the first event distinguishes the two
    log = study_of(storage, trials=1, seed=9)
    Tracker(log.path.parent).sync()
    assert [
        row[0] for row in rows(storage / "mlflow.db", "SELECT count(*) FROM runs GROUP BY name")
    ] == [2, 2]
    assert (
        len(rows(storage / "mlflow.db", "SELECT DISTINCT value FROM tags WHERE key = 'study.id'"))
        == 2
    )


def test_run_whose_creation_got_lost_is_found_and_doubles_are_removed(storage):
    from mlflow import MlflowClient

    log = study_of(storage, trials=2)
    Tracker(log.path.parent).sync()
    client = MlflowClient(default_uri(storage))
    trial = client.get_run(store(storage)["trial-000"]["id"])
    client.create_run(
        trial.info.experiment_id, trial.info.start_time + 1, dict(trial.data.tags), "trial-000"
    )
    (log.path.parent / "tracking.json").unlink()
    Tracker(log.path.parent).sync()
    assert_equals_log(storage, log)


def test_second_tracker_of_a_study_stands_back(storage):
    log = begin(storage)
    tracker = Tracker(log.path.parent)
    tracker.start()
    wait_until(lambda: "ssl-1" in store(storage), 20)
    with pytest.raises(UserError, match="being sent to MLflow by its own run"):
        Tracker(log.path.parent).sync()
    assert tracker.close(20)
    assert Tracker(log.path.parent).sync().startswith("ssl-1: 0 events sent")


def test_another_store_gets_everything_from_the_beginning(storage, tmp_path, monkeypatch):
    log = study_of(storage, trials=2)
    Tracker(log.path.parent).sync()
    other = tmp_path / "other"
    begin_store(other)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{other}/mlflow.db")
    Tracker(log.path.parent).sync()
    assert_equals_log(other, log)
    states = json.loads((log.path.parent / "tracking.json").read_text())
    assert set(states) == {f"sqlite:///{storage}/mlflow.db", f"sqlite:///{other}/mlflow.db"}
    assert (
        saved_state(log.path.parent, f"sqlite:///{other}/mlflow.db")["offset"]
        == log.path.stat().st_size
    )


def test_an_edited_note_of_how_far_it_came_is_none(storage):
    from mlflow import MlflowClient

    log = study_of(storage, trials=2)
    Tracker(log.path.parent).sync()
    for note in ("5", "[1]", json.dumps({default_uri(storage): 5})):
        (log.path.parent / "tracking.json").write_text(note)
        assert saved_state(log.path.parent, default_uri(storage)) == {}
        assert Tracker(log.path.parent).sync().startswith("ssl-1: 0 events sent")
    for offset in ("-3", "1e9", "half", str(10**30)):
        run = store(storage)["ssl-1"]["id"]
        MlflowClient(default_uri(storage)).set_tag(run, "tracking.offset", offset)
        Tracker(log.path.parent).sync()
        assert_equals_log(storage, log)


def test_password_is_neither_stored_nor_shown(storage):
    assert without_password("https://me:secret@host:5000/x") == "https://host:5000/x"
    assert without_password("sqlite:////a/b@c.db") == "sqlite:////a/b@c.db"
    log = study_of(storage, trials=1)
    with pytest.raises(UserError) as error:
        Tracker(log.path.parent, "http://me:secret@127.0.0.1:9").sync()
    assert "secret" not in str(error.value)


def test_what_may_be_lost_is_not_told(storage):
    log = study_of(storage, trials=1)
    known = log.path.stat().st_size
    tracker = Tracker(storage / "ssl-1")
    tracker.known = lambda: known
    start(log, 7)
    tracker.sync()
    assert "trial-007" not in store(storage)
    assert saved_state(storage / "ssl-1", default_uri(storage))["offset"] == known
    tracker.start()
    assert not tracker.close(5)  # MLflow lacks something
    tracker.known = lambda: math.inf
    tracker.sync()
    assert "trial-007" in store(storage)


def test_a_storage_that_was_moved_takes_its_artifacts_along(storage, tmp_path):
    log = study_of(storage, trials=1)
    Tracker(storage / "ssl-1").sync()
    moved = tmp_path / "elsewhere"
    storage.rename(moved)
    log = EventLog(moved / "ssl-1" / "events.jsonl")
    start(log, 1)
    end(log, 1, "FAIL", error="ValueError: loss is nan")
    Tracker(moved / "ssl-1").sync()
    failed = store(moved)["trial-001"]
    assert (moved / "mlartifacts" / failed["id"] / "artifacts" / "error.txt").exists()
    assert not storage.exists()
    uris = {uri for (uri,) in rows(moved / "mlflow.db", "SELECT artifact_uri FROM runs")}
    assert all(uri.startswith((moved / "mlartifacts").as_uri()) for uri in uris)


def test_a_storage_that_was_moved_takes_its_registry_along(storage, tmp_path):
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    study_of(storage, trials=1)
    Tracker(storage / "ssl-1").sync()
    client = MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    run = client.search_runs([client.get_experiment_by_name("ssl").experiment_id])[0]
    model = client.create_logged_model(
        run.info.experiment_id, name="model", source_run_id=run.info.run_id
    )
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "MLmodel").write_text("flavors: {}\n")
    client.log_model_artifacts(model.model_id, str(tmp_path / "weights"))
    client.create_registered_model("ssl-1")
    made = client.create_model_version(
        "ssl-1", model.artifact_location, run.info.run_id, model_id=model.model_id
    )
    client.set_registered_model_alias("ssl-1", "champion", made.version)
    # there may be another model, with files elsewhere in a folder of a similar name
    elsewhere = (tmp_path / "my runs" / "mlartifacts-2" / "m").as_uri()
    client.create_model_version("ssl-1", elsewhere)

    moved = tmp_path / "elsewhere"
    storage.rename(moved)
    log = EventLog(moved / "ssl-1" / "events.jsonl")
    start(log, 1)
    Tracker(moved / "ssl-1").sync()
    uri = f"sqlite:///{moved / 'mlflow.db'}"
    client = MlflowClient(uri)
    version = client.get_model_version_by_alias("ssl-1", "champion").version
    for found in (
        client.get_model_version_download_uri("ssl-1", version),
        client.get_logged_model(model.model_id).artifact_location,
    ):
        arrived = download_artifacts(f"{found}/MLmodel", tracking_uri=uri)
        assert Path(arrived).read_text() == "flavors: {}\n"
    assert client.get_model_version("ssl-1", "2").source == elsewhere


def test_sync_of_no_study(storage):
    with pytest.raises(UserError, match=r"is not a study: it has no events\.jsonl"):
        Tracker(storage / "nothing").sync()


def wait_until(condition, seconds):
    limit = time.monotonic() + seconds
    while True:
        # A reader may hit the moment when a database is deleted.
        with contextlib.suppress(sqlite3.OperationalError):
            if condition():
                return
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.05)


def close_within(tracker, seconds):
    began = time.monotonic()
    assert tracker.close(60) is False
    assert time.monotonic() - began < seconds
    assert tracker.problem
    wait_until(lambda: not tracker._thread.is_alive(), 30)


@pytest.mark.heavy
def test_locked_database_holds_nobody_up(storage):
    connection = sqlite3.connect(storage / "mlflow.db", isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    began = time.monotonic()
    tracker = Tracker(storage / "ssl-1")
    tracker.start()
    log = study_of(storage)
    assert time.monotonic() - began < 5
    wait_until(lambda: tracker.problem is not None, 10)
    assert "database is locked" in tracker.problem
    close_within(tracker, 5)
    with pytest.raises(
        UserError,
        match=(
            r"cannot take study 'ssl-1' \(OperationalError: database is locked\): .*report\.py sync"
        ),
    ):
        Tracker(log.path.parent).sync()
    connection.execute("ROLLBACK")
    connection.close()
    Tracker(log.path.parent).sync()
    assert_equals_log(storage, log)


def test_database_locked_in_mid_study_is_bounded(storage):
    log = study_of(storage, trials=1, finish=None)
    tracker = Tracker(log.path.parent)
    tracker.start()
    wait_until(lambda: "trial-000" in store(storage), 20)
    connection = sqlite3.connect(storage / "mlflow.db", isolation_level=None, timeout=20)
    connection.execute("BEGIN EXCLUSIVE")
    report(log, 0, 6, 0.5)
    time.sleep(0.5)
    began = time.monotonic()
    assert tracker.close(60) is False
    assert time.monotonic() - began < 5
    connection.execute("ROLLBACK")
    connection.close()
    wait_until(lambda: not tracker._thread.is_alive(), 30)
    Tracker(log.path.parent).sync()
    assert_equals_log(storage, log)


def test_dead_server_throughout_then_sync(storage):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tracker = Tracker(storage / "ssl-1", f"http://127.0.0.1:{port}")
    tracker.start()
    log = study_of(storage)
    wait_until(lambda: tracker.problem is not None, 10)
    close_within(tracker, 3)
    assert "refused" in tracker.problem
    Tracker(log.path.parent).sync()
    assert_equals_log(storage, log)


@pytest.mark.heavy
def test_hung_server_is_bounded_and_said(storage):
    """A socket that accepts and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(50)
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        tracker = Tracker(storage / "ssl-1", uri)
        tracker.start()
        log = study_of(storage)
        wait_until(lambda: tracker.problem is not None, 10)
        close_within(tracker, 5)
        began = time.monotonic()
        with pytest.raises(
            UserError, match=f"MLflow at {uri} cannot take study 'ssl-1' .*timed out"
        ):
            Tracker(log.path.parent, uri).sync()
        assert time.monotonic() - began < 5


QUIET = """
import sys, time
from pathlib import Path
from tune.tracking.tracker import Tracker
print("imported", sorted({"mlflow", "ray", "pandas"} & set(sys.modules)))
tracker = Tracker(Path(sys.argv[1]))
began = time.perf_counter()
tracker.start()
print("start took less than 50 ms:", time.perf_counter() - began < 0.05)
print("up to date:", tracker.close(60))
"""


@pytest.mark.heavy
def test_new_database_without_any_noise(tmp_path):
    """MLflow creates its tables silently, the driver does not import it, and the process ends by
    itself."""
    log = study_of(tmp_path, trials=1)
    result = subprocess.run(
        [sys.executable, "-c", QUIET, str(log.path.parent)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.stdout.splitlines() == [
        "imported []",
        "start took less than 50 ms: True",
        "up to date: True",
    ]
    assert result.stderr == ""
    assert result.returncode == 0
    assert_equals_log(tmp_path, log)


def test_projection_of_a_long_log_takes_time_in_proportion():
    """A thousand trials must not cost more per trial than a hundred."""

    def seconds(trials):
        projection = Projection()
        study = {
            "name": "s",
            "objective": "m",
            "direction": "maximize",
            "config": {},
            "searched": [],
            "data": None,
            "tags": {},
        }
        projection.feed({"t": 0, "event": "study", **study})
        began = time.process_time()
        for trial in range(trials):
            projection.feed(
                {
                    "t": 1,
                    "event": "start",
                    "trial": trial,
                    "config": {},
                    "attempt": 1,
                    "resumed_epoch": None,
                }
            )
            for epoch in range(1, 11):
                projection.feed(
                    {
                        "t": 1,
                        "event": "report",
                        "trial": trial,
                        "epoch": epoch,
                        "metrics": {"m": 1.0, "n": 2.0},
                    }
                )
            projection.feed(
                {
                    "t": 1,
                    "event": "end",
                    "trial": trial,
                    "state": "COMPLETE",
                    "value": 1.0,
                    "metrics": {},
                }
            )
            projection.take()
        return (time.process_time() - began) / trials

    assert min(seconds(2000) for _ in range(3)) < 3 * min(seconds(200) for _ in range(3))


@pytest.fixture
def server(storage):
    """A real MLflow server on the storage's database, with its own artifacts. Yield a function that
    starts it, and its URI."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    uri = f"http://127.0.0.1:{port}"

    def begin_server():
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--backend-store-uri",
            f"sqlite:///{storage}/mlflow.db",
            "-w",
            "1",
        ]
        command += [
            "--artifacts-destination",
            str(storage / "served"),
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ]
        environment = os.environ | {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        log = (storage / "server.log").open("ab")
        processes.append(
            subprocess.Popen(
                command,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=storage,
            )
        )
        wait_until(lambda: answers(uri), 90)
        return processes[-1]

    yield begin_server, uri
    for process in processes:
        end_group(process)


def answers(uri):
    try:
        return urllib.request.urlopen(uri + "/health", timeout=2).status == 200
    except OSError:
        return False


def end_group(process):
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_real_server_killed_and_restarted(storage, server):
    """Runs, values and files all go through the server, which dies in the middle and comes back."""
    begin_server, uri = server
    process = begin_server()
    log = begin(storage)
    tracker = Tracker(log.path.parent, uri)
    tracker.start()
    (log.path.parent / "plot.png").write_bytes(b"png")
    for trial in range(6):
        start(log, trial)
        for epoch in range(1, 4):
            report(log, trial, epoch, random.random())
            time.sleep(0.15)
        if trial == 2:
            end_group(process)
            wait_until(lambda: tracker.problem is not None, 20)
        if trial == 4:
            begin_server()
        end(log, trial)
    log.append("artifact", trial=3, path="plot.png", to="plots")
    log.append("finish", state="FINISHED")
    wait_until(lambda: tracker.problem is None, 60)
    assert tracker.close(60) is True
    runs = assert_equals_log(storage, log)
    assert {run["status"] for run in runs.values()} == {"FINISHED"}
    assert [path.read_bytes() for path in (storage / "served").rglob("plot.png")] == [b"png"]
    assert not (log.path.parent / "tracking-rejected.jsonl").exists()


@pytest.mark.slow
def test_real_server_stopped_in_mid_study_is_bounded(storage, server):
    """After SIGSTOP the server holds the connection and never answers."""
    begin_server, uri = server
    process = begin_server()
    log = study_of(storage, trials=2, finish=None)
    tracker = Tracker(log.path.parent, uri)
    tracker.start()
    wait_until(lambda: "trial-001" in store(storage), 30)
    os.killpg(process.pid, signal.SIGSTOP)
    try:
        report(log, 1, 6, 0.5)
        time.sleep(1)
        began = time.monotonic()
        assert tracker.close(60) is False
        assert time.monotonic() - began < 5
    finally:
        os.killpg(process.pid, signal.SIGCONT)
    wait_until(lambda: not tracker._thread.is_alive(), 30)
    Tracker(log.path.parent, uri).sync()
    assert_equals_log(storage, log)


def test_store_that_fails_each_time_is_given_up(storage, monkeypatch):
    """An attempt that passes the first checks and then fails, again and again, does not count as a
    sign of life."""
    import tune.tracking.tracker

    def broken(self, name):
        raise ValueError("broken\nfor good")

    monkeypatch.setattr(tune.tracking.tracker.MlflowRuns, "_find_experiment", broken)
    log = study_of(storage, trials=1)
    tracker = Tracker(log.path.parent)
    tracker.start()
    close_within(tracker, 6)
    assert tracker.problem == "ValueError: broken"
