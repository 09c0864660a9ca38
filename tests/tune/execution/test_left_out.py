"""Machines that get no more trials: which may be left out, what Ray is asked for then, and which is
blamed if a trial has several workers."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from tests import REPO
from tests.toy import TOY
from tune.execution import worker_group
from tune.execution.capacity import ConcurrencyLimit
from tune.execution.left_out import LeftOut
from tune.execution.placement import WITHOUT, Request, others_than
from tune.execution.tune_callbacks import StorageGuard, StudyScheduler
from tune.execution.worker_group import WorkerGroup, run_with_workers
from tune.study.work import Outcome, Work, WorkId

HEAD, GOOD, BAD = "10.0.0.1", "10.0.0.2", "10.0.0.3"


def machines(monkeypatch: pytest.MonkeyPatch, good: float) -> None:
    """Pretend a cluster of a head and two machines with GPUs."""
    cpus = {HEAD: 0.0, GOOD: 2 * good, BAD: 8.0}
    gpus = {HEAD: 0.0, GOOD: good, BAD: 4.0}
    nodes = [
        {
            "Alive": True,
            "NodeID": f"id of {address}",
            "NodeManagerAddress": address,
            "Resources": {"CPU": cpus[address], "GPU": gpus[address]},
        }
        for address in cpus
    ]
    whole = {"CPU": sum(cpus.values()), "GPU": sum(gpus.values())}
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray, "cluster_resources", lambda: whole)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.parametrize(
    ("workers", "good", "left", "then"),
    [
        (1, 1.0, True, 5),  # one worker is waiting for its place, so the limit stays
        (1, 0.0, False, 4),
        (2, 1.0, False, 2),
        (2, 2.0, True, 1),
        (3, 6.0, True, 2),
    ],
)
def test_a_machine_is_left_out_where_the_others_hold_a_trial(
    monkeypatch: pytest.MonkeyPatch, workers: int, good: float, left: bool, then: int
) -> None:
    machines(monkeypatch, good)
    group = WorkerGroup(workers, 2.0, 1.0)
    limit = ConcurrencyLimit(group, None)
    left_out = LeftOut(group, limit)
    limit()
    assert left_out.add(BAD) is left
    assert left_out.ids == (["id of 10.0.0.3"] if left else [])
    assert limit() == then
    assert not left_out.add(BAD)


def test_a_wanted_number_of_groups_is_no_more_than_the_others_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machines(monkeypatch, 2.0)
    group = WorkerGroup(2, 2.0, 1.0)
    limit = ConcurrencyLimit(group, 3)
    assert limit() == 3
    assert LeftOut(group, limit).add(BAD)
    assert limit() == 1


def test_ray_is_asked_for_other_machines() -> None:
    request = Request(cpus=1.0, gpus=0.0)
    assert request({}).bundles == request({WITHOUT: []}).bundles
    asked = request({WITHOUT: ["a", "b"]})
    assert asked._bound.kwargs["bundle_label_selector"] == [{"ray.io/node-id": "!in(a,b)"}]
    assert others_than([]) == {}


@pytest.mark.heavy
def test_a_process_reads_its_request_without_torch() -> None:
    """Ray unpickles it first, in every process of a cluster. The experiment brings torch."""
    request = ray.cloudpickle.dumps(Request(cpus=1.0, gpus=0.0))
    script = f"import pickle, sys; pickle.loads({request!r}); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, check=False
    )
    assert done.stdout == "False\n", done.stderr


class Heard:
    """A study that notes which machine is blamed."""

    stopping = False

    def __init__(self) -> None:
        self.said: list[Any] = []

    def is_new_epoch(self, work: Work, epoch: int) -> bool:
        return False

    def started(self, work: Work) -> None:
        self.said.append("start")

    def reported(self, work: Work, epoch: int, metrics: dict[str, float], *nodes: str) -> bool:
        self.said.append(nodes)
        return True

    def ended(self, work: Work, outcome: Outcome, node: str | None) -> None:
        self.said.append((outcome.state, node))

    def requeue_after_failure(self, work: Work, failure: Exception, node: str | None) -> None:
        self.said.append(("storage", node))


def heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: list[Any]) -> list[Any]:
    """Return what a study is told about a group with a worker on each of two machines, whose Tune
    trial runs on the head."""
    study = Heard()
    scheduler = StudyScheduler(study, StorageGuard(study))  # type: ignore[arg-type]
    work = Work(WorkId(1), 0, {}, str(tmp_path))
    trial = SimpleNamespace(config={"work": work.to_json()})
    queued = [{"kind": "joined", "node": node} for node in (GOOD, BAD)] + messages

    class Remote:
        """An actor's method that answers at once."""

        def __init__(self, answer: Callable[..., Any]):
            self.remote = answer

    def receive(patience_s: float) -> str | None:
        return json.dumps(queued.pop(0)) if queued else None

    mailbox = SimpleNamespace(receive=Remote(receive), handled=Remote(lambda: None))
    fake_ray = SimpleNamespace(
        remote=lambda **_: lambda kind: Remote(lambda: mailbox),
        get=lambda answer: answer,
        kill=lambda actor: None,
    )

    class Runtime:
        def __init__(self, directory: Path):
            self.directory = directory

        def send(self, kind: str, **fields: Any) -> None:
            result = {"message": json.dumps({"kind": kind, **fields}), "node_ip": HEAD}
            scheduler.on_trial_result(None, trial, result)  # type: ignore[arg-type]

    monkeypatch.setattr(worker_group, "ray", fake_ray)
    monkeypatch.setattr(worker_group, "TuneRuntime", Runtime)
    monkeypatch.setattr(worker_group, "_trainer", lambda *_: lambda: None)
    run_with_workers(TOY, work, WorkerGroup(2, 1.0, 0.0), 0, 1.0)
    return study.said


def message(kind: str, node: str, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "node": node, **fields}


def test_an_epoch_speaks_for_the_machines_of_all_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = message("end", GOOD, state="COMPLETE", value=0.5)
    messages = [message("start", GOOD), message("report", GOOD, epoch=1, metrics={}), end]
    said = heard(tmp_path, monkeypatch, messages)
    assert said == ["start", (GOOD, BAD), ("COMPLETE", GOOD)]


def test_the_machine_of_the_worker_that_failed_is_to_blame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = message("end", BAD, state="FAIL", reason="ImportError")
    said = heard(tmp_path, monkeypatch, [message("start", GOOD), failed])
    assert said[:2] == ["start", ("FAIL", BAD)]

    full = message("storage failed", BAD, error="no space", code=28)
    assert heard(tmp_path, monkeypatch, [full])[0] == ("storage", BAD)


def test_nobody_is_to_blame_for_a_group_that_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert heard(tmp_path, monkeypatch, []) == [("FAIL", None)]
