"""Searches from Python run without MLflow and pictures, which have their own tests."""

from pathlib import Path

import pytest

from tests.commands import NO_SERVER


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NO_SERVER)
    monkeypatch.setattr("tune.tracking.replay.PATIENCE_S", 0.2)
    monkeypatch.setattr("tune.reports.plot_worker.Pictures.watch", lambda *_: None)
    monkeypatch.chdir(tmp_path)
