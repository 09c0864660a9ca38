"""A run that is stopped leaves a safe state: it exits with code 130, prints the command that
resumes, and tells MLflow."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests import REPO
from tests.commands import LOCAL_TOY, NO_SERVER, SCRIPT, Call
from tests.kills import LongCommand, two_run, wait_until
from tune.cli.stop import INTERRUPTED, Stop
from tune.study.events import EventLog


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_ends_a_run_in_order(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int
) -> None:
    from tests.toy import Toy

    forward = Toy.forward

    def once(self: Toy, batch: Any) -> Any:
        if not (tmp_path / "sent").exists():
            (tmp_path / "sent").touch()
            os.kill(os.getpid(), number)
        return forward(self, batch)

    monkeypatch.setattr(Toy, "forward", once)
    said = call(*LOCAL_TOY, "3")
    assert said.code == INTERRUPTED
    assert "interrupted: 0 of 3 trials ended, nothing is lost. Resume with: " in said.out
    last = EventLog.read(tmp_path / "runs/toy/events.jsonl")[0][-1]
    assert (last["event"], last["state"]) == ("finish", "INTERRUPTED")
    assert call(*LOCAL_TOY, "3").code == 0


def test_a_run_under_nohup_outlives_its_terminal() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    hangup = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        Stop(None)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.signal(signal.SIGHUP, hangup)
        Stop(None)
        assert signal.getsignal(signal.SIGHUP) is not hangup
    finally:
        for number, handler in (before | {signal.SIGHUP: hangup}).items():
            signal.signal(number, handler)


MINE = """
from dataclasses import replace
from tests.toy import TOY
EXPERIMENT = replace(TOY, name="mine")
"""


@pytest.mark.heavy
def test_a_reader_that_dies_with_ctrl_c(tmp_path: Path) -> None:
    """With `tune/run.py ... | tee log` the terminal sends Ctrl-C to both, and `tee` dies first."""
    (tmp_path / "mine.py").write_text(MINE)
    words = ["mine.py", "--local", "--storage", "runs", "--trials", "2", "--repeats", "0"]
    slow = ["--set", "sleep_s=0.02", "--set", "train.epochs=90"]
    surroundings = {"PYTHONPATH": str(REPO), "MLFLOW_TRACKING_URI": NO_SERVER}
    log = tmp_path / "runs/mine/events.jsonl"
    with (tmp_path / "err.txt").open("w") as errors:
        run = subprocess.Popen(
            [sys.executable, SCRIPT, *words, *slow],
            cwd=tmp_path,
            env=os.environ | surroundings,
            stdout=subprocess.PIPE,
            stderr=errors,
            process_group=0,
        )
    copy = tmp_path / "copy.txt"
    tee = subprocess.Popen(
        ["tee", str(copy)], stdin=run.stdout, stdout=subprocess.DEVNULL, process_group=run.pid
    )
    assert run.stdout is not None
    run.stdout.close()
    try:
        deadline = time.monotonic() + 120
        while not log.exists() or not has_reported(log):
            assert run.poll() is None, (tmp_path / "err.txt").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(run.pid, signal.SIGINT)
        assert tee.wait(10) == -signal.SIGINT
        assert run.wait(60) == INTERRUPTED
    finally:
        run.kill()
        tee.kill()
    last = EventLog.read(log)[0][-1]
    assert (last["event"], last["state"]) == ("finish", "INTERRUPTED")
    said = (tmp_path / "err.txt").read_text()
    assert "interrupted: 0 of 2 trials ended, nothing is lost. Resume with: " in said
    assert "Traceback" not in said
    assert "Exception ignored" not in said


def has_reported(log: Path) -> bool:
    return any(event["event"] == "report" for event in EventLog.read(log)[0])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_to_the_whole_group_ends_in_order(tmp_path: Path, number: int) -> None:
    """`timeout`, scancel, systemd and a closed terminal send it this way."""
    command = LongCommand(tmp_path / "runs", trials=4)
    process = command.start()
    wait_until(lambda: two_run(command.events()), command, process)
    sent = time.monotonic()
    os.killpg(process.pid, number)
    assert process.wait(120) == INTERRUPTED, command.output
    assert time.monotonic() - sent < 40
    assert "nothing is lost. Resume with: " in command.output
    assert command.events()[-1]["event"] == "finish"
    assert command.alive() == {}
