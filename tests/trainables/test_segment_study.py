"""`python tune/run.py segment` on a folder of pairs: damaged masks, kills, and an unreachable
MLflow."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import REPO
from tests.kills import Command, check_mlflow, check_study, dead, wait_until
from trainables.data.store_building import SKIPPED
from tune.study.manifest import read_manifest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

SIDE, TRIALS = 32, 3
DAMAGED = ("0003_mask.png", "0007_mask.png")


class Segment(Command):
    """The command `segment` on a folder of pairs in the satellite layout."""

    experiment = "segment"
    settings = ("data.image_size=32", "train.epochs=4", "train.epoch_images=64", "backbone.width=8")

    def __init__(self, storage: Path, data: Path, *more: str, **environment: str):
        super().__init__(
            storage, "--data", str(data), "--preset", "tiny", *more, trials=TRIALS, **environment
        )


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Write 40 + 8 images whose halves are forest and water, in clearly different colours."""
    rng, root = np.random.default_rng(0), tmp_path / "pairs"
    for part, count in (("train", 40), ("validation", 8)):
        (root / part).mkdir(parents=True)
        for number in range(count):
            water = np.arange(SIDE)[:, None] + np.zeros(SIDE, int) < rng.integers(8, 25)
            picture = np.where(water[..., None], (30, 60, 150), (40, 120, 50)) + rng.integers(
                -30, 31, (SIDE, SIDE, 3)
            )
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(
                root / part / f"{number:04d}_sat.jpg"
            )
            mask = np.where(water[..., None], (0, 0, 255), (0, 255, 0)).astype(np.uint8)
            Image.fromarray(mask).save(root / part / f"{number:04d}_mask.png")
    return root


def damage(root: Path) -> None:
    """Cut off one mask, as a full disk does; give another the colour that has no class."""
    cut, red = (root / "train" / name for name in DAMAGED)
    cut.write_bytes(cut.read_bytes()[:60])
    Image.new("RGB", (SIDE, SIDE), (255, 0, 0)).save(red)


def test_damaged_masks_are_named_before_any_trial_or_left_out_on_record(
    tmp_path: Path, pairs: Path
) -> None:
    damage(pairs)
    environment = {"VISTUNE_CACHE": str(tmp_path / "cache")}
    refused = Segment(tmp_path / "refused", pairs, **environment)
    assert refused.finish() == 2
    assert "Traceback" not in refused.output
    assert all(path in refused.output.replace("\n", "") for path in (*DAMAGED, "--skip-corrupt"))
    assert not refused.events("start")
    command = Segment(tmp_path / "runs", pairs, "--skip-corrupt", **environment)
    assert command.finish() == 0, command.output
    skipped = next((tmp_path / "cache").rglob(SKIPPED)).read_text()
    assert all(path in skipped for path in DAMAGED)
    # 6 are carved for validation
    assert read_manifest(command.folder / "study.json").data["images"] == 40 - len(DAMAGED) - 6
    check_study(command, TRIALS)
    check_mlflow(command, TRIALS)


def test_killed_without_mlflow_it_goes_on_and_sync_fills_it_in(tmp_path: Path, pairs: Path) -> None:
    with dead() as address:
        command = Segment(tmp_path / "runs", pairs, MLFLOW_TRACKING_URI=address)
        for reports in (1, 4):
            process = command.start()
            wait_until(lambda: len(command.events("report")) >= reports, command, process)  # noqa: B023
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        assert command.finish() == 0, command.output
    assert "report.py sync" in command.output
    again: list[dict[str, Any]] = [e for e in command.events("start") if e["attempt"] > 1]
    assert any(e["resumed_epoch"] for e in again)
    check_study(command, TRIALS)
    report = [sys.executable, str(REPO / "tune/report.py")]
    storage = ["--storage", str(command.storage)]
    subprocess.run([*report, "sync", *storage], check=True, timeout=200, capture_output=True)
    check_mlflow(command, TRIALS)
    # `html` draws the missing pictures
    page = [*report, "html", "segment", *storage]
    subprocess.run(page, check=True, timeout=200, capture_output=True)
    assert sorted(
        path.name for path in (command.folder / "trials" / "0000" / "plots").glob("*masks*")
    ) == [
        f"{kind}_masks-{epoch:04d}.png"
        for kind in ("confusion", "iou", "predicted")
        for epoch in (1, 2, 4)
    ]
