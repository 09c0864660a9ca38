"""Groups of workers that repeatedly lose a process, without Ray."""

from pathlib import Path
from typing import Any

import pytest

from tests.toy import TOY
from tune.execution import worker_group
from tune.execution.tune_callbacks import LOST_PROCESSES
from tune.execution.worker_group import WorkerGroup, run_with_workers
from tune.study.work import Work, WorkId


def ended(folder: Path, monkeypatch: pytest.MonkeyPatch, groups: list[int | None]) -> list[Any]:
    """Return the ends that are sent if groups reach these epochs before they are lost. None stands
    for a group that finishes the work."""
    sent: list[Any] = []
    left = iter(groups)

    class Group:
        def __init__(self, *_: Any):
            self.epoch = next(left)
            self.latest_epoch = self.epoch or 0

        def forward_to(self, runtime: Any) -> BaseException | None:
            return None if self.epoch is None else RuntimeError("a worker died")

    class Runtime:
        def __init__(self, directory: Path):
            self.directory = directory

        def send(self, kind: str, **fields: Any) -> None:
            sent.append((kind, fields["state"], fields["reason"]))

    monkeypatch.setattr(worker_group, "_RunningGroup", Group)
    monkeypatch.setattr(worker_group, "TuneRuntime", Runtime)
    work = Work(WorkId(1), 0, {}, str(folder))
    run_with_workers(TOY, work, WorkerGroup(2, 1.0, 0.0), LOST_PROCESSES, 1.0)
    assert list(left) == []
    return sent


def test_groups_that_come_further_each_time_are_never_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs: list[int | None] = [epoch for epoch in range(1, 9) for _ in range(LOST_PROCESSES)]
    assert ended(tmp_path, monkeypatch, [*epochs, None]) == []


def test_groups_that_come_no_further_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the first reaches an epoch; the others only report it again, or report nothing
    epochs: list[int | None] = [5, 5, 0, 5]
    assert len(epochs) == LOST_PROCESSES + 1
    assert ended(tmp_path, monkeypatch, epochs) == [("end", "FAIL", "process lost")]
