"""The real command line under kill, signals and broken MLflow stores: exactly the trials asked for,
every epoch once, nothing lost."""

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
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from tests import REPO
from tests.tune.tracking.test_tracker import reported, store
from tune.execution.local import replay
from tune.experiments import EXPERIMENTS
from tune.study.events import EventLog

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

SMALL = (
    "train.epoch_images=256",
    "train.epochs=4",
    "val.probe_steps=0",
    "head.hidden_size=256",
    "data.image_size=28",
)
LONG = (
    "train.epochs=12",
    *(setting for setting in SMALL if not setting.startswith("train.epochs=")),
)
"""Trial 0, which is never stopped, runs for longer than a second process needs to come, on a busy
machine too."""
TRIALS, REPEATS = 6, 1
MARK = "VISTUNE_TEST_MARK"
PATIENCE_S = 900  # with what a busy machine makes of half a minute


class Command:
    """`python tune/run.py ssl ...`, always the same, in a storage of its own; what it starts
    carries a mark in its environment."""

    experiment, settings = "ssl", SMALL

    def __init__(self, storage: Path, *more: str, trials: int = TRIALS, **environment: str):
        self.storage, self.folder = storage, storage / self.experiment
        self.log = self.folder / "events.jsonl"
        settings = [word for setting in self.settings for word in ("--set", setting)]
        counts = ["--trials", str(trials), "--repeats", str(REPEATS), "--concurrent", "2"]
        self.argv = [
            sys.executable,
            str(REPO / "tune/run.py"),
            self.experiment,
            "--storage",
            str(storage),
            *settings,
            *counts,
            *more,
        ]
        self.mark = uuid.uuid4().hex
        self.environment = os.environ | environment | {MARK: self.mark}
        storage.mkdir(exist_ok=True)

    def start(self) -> "subprocess.Popen[str]":
        out = (self.storage / "out.txt").open("w")
        return subprocess.Popen(
            self.argv,
            cwd=self.storage,
            env=self.environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self) -> int:
        return self.start().wait(PATIENCE_S)

    @property
    def output(self) -> str:
        return (self.storage / "out.txt").read_text()

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        return (
            [e for e in EventLog.read(self.log)[0] if kind in (None, e["event"])]
            if self.log.exists()
            else []
        )

    def alive(self, *variables: str) -> dict[int, str]:
        """Ids and command lines of the processes that this command has started and that are still
        there; with `variables` (NAME=VALUE), those alone that have these in their environment
        too."""
        wanted, found = {word.encode() for word in (f"{MARK}={self.mark}", *variables)}, {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it ended while we looked
                if wanted <= set((process / "environ").read_bytes().split(b"\0")):
                    found[int(process.name)] = (
                        (process / "cmdline").read_text().replace("\0", " ")[:120]
                    )
        return found

    def kill_all(self, *variables: str) -> None:
        for pid in self.alive(*variables):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class LongCommand(Command):
    settings = LONG


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    command = Command(tmp_path / "runs")
    yield command
    command.kill_all()


def wait_until(
    condition: Callable[[], bool], command: Command, process: "subprocess.Popen[str] | None" = None
) -> None:
    """As long as it takes, unless `process` ends before."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert process is None or process.poll() is None, f"ended too soon: {command.output}"
        assert time.monotonic() < deadline, f"waited in vain: {command.output}; {command.alive()}"
        time.sleep(0.02)


def check_study(command: Command, trials: int = TRIALS) -> None:
    """Optuna by its own backend, the log, and a replay of every trial that must say the same bit
    for bit."""
    storage = JournalStorage(JournalFileBackend(str(command.folder / "study.journal")))
    found = optuna.load_study(study_name=command.experiment, storage=storage).trials
    assert [t.number for t in found] == list(range(trials))
    assert {t.state for t in found} <= {TrialState.COMPLETE, TrialState.PRUNED}
    ends = Counter((e["trial"], e.get("repeat")) for e in command.events("end"))
    assert set(ends.values()) == {1}
    assert sorted(trial for trial, repeat in ends if repeat is None) == list(range(trials))
    for trial in found:
        epochs = [
            e["epoch"]
            for e in command.events("report")
            if e["trial"] == trial.number and "repeat" not in e
        ]
        assert epochs == sorted(trial.intermediate_values) == list(range(1, len(epochs) + 1))
        said: list[str] = []
        assert replay(command.folder, EXPERIMENTS[command.experiment], trial.number, said.append), (
            said
        )
        assert len(said) == len(epochs)


def check_mlflow(command: Command, trials: int = TRIALS) -> None:
    """One run a trial, one a repeat, every epoch of every metric as it is in the log, nothing
    running."""
    runs = store(command.storage)
    kinds = Counter(run["tags"]["kind"] for run in runs.values())
    repeated = {(e["trial"], e["repeat"]) for e in command.events("start") if "repeat" in e}
    assert kinds == {"study": 1, "trial": trials, "repeat": len(repeated)}
    assert repeated
    assert {run["status"] for run in runs.values()} == {"FINISHED"}
    for name, wanted in reported(EventLog(command.log)).items():
        rows = runs[name]["metrics"]
        assert [
            row for row in rows if not row[0].startswith(("best/", "log10/", "test/"))
        ] == wanted, name
        assert len({row[:2] for row in rows}) == len(rows), f"{name} has a step twice"
        assert runs[name]["parent"] == (
            name.partition("-seed-")[0] if "-seed-" in name else command.experiment
        )


def test_driver_killed_at_five_random_moments(command: Command) -> None:
    rng = random.Random(0)
    for _ in range(5):
        starts, reports = len(command.events("start")), len(command.events("report"))
        reports += rng.randint(0, 2)  # of this start, which the driver lives to see
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
        r"interrupted: \d of 6 trials ended, nothing is lost. Resume with: python \S*tune/run.py ssl --storage",
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
            f"{seconds:.1f} s with a budget of {budget} s, {len(command.events('report')) - before} epochs"
        )
        # the imports before, the stop after, on a machine that others use
        assert seconds < budget + 60
        if "time budget spent" not in command.output:
            break
        pieces += 1
        if len(command.events("report")) == before:
            budget *= 2  # so busy a machine that Ray was hardly up
    assert pieces
    check_study(command, trials)
    check_mlflow(command, trials)


@contextlib.contextmanager
def dead() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def hung() -> Iterator[str]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(100)  # connections are made, answers never come
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
    """The four at the same time, so that whatever else this machine does slows all of them."""
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
