"""Who ends a run, and what it leaves: the state is safe, the exit code 130, the command to resume
said, MLflow told."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.commands import LOCAL_TOY, Call
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


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_to_the_whole_group_ends_in_order(tmp_path: Path, number: int) -> None:
    """As `timeout`, scancel, systemd and a closed terminal send it."""
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
