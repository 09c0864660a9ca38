"""A long study in which everything is killed at random: `python -m tests.crash.soak`.

It runs two thousand trials of a function on Ray, in half an hour on two cores, with fifty kills: of
the driver, which the same command starts again, of a trial's process, of Ray's own processes, and
of MLflow's server, which comes back on the same port. If libfaketime is installed (Debian:
libfaketime), the clock is hours wrong at every other start of the driver.

At the end no trial is lost, and none is there twice: in the log, in Optuna's journal, in MLflow.
Nothing has grown that should not grow (`growth.py`).
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tests import REPO
from tests.crash.function import FUNCTION
from tests.crash.growth import Growth, Use
from tests.crash.marked import MARK, end_marked, marked
from tests.crash.operations import library
from tests.mlflow_store import rows
from trainables.files import is_partial
from tune.study.events import EventLog

Process = subprocess.Popen[bytes]
VICTIMS = ("driver", "trial", "mlflow", "ray")
RAY = ("gcs_server", "raylet", "RuntimeEnvAgent")
CLOCKS = ("-3h", "+5h")
_SLEEP = Path(__file__).with_name("sleep.c")
_FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
_LOOK_S = 1.0
_SILENT_S = 90.0
"""With a wrong clock, a start that ends no trial for this long hangs in libfaketime, whose locks do
not survive the forks by which Ray starts its processes. It is killed, which is an additional
kill."""
_DISK_LOOK_S = 20.0


@dataclass
class Soak:
    """One soak, in a folder of its own."""

    folder: Path
    trials: int
    minutes: float
    kills: int
    seed: int
    faketime: str = _FAKETIME
    growth: Growth = field(default_factory=Growth)
    killed: Counter[str] = field(default_factory=Counter)
    shifted: int = 0
    """Starts of the driver with a wrong clock."""
    hung: int = 0
    """Those of them that hung in libfaketime."""

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)
        self.mark = uuid.uuid4().hex
        self.port = _free_port()
        self.study = self.folder / "runs/mine"
        self.log = self.study / "events.jsonl"
        self._servers: list[Process] = []
        self._ended = 0
        self._offset = 0
        self._is_shifted = False
        (self.folder / "mine.py").write_text(FUNCTION)

    # -- processes

    def start_mlflow(self) -> Process:
        """Start MLflow's server, and do not wait for it."""
        storage = self.folder / "runs"
        storage.mkdir(exist_ok=True)
        words = ["--backend-store-uri", f"sqlite:///{storage}/server.db", "--workers", "1"]
        words += ["--host", "127.0.0.1", "--port", str(self.port)]
        words += ["--artifacts-destination", str(storage / "artifacts")]
        environment = os.environ | {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *words],
            env=environment,
            stdout=(self.folder / "mlflow.txt").open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._servers.append(server)
        return server

    def start_driver(self, number: int) -> Process:
        """Start the command, at every other start with a wrong clock."""
        environment = os.environ | {
            MARK: self.mark,
            "PYTHONPATH": str(REPO),
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{self.port}",
            "VISTUNE_CACHE": str(self.folder / "cache"),
        }
        self._is_shifted = number % 2 == 1 and Path(self.faketime).exists()
        if self._is_shifted:
            environment |= {
                "LD_PRELOAD": f"{library(_SLEEP)}:{self.faketime}",
                "FAKETIME": self.draw.choice(CLOCKS),
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
            self.shifted += 1
        words = ["--storage", "runs", "--trials", str(self.trials), "--repeats", "0"]
        words += ["--concurrent", "2", "--pictures", "none"]
        return subprocess.Popen(
            [sys.executable, str(REPO / "tune/run.py"), "mine.py", *words],
            cwd=self.folder,
            env=environment,
            stdout=(self.folder / "said.txt").open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    # -- the run

    def run(self) -> int:
        """Run until all trials have ended or the time is up. Return the number of trials that have
        ended."""
        end = time.monotonic() + 60 * self.minutes
        mlflow = self.start_mlflow()
        driver = self.start_driver(0)
        self.growth.begin()
        starts = itertools.count(1)
        due = self._next_kill(0)
        disk_at = 0.0
        heard_at, heard = time.monotonic(), 0
        try:
            while time.monotonic() < end:
                time.sleep(_LOOK_S)
                ended = self.ended()
                if time.monotonic() - disk_at > _DISK_LOOK_S:
                    disk_at = time.monotonic()
                    self.growth.sizes.append((ended, self._bytes()))
                code = driver.poll()
                if code == 0:
                    break
                if code is not None:
                    end_marked(self.mark)
                    driver = self.start_driver(next(starts))
                    self.growth.begin()
                    heard_at = time.monotonic()
                    continue
                if ended > heard:
                    heard_at, heard = time.monotonic(), ended
                elif self._is_shifted and time.monotonic() - heard_at > _SILENT_S:
                    self.hung += 1
                    driver.kill()
                if mlflow.poll() is not None:
                    mlflow = self.start_mlflow()
                self._note(driver.pid, ended)
                if ended >= due and sum(self.killed.values()) < self.kills:
                    self._kill(driver, mlflow)
                    due = ended + self._next_kill(ended)
            return self._finish(driver, mlflow)
        finally:
            end_marked(self.mark)
            for server in self._servers:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(server.pid, signal.SIGKILL)

    def ended(self) -> int:
        """Number of trials that have ended, from the log. Only new events are read."""
        events, self._offset = EventLog.read(self.log, self._offset)
        self._ended += sum(event["event"] == "end" for event in events)
        return self._ended

    def _next_kill(self, ended: int) -> int:
        """Number of trials until the next kill, such that all kills fit in."""
        missing = self.kills - sum(self.killed.values())
        return self.draw.randint(1, max(2, 2 * (self.trials - ended) // (missing + 1)))

    def _kill(self, driver: Process, mlflow: Process) -> None:
        victim = self.draw.choice(VICTIMS)
        if victim == "driver":
            driver.kill()
        elif victim == "mlflow":
            os.killpg(mlflow.pid, signal.SIGKILL)
        else:
            pids = self._killable(victim)
            if not pids:
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.draw.choice(pids), signal.SIGKILL)
        self.killed[victim] += 1

    def _killable(self, victim: str) -> list[int]:
        """Process ids of trials, or of Ray's own processes."""
        commands = [(pid, words.partition(" ")[0]) for pid, words in marked(self.mark)]
        rays = [pid for pid, name in commands if name.endswith(RAY)]
        if victim == "ray":
            return rays
        return [pid for pid, name in commands if name.startswith("ray::") and pid not in rays]

    def _finish(self, driver: Process, mlflow: Process) -> int:
        """End the driver, and bring MLflow up to date."""
        if driver.poll() is None:
            driver.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                driver.wait(180)
        end_marked(self.mark)
        if mlflow.poll() is not None:
            self.start_mlflow()
        self._await_mlflow()
        environment = os.environ | {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{self.port}"}
        subprocess.run(
            [sys.executable, str(REPO / "tune/report.py"), "sync", "--storage", "runs"],
            cwd=self.folder,
            env=environment,
            check=True,
        )
        return self.ended()

    def _await_mlflow(self) -> None:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2).close()
                return
            except OSError:
                assert time.monotonic() < deadline, "MLflow's server does not answer"
                time.sleep(0.5)

    def _note(self, pid: int, ended: int) -> None:
        with contextlib.suppress(OSError, KeyError):  # it has just ended
            process = Path(f"/proc/{pid}")
            lines = (process / "status").read_text().splitlines()
            status = dict(line.split(":", 1) for line in lines)
            use = Use(
                ended,
                int(status["VmRSS"].split()[0]) / 1024,
                len(list((process / "fd").iterdir())),
                int(status["Threads"]),
                sum(1 for _ in marked(self.mark)),
            )
            self.growth.uses[-1].append(use)

    # -- what must hold

    def check(self) -> list[str]:
        """Return everything that is wrong."""
        events, _ = EventLog.read(self.log)
        ends = Counter(event["trial"] for event in events if event["event"] == "end")
        reports = Counter(
            (event["trial"], event["epoch"]) for event in events if event["event"] == "report"
        )
        wrong = [f"trial {trial} ended {n} times" for trial, n in ends.items() if n > 1]
        wrong += [f"epoch {key} is reported {n} times" for key, n in reports.items() if n > 1]
        wrong += [f"trial {n} is lost" for n in range(max(ends)) if n not in ends][2:]
        failed = [e for e in events if e["event"] == "end" and e["state"] == "FAIL"]
        wrong += [f"trial {event['trial']} failed: {event['reason']}" for event in failed]
        wrong += self._check_optuna(ends)
        wrong += self._check_mlflow(events, set(ends))
        for path in self.folder.rglob("*"):
            if is_partial(path.name):
                wrong.append(f"left over: {path.relative_to(self.folder)}")
        return wrong

    def _check_optuna(self, ends: Counter[int]) -> list[str]:
        storage = JournalStorage(JournalFileBackend(str(self.study / "study.journal")))
        (study,) = storage.get_all_studies()
        trials = storage.get_all_trials(study._study_id)
        finished = {trial.number for trial in trials if trial.state.is_finished()}
        return [f"trial {n} is not the same in Optuna" for n in finished ^ set(ends)]

    def _check_mlflow(self, events: list[dict[str, object]], ended: set[int]) -> list[str]:
        database = self.folder / "runs/server.db"
        names = Counter(name for (name,) in rows(database, "SELECT name FROM runs"))
        wrong = [f"MLflow has {n} runs {name}" for name, n in names.items() if n > 1]
        wanted = {f"trial-{number:03d}" for number in ended}
        return wrong + [f"MLflow lacks {name}" for name in sorted(wanted - names.keys())]

    def disk(self) -> str:
        """Size of the study's folder, as text."""
        return f"{self._bytes() / 1e6:.1f} MB of {self._ended} trials"

    def _bytes(self) -> int:
        """Size of the study's folder in bytes."""
        size = 0
        for path in self.study.rglob("*"):
            with contextlib.suppress(OSError):  # it has just been removed
                size += path.stat().st_size if path.is_file() else 0
        return size


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    """Parse argv, soak, print. Return 1 if something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.soak", description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--minutes", type=float, default=30, help="stop after so long")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faketime", default=_FAKETIME, help="path of libfaketime")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="vistune-soak-") as scratch:
        soak = Soak(Path(scratch), **vars(options))
        began = time.monotonic()
        ended = soak.run()
        seconds = time.monotonic() - began
        wrong = soak.check() + soak.growth.check()
        starts = f"{len(soak.growth.uses)} starts of the driver, {soak.shifted} by a wrong clock"
        print(f"{ended} trials in {seconds:.0f} s, {starts} ({soak.hung} of them hung)")
        print(f"killed: {json.dumps(soak.killed)}")
        print("\n".join([*soak.growth.lines(), soak.disk()]))
        print("\n".join(wrong) or "not one trial lost, none twice, nothing left over or growing")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
