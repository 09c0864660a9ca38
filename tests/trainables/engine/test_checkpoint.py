"""A kill between writing a file and renaming it: the next start removes what was left."""

import os
from pathlib import Path

import pytest
import torch

from trainables.backbone.summary import write_architecture
from trainables.byol import BYOL, BYOLConfig
from trainables.config import build
from trainables.engine.checkpoint import load_checkpoint, save_checkpoint
from trainables.engine.fit import fit
from trainables.files import ARCHITECTURE, BEST, LAST
from tune.execution.runtimes import LocalRuntime

CONFIG = build(
    BYOLConfig,
    {
        "data.name": "digits",
        "data.image_size": 16,
        "backbone.width": 8,
        "head.projection_size": 16,
        "head.hidden_size": 32,
        "train.epochs": 1,
        "train.epoch_images": 64,
        "train.batch_size": 32,
        "val.probe_steps": 0,
    },
)
SNAPSHOTS = [f"embeddings-{part}-0001.npz" for part in ("train", "val")]
WRITTEN = [ARCHITECTURE, BEST, *SNAPSHOTS, LAST]
"""Every file of a trial, in the order in which they are written."""


def train(folder: Path) -> None:
    torch.manual_seed(CONFIG.seed)
    model = BYOL(CONFIG, BYOL.load_data(CONFIG.data))
    write_architecture(model, folder)
    fit(model, CONFIG, LocalRuntime(folder, lambda epoch, metrics: True))


def train_until(folder: Path, name: str) -> int:
    """Train in a forked process that ends just before the file of this name is renamed into place.
    Return its exit code."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)

    rename = os.replace

    def replace(source: Path, target: Path) -> None:
        if Path(target).name == name:
            os._exit(9)
        rename(source, target)

    os.replace = replace  # type: ignore[assignment]
    try:
        train(folder)
    finally:
        os._exit(1)


def partials(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.partial"))


@pytest.mark.parametrize(
    "name",
    [name if name == LAST else pytest.param(name, marks=pytest.mark.slow) for name in WRITTEN],
)
def test_next_start_removes_what_a_kill_left(tmp_path: Path, name: str) -> None:
    assert train_until(tmp_path, name) == 9
    assert [left.split(".partial")[0].rsplit(".", 1)[0] for left in partials(tmp_path)] == [name]
    assert not (tmp_path / name).exists()
    (tmp_path / "best.ptx1y2z3.tmp").write_text("left by an earlier version")

    train(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(WRITTEN)


def test_checkpoint_returns_what_was_saved(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / LAST) is None
    content = {
        "model": {"weight": torch.randn(3)},
        "optimizer": {},
        "progress": {"epoch": 1},
        "history": [{"val/top1": 0.5}],
    }
    save_checkpoint(tmp_path / LAST, content)
    loaded = load_checkpoint(tmp_path / LAST)
    assert loaded is not None
    assert torch.equal(loaded["model"]["weight"], content["model"]["weight"])
    assert loaded["history"] == content["history"]


def test_a_checkpoint_that_lacks_a_part_is_none(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / LAST, {"model": {}, "history": []})
    assert load_checkpoint(tmp_path / LAST) is None
    assert not (tmp_path / LAST).exists()
