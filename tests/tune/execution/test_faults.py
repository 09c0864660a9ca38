"""Failures around a study: a node, the driver, the head, a network cable, a hanging worker, MLflow.
The study, or the same command started again, must reach its end with nothing lost and nothing
twice. Every trial is replayed and must match bit for bit.

Other failures are tested elsewhere: processes of trials and full disks
(tests/tune/execution/test_ray_tune.py), workers of one trial
(tests/tune/execution/test_train_runtime.py), driver and MLflow on one machine at random moments
(tests/tune/execution/test_kills.py), a head that is lost with its disk
(tests/tune/object_store/test_head_lost.py), and a machine that loses power
(tests/cluster/test_cluster_lab.py).
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from tests import REPO
from tests.cluster.lab.hosts import SHARED, Laboratory, unavailable
from tests.kills import LONG, Command, LongCommand, check_mlflow, check_study, two_run, wait_until
from tests.studies import of_trial, run_on_ray
from tests.toy import TOY
from tune.execution.ray_session import start_ray

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

TRIALS = 4


@contextlib.contextmanager
def cluster() -> Iterator[Any]:
    """A head without processors and two nodes with one each, on this machine's loopback. Ray's
    drivers would replace 127.0.0.1."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80_000_000, "node_ip_address": "127.0.0.2"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("PYTHONPATH", str(REPO))
        made = Cluster(
            initialize_head=True, head_node_args={**node, "num_cpus": 0, "include_dashboard": False}
        )
        try:
            made.workers = [made.add_node(**node), made.add_node(**node)]
            yield made
        finally:
            made.shutdown()


def on(made: Any, storage: Path) -> Command:
    return LongCommand(storage, trials=TRIALS, RAY_ADDRESS=made.address, RAY_AUTH_MODE="disabled")


def check(command: Command) -> None:
    check_study(command, TRIALS)
    check_mlflow(command, TRIALS)


def test_a_node_is_lost(tmp_path: Path) -> None:
    with cluster() as made:
        command = on(made, tmp_path / "runs")
        process = command.start()
        wait_until(lambda: two_run(command.events()), command, process)
        made.remove_node(made.workers[0], allow_graceful=False)
        assert process.wait(600) == 0, command.output
    check(command)
    assert [e["attempt"] for e in command.events("start") if e["attempt"] > 1] == [2]


BROKEN = "127.0.0.3"


def trains_nothing_there() -> Any:
    """The toy, whose network cannot be built on one machine."""
    import ray

    from tests.toy import Toy, ToyConfig

    class Elsewhere(Toy):
        def __init__(self, config: Any, data: Any):
            super().__init__(config, data)
            if ray.util.get_node_ip_address() == BROKEN:
                raise ImportError("libcudnn.so.9: cannot open shared object file")

    return Elsewhere, ToyConfig


def test_a_machine_on_which_every_trial_fails_gets_no_more(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import ray

    with cluster() as made, pytest.MonkeyPatch.context() as patch:
        made.remove_node(made.workers[0])
        made.add_node(num_cpus=1, object_store_memory=80_000_000, node_ip_address=BROKEN)
        patch.setenv("RAY_ADDRESS", made.address)
        experiment = replace(TOY, model=trains_nothing_there)
        assert not start_ray()
        try:
            study = run_on_ray(tmp_path / "toy", experiment, 10, {"sleep_s": 0.05})
        finally:
            ray.shutdown()
    states = {trial.state for trial in study.frozen_trials()}
    assert len(study.frozen_trials()) == 10
    assert states <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert f"{BROKEN} gets no more trials of this run: the last" in capfd.readouterr().err
    assert "libcudnn" in study.state.tags["machines.left_out"]


def test_the_driver_is_lost_then_the_head(tmp_path: Path) -> None:
    with cluster() as made:
        command = on(made, tmp_path / "runs")
        for count in (2, 5):
            process = command.start()
            wait_until(lambda: len(command.events("report")) >= count, command, process)  # noqa: B023
            if count == 5:  # the driver runs on the head
                made.head_node.kill_all_processes(check_alive=False, allow_graceful=False)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
    before = len(command.events("report"))
    with cluster() as another:
        command = on(another, tmp_path / "runs")
        assert command.finish() == 0, command.output
    check(command)
    assert len(command.events("report")) > before
    assert any(e["resumed_epoch"] for e in command.events("start") if e["attempt"] > 1)


def test_a_hung_worker_is_timed_out_and_its_trial_goes_on(tmp_path: Path) -> None:
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(REPO))
        patch.setenv("VISTUNE_HANG_MINUTES", "0.1")
        patch.setenv("VISTUNE_TEST_MARKER", str(tmp_path / "hung once"))
        assert start_ray(cpus=2)
        try:
            study = run_on_ray(tmp_path / "toy", TOY, 3, {"train.epochs": 6, "fault": "hang"})
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
    """Start MLflow as a cluster's head does, with the database where `check_mlflow` looks."""
    folder = storage / "server"
    environment = os.environ | {
        "VISTUNE_MLFLOW_DIR": str(folder),
        "VISTUNE_MLFLOW_PORT": str(port),
        "VISTUNE_MLFLOW_DB": f"sqlite:///{storage}/mlflow.db",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    subprocess.run(
        ["bash", str(REPO / "cluster/mlflow-server.sh")], env=environment, check=True, timeout=300
    )
    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=20).close()
    try:
        yield
    finally:
        os.killpg(int((folder / "pid").read_text()), signal.SIGKILL)


def test_mlflow_is_stopped_in_the_middle_and_catches_up(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = Command(
        tmp_path / "runs", trials=TRIALS, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}"
    )
    with mlflow_server(command.storage, port):
        process = command.start()
        wait_until(lambda: len(command.events("report")) >= 3, command, process)
    assert process.wait(600) == 0, command.output
    check_study(command, TRIALS)
    with mlflow_server(command.storage, port):
        report = [
            sys.executable,
            str(REPO / "tune/report.py"),
            "sync",
            "--storage",
            str(command.storage),
        ]
        subprocess.run(
            report, env=command.environment, check=True, timeout=300, capture_output=True
        )
        check_mlflow(command, TRIALS)


@pytest.mark.skipif(bool(unavailable()), reason=f"no hosts: {unavailable()}")
def test_the_cable_of_a_worker_is_cut(tmp_path: Path) -> None:
    """No connection is closed, so Ray's head can only notice the silence."""
    settings = " ".join(f"--set {s}" for s in LONG)
    with Laboratory(tmp_path / "lab", ["head", "w1", "w2"]) as lab:
        command = LongCommand(lab.shared / "runs", trials=TRIALS)  # only used to read the record
        path = "PATH=~/venv/bin:$PATH"
        ray = (
            f"export {path} RAY_AUTH_MODE=disabled OMP_NUM_THREADS=1; cd ~; "
            "ray start --disable-usage-stats"
        )
        lab["head"].run(f"{ray} --head --port=6379 --num-cpus=0 --include-dashboard=false")
        for name in ("w1", "w2"):
            lab[name].run(
                f"export PYTHONPATH={REPO}; {ray} --address={lab.address('head')}:6379 --num-cpus=1"
            )
        driver = lab["head"].start(
            f"export {path} RAY_AUTH_MODE=disabled RAY_ADDRESS={lab.address('head')}:6379; "
            f"cd {REPO}; python tune/run.py ssl --storage {SHARED}/runs --trials {TRIALS} "
            f"--repeats 1 {settings} > {SHARED}/runs/out.txt 2>&1"
        )
        wait_until(lambda: two_run(command.events()) or driver.poll() is not None, command)
        lab["w1"].cut()
        at_loss = len(command.events("report"))
        assert driver.wait(900) == 0, command.output
        check(command)
        assert [e["attempt"] for e in command.events("start") if e["attempt"] > 1] == [2]
        assert len(command.events("report")) > at_loss
