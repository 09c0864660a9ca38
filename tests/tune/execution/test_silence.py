"""Functions and commands that hang are given up after many times a usual epoch, and the line where
they hung is on record. Waiting for the study itself never counts."""

import contextlib
import json
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes import is_alive, wait_for
from trainables.base import Metrics
from trainables.errors import TrialFailed
from tune.execution import silence
from tune.execution.function_run import FunctionRun
from tune.execution.runtimes import LocalRuntime
from tune.execution.silence import Silence, call_until_silent
from tune.execution.trial import run as run_trial
from tune.experiments import Experiment
from tune.function_experiment import function_experiment
from tune.script_experiment import script_experiment
from tune.study.log_state import LogState, Run, usual_epoch_s
from tune.study.work import Outcome, Work, WorkId

CONFIG = {"lr": 0.1, "seed": 5, "train.threads": 1}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a fifth of a second long, and check often."""
    monkeypatch.setattr(silence, "LEAST_S", 0.2)
    monkeypatch.setattr(silence, "_LOOK_S", 0.02)


def work_in(folder: Path, usual_epoch_s: float = 0.0, hung_after: float = 3.0) -> Work:
    return Work(
        WorkId(1), 5, CONFIG, str(folder), hung_after=hung_after, usual_epoch_s=usual_epoch_s
    )


def outcome_of(
    train: Callable[..., Any],
    work: Work,
    on_report: Callable[[int, Metrics], bool] = lambda epoch, metrics: True,
) -> Outcome:
    experiment = function_experiment(
        train, objective="accuracy", space={"lr": (0.1, 1.0)}, name="own"
    )
    return run_trial(experiment, work, LocalRuntime(Path(work.directory), on_report))


def hangs(config: dict[str, Any], run: FunctionRun) -> None:
    for epoch in run.epochs(3):
        if epoch == 1:
            time.sleep(30)  # blocks in C, where no exception from another thread ends it
        run.report(accuracy=epoch)


def test_a_function_that_hangs_has_failed_and_says_where(tmp_path: Path) -> None:
    began = time.monotonic()
    outcome = outcome_of(hangs, work_in(tmp_path))

    assert time.monotonic() - began < 10
    assert (outcome.state, outcome.reason) == ("FAIL", "hung")
    assert outcome.error is not None
    assert outcome.error.startswith("no report for 0.2 s, where an epoch takes 0.0 s")
    assert "time.sleep(30)" in outcome.error


def test_a_function_in_another_thread_is_left_too(tmp_path: Path) -> None:
    """As on Ray."""

    def spins(config: dict[str, Any], run: FunctionRun) -> None:
        for epoch in run.epochs(3):
            run.report(accuracy=epoch)
            while epoch == 1:
                time.sleep(0.001)

    found: list[Outcome] = []
    thread = threading.Thread(target=lambda: found.append(outcome_of(spins, work_in(tmp_path))))
    thread.start()
    thread.join(20)
    assert [outcome.reason for outcome in found] == ["hung"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_trial_whose_process_had_to_end_itself_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The note outlives the process. Reading it removes it, so that the trial can be tried
    again."""
    codes: list[int] = []
    ended = threading.Event()

    def exit_(code: int) -> None:
        codes.append(code)
        ended.set()
        sys.exit()  # ends only the thread

    monkeypatch.setattr("os._exit", exit_)
    monkeypatch.setattr(silence, "_GRACE_S", 0.05)
    known = Silence(work_in(tmp_path, usual_epoch_s=0.01))

    def block() -> None:
        with contextlib.suppress(TrialFailed):
            call_until_silent(lambda: ended.wait(20), known, tmp_path)

    thread = threading.Thread(target=block)
    thread.start()
    thread.join(20)
    assert codes == [1]

    outcome = outcome_of(hangs, work_in(tmp_path))
    assert (outcome.state, outcome.reason) == ("FAIL", "hung")
    assert "ended.wait(20)" in (outcome.error or "")
    assert not list(tmp_path.glob(".hung*"))


def test_a_first_epoch_is_measured_by_those_of_other_trials(tmp_path: Path) -> None:
    def hangs_at_once(config: dict[str, Any], run: FunctionRun) -> None:
        time.sleep(0.5)
        run.report(accuracy=1.0)

    assert outcome_of(hangs_at_once, work_in(tmp_path, usual_epoch_s=0.01)).reason == "hung"
    assert outcome_of(hangs_at_once, work_in(tmp_path, usual_epoch_s=10.0)).state == "COMPLETE"
    assert outcome_of(hangs_at_once, work_in(tmp_path)).state == "COMPLETE"  # no usual epoch yet


def test_who_waits_for_the_study_does_not_hang(tmp_path: Path) -> None:
    """The disk may be full, for example."""

    def reports(config: dict[str, Any], run: FunctionRun) -> None:
        for epoch in run.epochs(3):
            run.report(accuracy=epoch)

    def slow(epoch: int, metrics: Metrics) -> bool:
        time.sleep(0.3)
        return True

    assert outcome_of(reports, work_in(tmp_path), slow).state == "COMPLETE"


def test_without_the_option_a_function_is_waited_for(tmp_path: Path) -> None:
    def slow(config: dict[str, Any], run: FunctionRun) -> None:
        for epoch in run.epochs(2):
            time.sleep(0.4 * epoch)
            run.report(accuracy=epoch)

    assert outcome_of(slow, work_in(tmp_path, hung_after=0.0)).state == "COMPLETE"


def test_a_command_that_hangs_is_ended(tmp_path: Path) -> None:
    code = (
        "import json, os, sys, time; "
        "open(sys.argv[1], 'w').write(str(os.getpid())); "
        "print(json.dumps({'accuracy': 0.5}), flush=True); "
        "time.sleep(60)"
    )
    pid = tmp_path / "pid"
    experiment: Experiment = script_experiment(
        [sys.executable, "-c", code, str(pid), "{lr}"],
        objective="accuracy",
        space={"lr": (0.1, 1.0)},
        name="own",
        metrics="-",
    )
    # Its only epoch, including the start of Python, is the usual one.
    work = work_in(tmp_path, hung_after=1.0)
    outcome = run_trial(experiment, work, LocalRuntime(tmp_path, lambda *_: True))

    assert (outcome.state, outcome.reason) == ("FAIL", "hung")
    wait_for(lambda: not is_alive(int(pid.read_text())))


def test_the_usual_epoch_is_the_median_over_trials() -> None:
    state = LogState(keeps_history=False)
    spans = {0: (8_000, [1, 2]), 1: (1_000, [1]), 2: (90_000, [1, 2, 3]), 3: (50, [])}
    for number, (occupied_ms, epochs) in spans.items():
        state.runs[WorkId(number)] = Run(occupied_ms=occupied_ms, epochs=list(epochs))
    assert usual_epoch_s(state) == 4.0  # the median of 4, 1 and 30 s
    assert usual_epoch_s(LogState(keeps_history=False)) == 0.0


def test_work_travels_with_its_limits(tmp_path: Path) -> None:
    work = work_in(tmp_path, usual_epoch_s=2.5)
    assert Work.from_json(work.to_json()) == work
    assert json.loads(work.to_json())["hung_after"] == 3.0


def test_a_note_counts_once(tmp_path: Path) -> None:
    (tmp_path / ".hung.json").write_text('{"error": "stood there"}\n')
    known = Silence(work_in(tmp_path, hung_after=0.0))
    called: list[int] = []
    with pytest.raises(TrialFailed, match="stood there"):
        call_until_silent(lambda: called.append(1), known, tmp_path)
    assert called == []
    call_until_silent(lambda: called.append(2), known, tmp_path)
    assert called == [2]


@pytest.mark.parametrize("in_main_thread", [True, False])
def test_a_function_that_ends_as_it_is_given_up_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_main_thread: bool
) -> None:
    """A watch left behind would interrupt the next trial of the process."""
    monkeypatch.setattr(silence, "LEAST_S", 0.01)
    monkeypatch.setattr(silence, "_LOOK_S", 0.001)
    monkeypatch.setattr(silence, "_GRACE_S", 60.0)
    handler = signal.getsignal(signal.SIGUSR2)
    given_up: list[bool] = []

    def ends_as_it_is_given_up(extra_s: float) -> None:
        ends_at = time.monotonic() + silence.LEAST_S + extra_s
        while time.monotonic() < ends_at:
            pass

    def try_often() -> None:
        for number in range(200):
            known = Silence(work_in(tmp_path, hung_after=1.0, usual_epoch_s=0.001))
            extra_s = number % 40 * 2.5e-4
            try:
                call_until_silent(lambda: ends_as_it_is_given_up(extra_s), known, tmp_path)  # noqa: B023
                given_up.append(False)
            except TrialFailed:
                given_up.append(True)

    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)  # so that the watch can interrupt at any line
    try:
        if in_main_thread:
            try_often()
        else:
            thread = threading.Thread(target=try_often)
            thread.start()
            thread.join(60)
    finally:
        sys.setswitchinterval(usual_s)
    assert len(given_up) == 200
    assert any(given_up)
    time.sleep(0.1)
    assert not [thread.name for thread in threading.enumerate() if thread.name == "silence"]
    assert signal.getsignal(signal.SIGUSR2) == handler
