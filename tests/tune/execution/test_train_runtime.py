"""Trials of several workers on real Ray processes leak nothing, and leave the record of a single
worker."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from tests import REPO
from tests.studies import manifest, of_trial
from tests.toy import TOY
from tune.execution.local import search_locally
from tune.execution.ray_session import start_ray
from tune.execution.ray_tune import search
from tune.search.rungs import rungs
from tune.search.space import as_json, describe
from tune.study.study import Study

Event = dict[str, Any]
pytestmark = pytest.mark.slow
BASE = {"train.epochs": 6, "dropout": 0.0, "sleep_s": 0.01}


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(REPO))
        assert start_ray(cpus=2, dashboard=True)
        yield
        ray.shutdown()


def run(folder: Path, trials: int, observers: list[Any] | None = None, workers: int = 2) -> Study:
    about = manifest(base=BASE, space=as_json(describe(TOY.space, "tiny", {})))
    study = Study.open(folder, TOY, about, trials=trials, repeats=0, observers=observers)
    try:
        if workers == 1:
            search_locally(study, TOY)
        else:
            search(study, TOY, concurrent=None, gpus_per_worker=None, workers=workers)
    finally:
        study.close()
    return study


def held() -> dict[str, Any]:
    """The resources in use: CPUs, and live placement groups."""
    import ray

    groups = [g for g in ray.util.placement_group_table().values() if g["state"] != "REMOVED"]
    return {"cpus": 2 - ray.available_resources().get("CPU", 0), "groups": len(groups)}


def until_free(within_s: float) -> float:
    """Seconds until all resources are free again."""
    began = time.monotonic()
    while held() != {"cpus": 0, "groups": 0}:
        assert time.monotonic() - began < within_s, held()
        time.sleep(0.1)
    return time.monotonic() - began


def epochs(study: Study, number: int) -> list[int]:
    return [e["epoch"] for e in of_trial(study, number, "report")]


@pytest.mark.usefixtures("_ray")
@pytest.mark.timeout(3000)
def test_twenty_trials_leak_nothing_and_equal_one_worker(tmp_path: Path) -> None:
    pauses: list[float] = []
    pruned_at: list[float] = []

    def watch(event: Event) -> None:
        if event["event"] == "end" and event["state"] == "PRUNED":
            pruned_at.append(time.monotonic())

            def measure() -> None:
                import ray

                while (
                    ray.available_resources().get("CPU", 0) < 2
                    and time.monotonic() - pruned_at[-1] < 10
                ):
                    time.sleep(0.05)
                pauses.append(time.monotonic() - pruned_at[-1])

            threading.Thread(target=measure, daemon=True).start()

    study = run(tmp_path / "two", 20, [watch])
    until_free(10)
    states = [t.state for t in study.frozen_trials()]
    assert len(states) == 20
    assert set(states) == {TrialState.COMPLETE, TrialState.PRUNED}
    assert pauses
    print("a pruned trial's processors free after", sorted(round(p, 2) for p in pauses))
    assert max(pauses) < 2
    alone = run(tmp_path / "one", 20, workers=1)
    for trial in study.frozen_trials():
        assert epochs(study, trial.number) == list(range(1, len(epochs(study, trial.number)) + 1))
        assert len(epochs(study, trial.number)) in (
            rungs(6) if trial.state == TrialState.PRUNED else [6]
        )
    theirs = of_trial(alone, 0, "report")
    for mine, other in zip(of_trial(study, 0, "report"), theirs, strict=True):
        assert mine["metrics"]["train/loss"] == pytest.approx(
            other["metrics"]["train/loss"], rel=1e-4
        )


@pytest.mark.usefixtures("_ray")
@pytest.mark.timeout(600)
def test_a_killed_worker_costs_no_epoch(tmp_path: Path) -> None:
    killed: list[int] = []

    def kill(event: Event) -> None:
        if event["event"] == "report" and event["epoch"] == 2 and not killed:
            killed.append(event["trial"])
            os.kill(int(event["metrics"]["time/pid"]), signal.SIGKILL)

    study = run(tmp_path / "toy", 1, [kill])
    until_free(10)
    assert killed == [0]
    assert [e["attempt"] for e in of_trial(study, 0, "start")] == [1, 2]
    assert epochs(study, 0) == list(range(1, 7))
    assert study.frozen_trials()[0].state == TrialState.COMPLETE


@pytest.mark.usefixtures("_ray")
@pytest.mark.timeout(600)
def test_begun_by_one_worker_and_finished_by_two(tmp_path: Path) -> None:
    about = manifest(base=BASE, space=as_json(describe(TOY.space, "tiny", {})))

    def interrupt(event: Event) -> None:
        if event["event"] == "report" and event["epoch"] == 3:
            first.stopping = True

    first = Study.open(tmp_path / "toy", TOY, about, trials=1, repeats=0, observers=[interrupt])
    search_locally(first, TOY)
    first.close()
    assert epochs(first, 0) == [1, 2, 3]
    study = run(tmp_path / "toy", 1)
    assert epochs(study, 0) == list(range(1, 7))
    pids = [e["metrics"]["time/pid"] for e in of_trial(study, 0, "report")]
    assert len(set(pids)) == 2
    assert of_trial(study, 0, "end")[0]["state"] == "COMPLETE"
