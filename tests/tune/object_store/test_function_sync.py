"""If a function's trial loses its machine, another machine resumes it from the store."""

import io
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.object_store import machine
from trainables.files import LAST
from tune.execution.runtimes import LocalRuntime
from tune.execution.trial import run
from tune.function_experiment import function_experiment
from tune.object_store import s3, trial_sync
from tune.study.work import Outcome, Work, WorkId

pytestmark = pytest.mark.usefixtures("store")
CONFIG = {"lr": 0.5, "seed": 0, "train.threads": 1}
trained: list[int] = []


def train(config: dict[str, Any], run: Any) -> None:
    saved = run.load() or {"total": 0.0}
    for epoch in run.epochs(4):
        trained.append(epoch)
        saved["total"] += float(torch.rand(()))
        run.save(total=saved["total"])
        run.report(accuracy=saved["total"])


def trial(root: Path, reports: list[int], until: int = 99) -> Outcome:
    experiment = function_experiment(
        train, objective="accuracy", space={"lr": (0.1, 1.0)}, name="own"
    )
    work = Work(WorkId(0), 0, CONFIG, str(root / "own" / "trials" / "0000"))

    def report(epoch: int, metrics: Any) -> bool:
        reports.append(epoch)
        if epoch == until:
            wait_for_checkpoint(Path(work.directory) / LAST, epoch - 1)
        return epoch < until

    return run(experiment, work, LocalRuntime(Path(work.directory), report))


def wait_for_checkpoint(path: Path, epoch: int) -> None:
    """Wait until the store has the checkpoint of an epoch."""
    deadline = time.monotonic() + 30
    while True:
        content = s3.get(path)
        if content is not None:
            saved = torch.load(io.BytesIO(content.body), weights_only=True)
            if saved["vistune"]["epoch"] >= epoch:
                return
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_another_machine_resumes_from_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_sync, "_POLL_S", 0.02)
    monkeypatch.setattr(trial_sync, "_EVERY_S", 0.0)
    whole = trial(tmp_path / "plain", [])
    lost, other = machine(monkeypatch, tmp_path / "a"), machine(monkeypatch, tmp_path / "b")
    monkeypatch.setenv("VISTUNE_CACHE", str(tmp_path / "a"))
    trial(lost, [], until=3)
    trained.clear()

    monkeypatch.setenv("VISTUNE_CACHE", str(tmp_path / "b"))
    reports: list[int] = []
    found = trial(other, reports)

    assert trained == [2, 3]
    assert reports == [1, 2, 3, 4]  # a restored record may lack the first reports
    assert found.value == whole.value
