"""`--log wandb`, online: a W&B server gets what the log has, once, whatever happened."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.event_logs import report, start
from tests.mlflow_store import reported
from tests.tune.tracking.test_logs import eventful
from tests.tune.tracking.test_wandb_runs import KILLED
from tests.wandb_server import Run, Server, wandb_server
from tune.study.events import EventLog
from tune.tracking.logs import replay_into

pytest.importorskip("wandb")
pytestmark = pytest.mark.slow  # starts W&B's process, and imports it


@pytest.fixture(scope="module")
def one_server() -> Iterator[Server]:
    """One server for all tests, because W&B's process keeps using the first one that it was
    given."""
    with wandb_server() as server:
        yield server


@pytest.fixture
def server(one_server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    one_server.runs.clear()
    for name in ("WANDB_PROJECT", "WANDB_ENTITY", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", one_server.address)
    monkeypatch.setenv("WANDB_API_KEY", "local-" + 40 * "0")
    return one_server


def rows(run: Run) -> list[tuple[str, int, str, int]]:
    """(metric, step, value, ms) of a run, without derived metrics."""
    return [
        (name, line["_step"], repr(float(value)), round(1000 * line["_timestamp"]))
        for line in run.history
        for name, value in line.items()
        if not name.startswith(("_", "best/", "test/", "baseline/"))
    ]


def assert_equals_log(server: Server, log: EventLog) -> dict[str, Run]:
    found = {run.name: run for run in server.runs.values()}
    wanted = reported(log)
    assert set(found) == {"ssl-1", *wanted}
    assert len(found) == len(server.runs)
    for name, values in wanted.items():
        expected = [(metric, epoch, repr(float(value)), t) for metric, epoch, value, t, _ in values]
        assert sorted(rows(found[name])) == sorted(expected), name
    return found


def test_online_runs_have_every_report_once(server: Server, tmp_path: Path) -> None:
    log = eventful(tmp_path)
    said = replay_into("wandb", log.path.parent).sync()

    assert said.endswith(f"events sent to {server.address}")
    found = assert_equals_log(server, log)
    failed = found["trial-003"]
    assert failed.config["optim.lr"] == 0.01
    assert failed.summary["trial.state"] == "FAIL"
    assert (failed.exit, found["trial-000"].exit) == (1, 0)
    assert {run.group for run in found.values()} == {"ssl-1"}
    assert found["trial-000-seed-1234"].kind == "repeat"
    assert replay_into("wandb", log.path.parent).sync().startswith("ssl-1: 0 events sent")


def test_process_killed_anywhere_loses_and_doubles_nothing(server: Server, tmp_path: Path) -> None:
    log = eventful(tmp_path)
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    for stretches in (1, 3, 2):
        words: list[Any] = [sys.executable, "-c", KILLED, log.path.parent, str(stretches)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == -9, done.stderr
    replay_into("wandb", log.path.parent).sync()
    assert_equals_log(server, log)


def test_interrupted_trial_that_resumes_is_one_run(server: Server, tmp_path: Path) -> None:
    log = eventful(tmp_path)
    start(log, 4)
    report(log, 4, 1, 0.1)
    log.append("finish", state="INTERRUPTED")
    replay_into("wandb", log.path.parent).sync()

    start(log, 4, attempt=2, resumed_epoch=1)
    report(log, 4, 2, 0.3)
    replay_into("wandb", log.path.parent).sync()
    assert_equals_log(server, log)
