"""`--log wandb`, offline: the messages in W&B's files have what the log has."""

import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.event_logs import report, start
from tests.mlflow_store import reported
from tests.tune.tracking.test_logs import eventful
from tune.study.events import EventLog
from tune.tracking.logs import replay_into

pytest.importorskip("wandb")
pytestmark = pytest.mark.slow  # starts W&B's process, and imports it


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_API_KEY", "WANDB_PROJECT", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)


BLOCK = 32768  # bytes; LevelDB's log, after W&B's header of 7 bytes


def records(path: Path) -> list[Any]:
    """The messages in a W&B file, which is a LevelDB log."""
    from wandb.proto.wandb_internal_pb2 import Record

    content = path.read_bytes()
    assert content[:4] == b":W&B"
    found, part, at = [], b"", 7
    while at + 7 <= len(content):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        part += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole message, or its last part
            found.append(Record.FromString(part))
            part = b""
    return found


def runs(log: EventLog) -> dict[str, dict[str, Any]]:
    """Name -> config, history [(metric, step, value, ms)], summary, exit code of every run."""
    found: dict[str, dict[str, Any]] = {}
    for path in (log.path.parent / "wandb").glob("wandb/offline-run-*/*.wandb"):
        run = {"config": {}, "history": [], "summary": {}, "exit": None}
        for record in records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                assert record.run.display_name not in found, "a run is there twice"
                found[record.run.display_name] = run
                run |= {"group": record.run.run_group, "kind": record.run.job_type}
            elif kind == "config":
                run["config"] |= {i.key: json.loads(i.value_json) for i in record.config.update}
            elif kind == "summary":
                values = {i.key: i.value_json for i in record.summary.update if i.key}
                run["summary"] |= values
            elif kind == "history":
                run["history"] += history_rows(record.history)
            elif kind == "exit":
                run["exit"] = record.exit.exit_code
    return found


def history_rows(history: Any) -> list[tuple[str, int, str, int]]:
    items = {item.nested_key[0]: json.loads(item.value_json) for item in history.item}
    t = round(items["_timestamp"] * 1000)
    return [
        (name, history.step.num, repr(float(value)), t)
        for name, value in items.items()
        if not name.startswith(("_", "best/", "test/", "baseline/"))
    ]


def assert_equals_log(log: EventLog) -> dict[str, dict[str, Any]]:
    found = runs(log)
    wanted = reported(log)
    assert set(found) == {"ssl-1", *wanted}
    for name, rows in wanted.items():
        expected = [(metric, epoch, repr(float(value)), t) for metric, epoch, value, t, _ in rows]
        assert sorted(found[name]["history"]) == sorted(expected), name
    return found


def test_offline_runs_have_every_report_once(tmp_path: Path) -> None:
    log = eventful(tmp_path)
    replay_into("wandb", log.path.parent).sync()
    found = assert_equals_log(log)
    failed = found["trial-003"]
    assert failed["config"]["optim.lr"] == 0.01
    assert failed["config"]["aug.crop"] is None
    assert failed["summary"]["trial.state"] == '"FAIL"'
    assert (failed["exit"], found["trial-000"]["exit"]) == (1, 0)
    assert {run["group"] for run in found.values()} == {"ssl-1"}
    assert found["trial-000-seed-1234"]["kind"] == "repeat"
    assert replay_into("wandb", log.path.parent).sync().startswith("ssl-1: 0 events sent")


KILLED = """
import os, sys
from pathlib import Path
from tune.tracking import replay, wandb_runs
from tune.tracking.logs import replay_into

replay.CHUNK_BYTES = 600
stretches = [int(sys.argv[2])]
remember = wandb_runs.WandbStudy.remember

def dying(self, study, offset):
    stretches[0] -= 1
    if stretches[0] == 0:
        os.kill(os.getpid(), 9)
    remember(self, study, offset)

wandb_runs.WandbStudy.remember = dying
replay_into("wandb", Path(sys.argv[1])).sync()
"""


def test_process_killed_anywhere_loses_and_doubles_nothing(tmp_path: Path) -> None:
    log = eventful(tmp_path)
    own_service = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    for stretches in (1, 3, 2, 2):
        words = [sys.executable, "-c", KILLED, str(log.path.parent), str(stretches)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=own_service)
        assert done.returncode == -9, done.stderr
        assert done.stderr + done.stdout == ""
    replay_into("wandb", log.path.parent).sync()
    assert_equals_log(log)


def test_interrupted_trial_that_resumes_is_one_run(tmp_path: Path) -> None:
    log = eventful(tmp_path)
    start(log, 4)
    report(log, 4, 1, 0.1)
    log.append("finish", state="INTERRUPTED")
    replay_into("wandb", log.path.parent).sync()
    assert runs(log)["trial-004"]["exit"] == 1

    start(log, 4, attempt=2, resumed_epoch=1)
    report(log, 4, 2, math.inf)
    replay_into("wandb", log.path.parent).sync()
    assert_equals_log(log)
