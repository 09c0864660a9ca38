"""The real command line as a process that is killed, and checks of its study afterwards."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from tests import REPO
from tests.mlflow_store import reported, store
from tune.execution.replay import replay
from tune.experiments import EXPERIMENTS
from tune.study.events import EventLog

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
"""Trial 0, which is never stopped, runs for longer than a second process takes to start, even on a
busy machine."""
TRIALS = 6
REPEATS = 1
MARK = "VISTUNE_TEST_MARK"
PATIENCE_S = 900  # a busy machine may need this for half a minute's work


class Command:
    """`python tune/run.py ssl ...`, always the same, in its own storage. All processes that it
    starts carry a mark in their environment."""

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
        """Ids and command lines of the living processes that this command has started. With
        `variables` (NAME=VALUE), only those that also have these in their environment."""
        wanted, found = {word.encode() for word in (f"{MARK}={self.mark}", *variables)}, {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it ended meanwhile
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


def wait_until(
    condition: Callable[[], bool], command: Command, process: "subprocess.Popen[str] | None" = None
) -> None:
    """Wait for a condition. Fail if `process` ends before."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert process is None or process.poll() is None, f"ended too soon: {command.output}"
        assert time.monotonic() < deadline, f"waited in vain: {command.output}; {command.alive()}"
        time.sleep(0.02)


def two_run(events: list[dict[str, Any]]) -> bool:
    """True if two trials run that no rung can stop in the next moment: each is the default, or has
    reported one epoch of `LONG`."""
    reports, ends = (
        [e for e in events if e["event"] == kind and "repeat" not in e]
        for kind in ("report", "end")
    )
    last = {e["trial"]: e["epoch"] for e in reports}
    running = last.keys() - {e["trial"] for e in ends}
    return len(running) == 2 and all(trial == 0 or last[trial] == 1 for trial in running)


def check_study(command: Command, trials: int = TRIALS) -> None:
    """Check Optuna's trials, read by its own backend, and the log. Replay every trial, which must
    match bit for bit."""
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
        compared = [line for line in said if line.startswith("epoch ")]
        assert len(compared) == len(epochs)  # replays of removed weights have an additional line


def check_mlflow(command: Command, trials: int = TRIALS) -> None:
    """Check that each trial and each repeat has one run, that every metric has every epoch as in
    the log, and that no run is open."""
    runs = store(command.storage)
    kinds = Counter(run["tags"]["kind"] for run in runs.values())
    repeated = {(e["trial"], e["repeat"]) for e in command.events("start") if "repeat" in e}
    assert kinds == {"study": 1, "trial": trials, "repeat": len(repeated)}
    assert repeated
    assert {run["status"] for run in runs.values()} == {"FINISHED"}
    for name, wanted in reported(EventLog(command.log)).items():
        rows = runs[name]["metrics"]
        assert [
            row for row in rows if not row[0].startswith(("best/", "log10/", "model/", "test/"))
        ] == wanted, name
        assert len({row[:2] for row in rows}) == len(rows), f"{name} has a step twice"
        assert runs[name]["parent"] == (
            name.partition("-seed-")[0] if "-seed-" in name else command.experiment
        )


@contextlib.contextmanager
def dead() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    yield f"http://127.0.0.1:{port}"
