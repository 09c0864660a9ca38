"""A worker hangs, and MLflow's server stops in the middle: the study ends, with nothing lost and nothing twice.

Elsewhere: processes of trials and full disks (tests/test_ray.py), workers of one trial (tests/test_train_runtime.py), driver and MLflow on
one machine at random moments (tests/test_kills.py), a worker's machine (tests/test_cluster_lab.py)."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState

from tests.test_kills import REPO, Command, check_mlflow, check_study, wait_until
from tests.test_ray import of_trial, run
from tests.toy import TOY
from tune.search import start_ray

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

TRIALS = 4


def wait_for_reports(command: Command, count: int) -> None:
    wait_until(lambda: len(command.events("report")) >= count, 400)


def test_a_hung_worker_is_timed_out_and_its_trial_goes_on(tmp_path: Path) -> None:
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(REPO))
        patch.setenv("VISTUNE_HANG_MINUTES", "0.1")
        patch.setenv("VISTUNE_TEST_MARKER", str(tmp_path / "hung once"))
        assert start_ray(cpus=2)
        try:
            study = run(tmp_path / "toy", TOY, 3, {"train.epochs": 6, "fault": "hang"})
        finally:
            ray.shutdown()
    hung = [n for n in range(3) if len(of_trial(study, n, "start")) > 1]
    assert len(hung) == 1
    assert "in check" in (tmp_path / f"toy/trials/{hung[0]:04d}/hung-0.txt").read_text()
    assert {t.state for t in study.frozen_trials()} <= {TrialState.COMPLETE, TrialState.PRUNED}
    for number in range(3):
        epochs = [e["epoch"] for e in of_trial(study, number, "report")]
        assert epochs == list(range(1, len(epochs) + 1))
        assert len(of_trial(study, number, "end")) == 1


@contextlib.contextmanager
def mlflow_server(storage: Path, port: int) -> Iterator[None]:
    """As a cluster's head starts it, with the database where `check_mlflow` looks."""
    folder = storage / "server"
    environment = os.environ | {
        "VISTUNE_MLFLOW_DIR": str(folder), "VISTUNE_MLFLOW_PORT": str(port), "VISTUNE_MLFLOW_DB": f"sqlite:///{storage}/mlflow.db",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    subprocess.run(["bash", str(REPO / "cluster/mlflow-server.sh")], env=environment, check=True, timeout=300)
    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=20).close()
    try:
        yield
    finally:
        os.killpg(int((folder / "pid").read_text()), signal.SIGKILL)


def test_mlflow_is_stopped_in_the_middle_and_catches_up(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = Command(tmp_path / "runs", trials=TRIALS, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}")
    with mlflow_server(command.storage, port):
        process = command.start()
        wait_for_reports(command, 3)
    assert process.wait(600) == 0, command.output
    check_study(command, TRIALS)
    with mlflow_server(command.storage, port):
        report = [sys.executable, str(REPO / "tune/report.py"), "sync", "--storage", str(command.storage)]
        subprocess.run(report, env=command.environment, check=True, timeout=300, capture_output=True)
        check_mlflow(command, TRIALS)
