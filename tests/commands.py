"""The command line as tests use it (through the fixture `call` of conftest.py), and its output."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import REPO
from tune.reports.undrawn import write_wanted

SCRIPT = str(REPO / "tune/run.py")
NO_SERVER = "http://127.0.0.1:9"  # a closed port: these tests are not about MLflow
LOCAL_TOY = ("toy", "--local", "--repeats", "0", "--trials")
SMALL = (
    "--local",
    "--set",
    "data.image_size=8",
    "--set",
    "backbone.width=8",
    "--set",
    "backbone.pool=1",
    "--set",
    "train.epochs=3",
)
BYOL = (
    "--set",
    "val.probe_steps=0",
    "--set",
    "head.hidden_size=32",
    "--set",
    "head.projection_size=16",
)


def to_resolve(pins: list[str], preset: str) -> Any:
    """Options of a command as `default_config.resolve` reads them, with only pins and a preset
    given."""
    return SimpleNamespace(
        set=pins,
        space=None,
        no_search=None,
        preset=preset,
        data=None,
        seed=0,
        skip_corrupt=False,
        transductive=False,
        setting=None,
        layout=None,
        objective=None,
        balance=None,
    )


@dataclass
class Said:
    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line of a refusal."""
        assert self.err.startswith("vistune: "), self.err
        assert self.err.count("\n") == 1, self.err
        assert "Traceback" not in self.out
        return self.err.removeprefix("vistune: ").strip()


Call = Callable[..., Said]


def use_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send studies to the real store of their storage, which `call` prevents."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setattr("tune.tracking.replay.PATIENCE_S", 3.0)


def leave_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the pictures of a run to `report.py html`. With `call` alone none are drawn."""
    monkeypatch.setattr(
        "tune.reports.plot_worker.Pictures.watch",
        lambda _, study: write_wanted(study.directory, "best"),
    )


def left_in(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
