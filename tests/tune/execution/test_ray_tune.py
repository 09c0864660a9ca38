"""The study on real Ray processes: warm ones, killed ones, and the record afterwards."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from optuna.trial import TrialState

from tests import REPO
from tests.disks import fill, small_disk
from tests.studies import of_trial, run_on_ray
from tests.toy import BUGGY, TOY
from trainables.errors import UserError
from tune.execution.ray_session import start_ray
from tune.execution.replay import replay
from tune.search.rungs import rungs
from tune.study.study import Study

Event = dict[str, Any]
LOST_PROCESSES = 1  # instead of 3: each new process takes seconds


@pytest.fixture(scope="module")
def _two_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Start Ray as a search does, once for the whole file. TMPDIR is as long as batch systems make
    it, so the sockets must be elsewhere."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(REPO))  # the toy is not in an installed package
        long_folder = tmp_path_factory.mktemp("slurm_jobdir") / "tmp.t0016" / "tmp.t0016"
        long_folder.mkdir(parents=True)
        patch.setenv("TMPDIR", str(long_folder))
        patch.delenv("RAY_TMPDIR", raising=False)
        assert start_ray(cpus=2)
        yield
        ray.shutdown()


@pytest.mark.parametrize(
    "address", ["127.0.0.1:9", "127.0.0.1:99999", "no-such-host.invalid:6379", "elsewhere"]
)
def test_a_cluster_that_is_not_there_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    begun = time.monotonic()
    with pytest.raises(
        UserError,
        match=f"no Ray cluster at RAY_ADDRESS={address} .*"
        "unset RAY_ADDRESS to run on this machine alone",
    ):
        start_ray()
    assert time.monotonic() - begun < 30


@pytest.fixture(scope="module")
def healthy(_two_processes: None, tmp_path_factory: pytest.TempPathFactory) -> Study:
    return run_on_ray(
        tmp_path_factory.mktemp("ray") / "toy", TOY, 10, {"train.epochs": 6, "sleep_s": 0.01}
    )


@pytest.mark.usefixtures("_two_processes")
def test_nothing_listens_outside_of_this_machine() -> None:
    me = psutil.Process()
    listening = [
        (process.name(), connection.laddr.ip)
        for process in (me, *me.children(recursive=True))
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 4  # gcs, raylet, agents, workers
    assert {ip.removeprefix("::ffff:") for _, ip in listening} == {"127.0.0.1"}, listening


def test_workers_are_forks_and_no_process_runs_that_nobody_asks(healthy: Study) -> None:
    import ray

    # Ray keeps no idle worker for long, so one is asked for.
    ray.get(ray.remote(lambda: None).remote())
    living = [
        process
        for process in psutil.Process().children(recursive=True)
        if process.status() != psutil.STATUS_ZOMBIE  # zombies are what asked for a fork
    ]
    lines = {process: process.cmdline() for process in living}
    named = {process for process, line in lines.items() if "template.py" in " ".join(line)}
    # A fork that has just begun still has the template's command line.
    (template,) = (process for process in named if process.parent() not in named)
    workers = [process for process, line in lines.items() if line[:1] and "ray::I" in line[0]]
    assert workers  # of trials (ImplicitFunc) and idle ones
    assert all(worker.parent() == template for worker in workers)
    others = " ".join(word for line in lines.values() for word in line)
    assert "dashboard/dashboard.py" not in others
    assert "dashboard/agent.py" not in others  # the agent would import all of Ray
    assert "silent_agent.py" in others
    assert "log_monitor" not in others
    assert "monitor.py" not in others


def test_ends_with_exactly_the_trials_asked_for(healthy: Study) -> None:
    assert [t.number for t in healthy.frozen_trials()] == list(range(10))
    assert {t.state for t in healthy.frozen_trials()} == {TrialState.COMPLETE, TrialState.PRUNED}
    for number in range(10):
        assert len(of_trial(healthy, number, "start")) == len(of_trial(healthy, number, "end")) == 1


def test_stopped_trials_are_pruned_at_their_rungs(healthy: Study) -> None:
    for trial in healthy.frozen_trials():
        epochs = sorted(trial.intermediate_values)
        assert (
            epochs
            == list(range(1, len(epochs) + 1))
            == [e["epoch"] for e in of_trial(healthy, trial.number, "report")]
        )
        assert len(epochs) in (rungs(6) if trial.state == TrialState.PRUNED else [6])
    assert healthy.frozen_trials()[0].state == TrialState.COMPLETE


def test_two_warm_processes_serve_all_trials_at_once(healthy: Study) -> None:
    reports = [e for number in range(10) for e in of_trial(healthy, number, "report")]
    assert len({e["metrics"]["time/pid"] for e in reports}) == 2
    spans = [
        (of_trial(healthy, n, "start")[0]["t"], of_trial(healthy, n, "end")[0]["t"])
        for n in range(10)
    ]
    assert any(a < d and c < b for i, (a, b) in enumerate(spans) for c, d in spans[:i])


def test_metrics_equal_the_same_trials_in_this_process(healthy: Study) -> None:
    for trial in healthy.frozen_trials():
        assert replay(healthy.directory, TOY, trial.number, print)


class Killer:
    """Observe the study and SIGKILL processes. Trial 0 loses its process after its first epochs,
    more often than is allowed without progress; another trial loses it once, after a later
    epoch."""

    def __init__(self) -> None:
        self.victim: int | None = None
        self.kills = 0

    def __call__(self, event: Event) -> None:
        if event["event"] != "report":
            return
        if self.victim is None and event["trial"] > 0 and event["epoch"] > 1:
            self.victim = event["trial"]
        elif event["trial"] > 0 or event["epoch"] > LOST_PROCESSES + 1:
            return
        self.kills += 1
        os.kill(int(event["metrics"]["time/pid"]), signal.SIGKILL)


@pytest.fixture(scope="module")
def unlucky(_two_processes: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Killer]:
    killer = Killer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tune.execution.ray_tune.LOST_PROCESSES", LOST_PROCESSES)
        return run_on_ray(
            tmp_path_factory.mktemp("ray") / "toy",
            BUGGY,
            8,
            {"train.epochs": 6, "sleep_s": 0.01},
            [killer],
        ), killer


@pytest.mark.heavy
def test_a_killed_process_is_replaced_and_its_trial_goes_on(unlucky: tuple[Study, Killer]) -> None:
    study, killer = unlucky
    assert killer.victim is not None
    starts, reports = (
        of_trial(study, killer.victim, "start"),
        of_trial(study, killer.victim, "report"),
    )
    assert [e["attempt"] for e in starts] == [1, 2]
    killed_at = starts[1]["resumed_epoch"]
    assert killed_at > 1
    assert [e["epoch"] for e in reports] == list(range(1, len(reports) + 1))
    pids = [e["metrics"]["time/pid"] for e in reports]
    assert len(set(pids[:killed_at])) == 1
    assert pids[0] not in pids[killed_at:]
    assert study.frozen_trials()[killer.victim].state in (TrialState.COMPLETE, TrialState.PRUNED)
    # equals the uninterrupted run bit for bit
    assert replay(study.directory, BUGGY, killer.victim, print)


@pytest.mark.heavy
def test_a_trial_that_makes_progress_in_every_process_is_never_failed(
    unlucky: tuple[Study, Killer],
) -> None:
    study, killer = unlucky
    assert killer.kills == LOST_PROCESSES + 2
    assert len(of_trial(study, 0, "start")) == LOST_PROCESSES + 2
    assert of_trial(study, 0, "end")[0]["state"] == "COMPLETE"
    assert study.finished() == len(study.frozen_trials()) == 8


@pytest.mark.slow
@pytest.mark.usefixtures("_two_processes")
def test_a_trial_that_loses_its_process_too_often_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune.execution.ray_tune.LOST_PROCESSES", LOST_PROCESSES)
    study = run_on_ray(tmp_path / "toy", TOY, 1, {"train.epochs": 4, "fault": "exit always"})
    end = of_trial(study, 0, "end")[0]
    assert (end["state"], end["reason"]) == ("FAIL", "process lost")
    assert [e["epoch"] for e in of_trial(study, 0, "report")] == [1, 2]
    assert len(of_trial(study, 0, "start")) == LOST_PROCESSES + 1


@pytest.mark.slow
@pytest.mark.usefixtures("_two_processes")
def test_a_warm_process_that_dies_between_two_trials_costs_none(tmp_path: Path) -> None:
    """The next trial has been assigned to it by then, but has not begun."""
    killed: list[int] = []

    def kill(event: Event) -> None:
        if event["event"] == "report" and event["epoch"] == 1:
            pids[event["trial"]] = int(event["metrics"]["time/pid"])
        if event["event"] == "end" and len(killed) < 2:
            killed.append(event["trial"])
            os.kill(pids[event["trial"]], signal.SIGKILL)

    pids: dict[int, int] = {}
    study = run_on_ray(tmp_path / "toy", TOY, 6, {"train.epochs": 4, "sleep_s": 0.01}, [kill])
    assert len(killed) == 2
    assert [t.number for t in study.frozen_trials()] == list(range(6))
    assert {t.state for t in study.frozen_trials()} <= {TrialState.COMPLETE, TrialState.PRUNED}
    for number in range(6):
        assert [e["attempt"] for e in of_trial(study, number, "start")] == [1]
        assert replay(study.directory, TOY, number, print)


@pytest.mark.heavy
def test_a_bug_costs_its_trials_and_no_others(unlucky: tuple[Study, Killer]) -> None:
    study, _ = unlucky
    buggy = [t for t in study.frozen_trials() if t.params["fault"] == "raise"]
    sound = [t for t in study.frozen_trials() if t.params["fault"] == "" and t.number > 0]
    assert buggy
    assert sound
    for trial in buggy:
        end = of_trial(study, trial.number, "end")[0]
        assert (end["state"], end["reason"]) == ("FAIL", "ZeroDivisionError")
        assert "a bug in the model" in end["error"]
        assert "Traceback" in end["error"]
    assert all(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in sound)


@pytest.mark.slow  # test_cli.py fills a disk at four moments of a search in one process
@pytest.mark.usefixtures("_two_processes")
@pytest.mark.parametrize("after", [4, 9])
def test_a_full_disk_ends_the_search_and_loses_nothing(tmp_path: Path, after: int) -> None:
    count = 0

    def fill_up(event: Event) -> None:
        nonlocal count
        count += 1
        if count == after:
            fill(tmp_path / "disk")

    with small_disk(tmp_path / "disk") as disk:
        base = {"train.epochs": 6, "sleep_s": 0.01}
        with pytest.raises((UserError, OSError), match="No space left on device"):
            run_on_ray(disk / "toy", TOY, 6, base, [fill_up])
        (disk / "filler").unlink()
        study = run_on_ray(disk / "toy", TOY, 6, base)
        assert [t.number for t in study.frozen_trials()] == list(range(6))
        assert {t.state for t in study.frozen_trials()} <= {TrialState.COMPLETE, TrialState.PRUNED}
        for number in range(6):
            epochs = [e["epoch"] for e in of_trial(study, number, "report")]
            assert epochs == list(range(1, len(epochs) + 1))
            assert replay(study.directory, TOY, number, print)
