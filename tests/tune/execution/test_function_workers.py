"""A function in several workers: only rank 0's saves and reports count, and a kill costs no
epoch."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tests.ranks import on_ranks
from trainables.base import Metrics
from tune.execution.function_run import FunctionRun
from tune.execution.function_trial import run_function
from tune.execution.runtimes import LocalRuntime
from tune.function import Function
from tune.study.work import Outcome, Work, WorkId

EPOCHS = 3
CONFIG = {"lr": 0.1, "seed": 5, "train.threads": 1}
POINTS = torch.arange(24.0).reshape(8, 3) / 24


class Killed(BaseException):
    """End all workers."""


class RankRuntime(LocalRuntime):
    """The runtime of one worker. Only rank 0 asks the study."""

    def __init__(self, directory: Path, rank: int, world_size: int, reports: list[Metrics]):
        super().__init__(directory, self._answer)
        self.rank = rank
        self.world_size = world_size
        self.reports = reports
        self.stop_at = 99

    def _answer(self, epoch: int, metrics: Metrics) -> bool:
        assert self.rank == 0
        self.reports.append(metrics)
        return epoch < self.stop_at


def train(config: dict[str, Any], run: FunctionRun, kill_after: int = 99) -> None:
    """Train with a share of the points in each worker, and average the gradients."""
    model = nn.Linear(3, 1)
    saved = run.load()
    if saved is not None:
        model.load_state_dict(saved["model"])
    trained: nn.Module = model
    if run.world_size > 1:
        trained = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(trained.parameters(), lr=config["lr"])

    for epoch in run.epochs(EPOCHS):
        mine = POINTS[run.rank :: run.world_size]
        loss = (trained(mine) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.save(model=model.state_dict())
        with torch.no_grad():
            whole = (model(POINTS) - 1).square().mean()
        if run.rank == 0:
            run.report(accuracy=-whole)
        else:
            run.report()  # other ranks report nothing
        if epoch + 1 == kill_after:
            raise Killed

    best = run.load_best()
    assert best is not None
    model.load_state_dict(best["model"])
    if run.rank == 0:
        run.test(accuracy=-(model(POINTS) - 1).square().mean())


def run_on(
    folder: Path, rank: int, count: int, kill_after: int = 99, stop_at: int = 99
) -> tuple[Outcome | None, list[Metrics]]:
    reports: list[Metrics] = []
    runtime = RankRuntime(folder, rank, count, reports)
    runtime.stop_at = stop_at
    work = Work(WorkId(1, 7), 5, CONFIG, str(folder))
    function = Function(lambda config, run: train(config, run, kill_after), "val/accuracy")
    try:
        return run_function(function, work, runtime), reports
    except Killed:
        return None, reports


def losses(reports: list[Metrics]) -> list[float]:
    return [metrics["val/accuracy"] for metrics in reports]


def test_two_workers_compute_what_one_does_and_rank_0_reports(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    alone, reports = run_on(tmp_path / "one", 0, 1)
    (first, theirs), (second, none) = on_ranks(2, lambda rank: run_on(tmp_path / "two", rank, 2))

    assert alone is not None
    assert first is not None
    assert second is not None
    torch.testing.assert_close(losses(theirs), losses(reports))
    assert none == []
    assert [metrics["time/workers"] for metrics in theirs] == [2.0] * EPOCHS
    assert first.value == second.value
    assert first.metrics["test/accuracy"] == first.value
    saved = torch.load(tmp_path / "two/best.pt", weights_only=True)["model"]["weight"]
    whole = torch.load(tmp_path / "one/best.pt", weights_only=True)["model"]["weight"]
    torch.testing.assert_close(saved, whole)


def test_workers_that_were_killed_resume_with_what_was_saved(tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    (whole, expected), _ = on_ranks(2, lambda rank: run_on(tmp_path / "whole", rank, 2))
    (_, before), _ = on_ranks(2, lambda rank: run_on(tmp_path / "killed", rank, 2, kill_after=2))
    (resumed, after), _ = on_ranks(2, lambda rank: run_on(tmp_path / "killed", rank, 2))

    assert losses([*before, *after]) == losses(expected)
    assert whole is not None
    assert resumed is not None
    assert resumed.value == whole.value


def test_a_stop_is_every_workers(tmp_path: Path) -> None:
    found = on_ranks(2, lambda rank: run_on(tmp_path, rank, 2, stop_at=2))
    assert [outcome.state for outcome, _ in found] == ["PRUNED", "PRUNED"]
    assert len(found[0][1]) == 2
    assert not dist.is_initialized()  # in this process
