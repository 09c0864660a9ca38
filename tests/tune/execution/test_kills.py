"""The real command line under kills, signals and broken MLflow stores: exactly the trials asked
for, every epoch once, nothing lost."""

import contextlib
import os
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import REPO
from tests.crash.marked import marked
from tests.kills import PATIENCE_S, Command, check_mlflow, check_study, dead, wait_until
from tests.mlflow_store import store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    command = Command(tmp_path / "runs")
    yield command
    command.kill_all()


def test_driver_killed_at_five_random_moments(command: Command) -> None:
    rng = random.Random(0)
    for _ in range(5):
        starts, reports = len(command.events("start")), len(command.events("report"))
        reports += rng.randint(0, 2)  # reports of this start that the driver lives to see
        process = command.start()
        wait_until(
            lambda: (
                len(command.events("start")) > starts and len(command.events("report")) >= reports  # noqa: B023
            ),
            command,
            process,
        )
        time.sleep(rng.uniform(0, 0.3))
        assert process.poll() is None, command.output
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert command.finish() == 0, command.output
    check_study(command)
    check_mlflow(command)
    again = [e for e in command.events("start") if e["attempt"] > 1]
    assert again
    assert any(e["resumed_epoch"] for e in again)
    wait_until(lambda: not command.alive(), command)
    assert command.finish() == 0  # nothing is left to do, and nothing is done
    assert "goes on" not in command.output
    check_mlflow(command)


@pytest.mark.parametrize("name", ["gcs_server", "raylet"])
def test_a_ray_that_dies_ends_the_run_with_a_line_and_the_same_command_goes_on(
    command: Command, name: str
) -> None:
    """The kernel may kill it when memory runs out."""
    process = command.start()
    wait_until(lambda: len(command.events("report")) > 1, command, process)
    (pid,) = [pid for pid, words in marked(command.mark) if words.split()[0].endswith(name)]
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    assert process.wait(PATIENCE_S) == 1, command.output
    seconds = time.monotonic() - killed
    print(f"{name}: {seconds:.1f} s to the end")
    assert "Traceback" not in command.output
    assert f"vistune: Ray's {name} on this machine has died" in command.output
    wait_until(lambda: not command.alive(), command)
    assert command.finish() == 0, command.output
    check_study(command)
    check_mlflow(command)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_in_order_and_the_same_command_goes_on(
    command: Command, number: signal.Signals
) -> None:
    process = command.start()
    wait_until(lambda: len(command.events("report")) > 1, command, process)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # a terminal sends it to all processes
    else:
        process.send_signal(number)
    asked = time.monotonic()
    assert process.wait(PATIENCE_S) == 130, command.output
    print(f"{number.name}: {time.monotonic() - asked:.1f} s to the end")
    assert re.search(
        r"interrupted: \d of 6 trials ended, nothing is lost. "
        r"Resume with: \S*python\S* \S*tune/run.py ssl --storage",
        command.output,
    )
    assert "Traceback" not in command.output
    assert "rror" not in command.output
    assert {run["status"] for run in store(command.storage).values()} <= {"FINISHED", "KILLED"}
    wait_until(lambda: not command.alive(), command)
    assert command.finish() == 0, command.output
    check_study(command)
    check_mlflow(command)


def test_time_budget_is_kept_and_the_same_command_ends_the_study_in_pieces(tmp_path: Path) -> None:
    trials, budget, pieces = 12, 20, 0
    while True:
        command = Command(tmp_path / "runs", "--time-budget", f"{budget}s", trials=trials)
        before, started = len(command.events("report")), time.monotonic()
        assert command.finish() == 0, command.output
        seconds = time.monotonic() - started
        print(
            f"{seconds:.1f} s with a budget of {budget} s, "
            f"{len(command.events('report')) - before} epochs"
        )
        # 60 s for the imports before and the stop after, on a shared machine
        assert seconds < budget + 60
        if "time budget spent" not in command.output:
            break
        pieces += 1
        if len(command.events("report")) == before:
            budget *= 2  # the machine was so busy that Ray had hardly started
    assert pieces
    check_study(command, trials)
    check_mlflow(command, trials)


@contextlib.contextmanager
def hung() -> Iterator[str]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(100)  # connections are accepted but never answered
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextlib.contextmanager
def locked(database: Path) -> Iterator[None]:
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.close()


def test_a_broken_mlflow_costs_no_time_and_sync_fills_it_in(tmp_path: Path) -> None:
    """The four run at the same time, so that other load on this machine slows all of them."""
    with contextlib.ExitStack() as outages:
        commands = {
            "healthy": Command(tmp_path / "healthy"),
            "dead": Command(tmp_path / "dead", MLFLOW_TRACKING_URI=outages.enter_context(dead())),
            "hung": Command(tmp_path / "hung", MLFLOW_TRACKING_URI=outages.enter_context(hung())),
            "locked": Command(tmp_path / "locked"),
        }
        outages.enter_context(locked(empty_database(tmp_path / "locked")))
        started, seconds = time.monotonic(), dict[str, float]()
        running = {name: command.start() for name, command in commands.items()}
        while len(seconds) < len(running):
            assert time.monotonic() < started + 900
            for name in running.keys() - seconds.keys():
                if running[name].poll() is not None:
                    seconds[name] = time.monotonic() - started
            time.sleep(0.05)
        print({name: f"{s:.1f} s" for name, s in seconds.items()})
    for name, command in commands.items():
        assert running[name].returncode == 0, command.output
        assert ("report.py sync" in command.output) == (name != "healthy")
        assert {e["state"] for e in command.events("finish")} == {"FINISHED"}
        if name != "healthy":
            report = [
                sys.executable,
                str(REPO / "tune/report.py"),
                "sync",
                "--storage",
                str(command.storage),
            ]
            subprocess.run(report, check=True, timeout=200, capture_output=True)
        check_mlflow(command)
    assert max(seconds.values()) < 1.25 * seconds["healthy"] + 15


def empty_database(storage: Path) -> Path:
    database = storage / "mlflow.db"
    program = f"import mlflow; mlflow.MlflowClient('sqlite:///{database}').search_experiments()"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=200)
    return database
