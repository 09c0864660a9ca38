"""A study of 1,000 trials of `ssl` with its full space is displayed in seconds."""

import math
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import REPO
from trainables.config import build, flatten
from tune.experiments import EXPERIMENTS
from tune.reports.html_report import write_report
from tune.search.space import as_json, describe
from tune.study.manifest import Manifest
from tune.study.study import Study
from tune.study.work import Outcome, Work

TRIALS, EPOCHS = 1000, 12
# each of the thousand trials waits for the disk eight times
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def curve(config: dict[str, Any], rng: random.Random) -> Iterator[float]:
    """kNN accuracies that rise, and are higher near a learning rate of .003 and for small, strong
    crops."""
    best = (
        0.3 - 0.05 * abs(math.log10(config["optim.lr"]) + 2.5) + 0.1 * config["aug.crop_scale_min"]
    )
    return (
        max(0.0, best * (1 - 0.8 ** (epoch + 1)) + rng.gauss(0, 0.005)) for epoch in range(EPOCHS)
    )


def search(root: Path, trials: int = TRIALS) -> None:
    """The study `many`, whose trials train nothing."""
    experiment, rng = EXPERIMENTS["ssl"], random.Random(0)
    base = flatten(build(experiment.config, experiment.presets["tiny"]))
    manifest = Manifest(
        name="many",
        experiment="ssl",
        preset="tiny",
        objective="val/knn_top1",
        seed=0,
        base=base,
        pins={},
        space=as_json(describe(experiment.space, "tiny", {})),
        data={"name": "glyphs", "fingerprint": "f", "path": "glyphs", "images": 1530},
    )
    study = Study.open(root / "many", experiment, manifest, trials=trials, repeats=0)
    while isinstance(work := study.next_work(), Work):
        study.started(work)
        values = [] if work.kind == "baseline" else list(curve(work.config, rng))
        others = {
            "train/loss": 1.0,
            "val/std": 0.5,
            "val/rankme": 20.0,
            "time/epoch_s": 2.0,
            "time/images_per_s": 1500.0,
        }
        if work.kind == "baseline":
            study.ended(work, Outcome("COMPLETE", metrics={"baseline/val/knn_top1": 0.07}))
        elif work.id.trial % 50 == 7:
            study.ended(work, Outcome("FAIL", reason="nan", error="Traceback"))
        elif all(
            study.reported(work, epoch, {"val/knn_top1": value} | others)
            for epoch, value in enumerate(values, 1)
        ):
            study.ended(work, Outcome("COMPLETE", max(values)))
        else:
            study.ended(work, study.pruned(work))
    study.close()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("many")
    search(root)
    return root


def test_show_takes_three_seconds(many: Path) -> None:
    command = [sys.executable, "tune/report.py", "show", "many", "--storage", str(many)]
    begun = time.monotonic()
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPO).stdout
    assert time.monotonic() - begun < 3
    assert "1000 trials" in said


def test_page_takes_half_a_minute_and_ten_megabytes(many: Path) -> None:
    begun = time.monotonic()
    path = write_report(many / "many")
    assert time.monotonic() - begun < 30
    assert path.stat().st_size < 10_000_000


@pytest.mark.parametrize("width", [1400, 390])
def test_page_is_usable(many: Path, browser: Any, width: int) -> None:
    """It can be read after 5 seconds. Each figure appears within 5 seconds of scrolling into
    view."""
    path = write_report(many / "many")
    metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    begun = time.monotonic()
    browser.get(f"file://{path}")
    assert time.monotonic() - begun < 5
    assert "of the epochs saved by pruning" in browser.find_element("css selector", ".facts").text
    figures = browser.find_elements("css selector", ".plot")
    assert len(figures) > 10
    for figure in figures:
        begun = time.monotonic()
        browser.execute_script("arguments[0].scrollIntoView()", figure)
        while not figure.find_elements("css selector", ".main-svg"):
            assert time.monotonic() - begun < 5
            time.sleep(0.1)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
