"""An exported model answers as the trained one does, and segments a folder of images."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.mlflow_store import begin_store
from tests.one_trial import one_trial
from tests.shapes import CLASSES, COLORS, SIZE, Shapes, shapes, shapes_config
from trainables.augment.views import evaluation_view
from trainables.class_metrics import read_class_results
from trainables.config import flatten
from trainables.data import IGNORE
from trainables.errors import UserError
from trainables.segmentation import Segmentation
from trainables.segmenters.losses import SegmentationLossConfig
from trainables.served import DESCRIPTION, WEIGHTS, Served
from tune import report
from tune.export import paint
from tune.study.events import EventLog


def test_served_and_painted(tmp_path: Path) -> None:
    config = replace(shapes_config(), loss=SegmentationLossConfig(name="weighted_ce"))
    torch.manual_seed(0)
    model = Shapes(config, shapes())
    model.calibrate()
    model.export(tmp_path / WEIGHTS, {})
    about = {
        "kind": "Segmentation",
        "config": flatten(config),
        "classes": CLASSES,
        "colors": COLORS,
        "labelled": False,
    }
    (tmp_path / DESCRIPTION).write_text(json.dumps(about))
    images = model.data.val.batch(np.arange(3))
    with torch.no_grad():
        expected = model.eval().net(evaluation_view(images, SIZE, "imagenet"))[0].argmax(1).numpy()
    pixels = images.permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(Served(tmp_path).predict(pixels), expected)
    with pytest.raises(
        UserError, match=r"must be \(B, H, W, 3\) uint8, but got \(32, 32, 3\) uint8"
    ):
        Served(tmp_path).predict(pixels[0])
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(pixels[0]).save(folder / "one.png")
    Image.fromarray(pixels[0]).resize((45, 70)).save(folder / "two.png")
    Image.fromarray(pixels[1]).save(folder / "two.bmp")
    (folder / "bad.png").write_bytes(b"no image")
    assert paint(tmp_path, folder, tmp_path / "out") == ["bad.png: not an image"]
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "out" / "one_mask.png")),
        np.array(COLORS, np.uint8)[expected[0]],
    )
    assert Image.open(tmp_path / "out" / "two.png_mask.png").size == (45, 70)
    assert Image.open(tmp_path / "out" / "two.bmp_mask.png").size == (SIZE, SIZE)


def search_shapes(root: Path) -> None:
    """Run a study `shapes` of one trial of `segment`."""
    one_trial(
        root,
        "shapes",
        "segment",
        replace(shapes_config(), train=replace(shapes_config().train, batch_size=8)),
    )


def test_a_study_is_exported_by_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Segmentation, "load_data", Shapes.load_data)
    begin_store(tmp_path)
    search_shapes(tmp_path)
    trial = tmp_path / "shapes" / "trials" / "0000"
    artifacts: list[dict[str, Any]] = [
        e for e in EventLog.read(tmp_path / "shapes/events.jsonl")[0] if e["event"] == "artifact"
    ]
    assert [(e["trial"], e["path"], e["to"]) for e in artifacts] == [
        (0, "trials/0000/architecture.txt", ""),
        (0, "trials/0000/classes.csv", ""),
    ]
    results = read_class_results(trial / "classes.csv")
    assert [result.name for result in results] == list(CLASSES)
    known = shapes().val.masks(np.arange(12)).numpy() != IGNORE
    assert sum(result.count for result in results) == known.sum()
    # the scores: one channel per class, in the image's size
    assert "[1, 3, 32, 32]" in (trial / "architecture.txt").read_text()
    monkeypatch.setattr(sys, "argv", ["report.py", "export", "shapes", "--storage", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"^0$"):
        report.main()
    folder = tmp_path / "shapes" / "model"
    first, second = capsys.readouterr().out.splitlines()[:2]
    assert first == str(folder)
    assert re.fullmatch(r"trial 0 of shapes: val/miou (\d\.\d{4}), on record \1", second)
    model = Shapes(shapes_config(), shapes())
    model.load_export(trial / "best.pt")
    images = model.data.val.batch(np.arange(2))
    with torch.no_grad():
        expected = model.eval().net(evaluation_view(images, SIZE, "imagenet"))[0].argmax(1).numpy()
    served = Served(next(folder.rglob(DESCRIPTION)).parent)
    np.testing.assert_array_equal(served.predict(images.permute(0, 2, 3, 1).numpy()), expected)
    monkeypatch.setattr(
        sys, "argv", ["report.py", "export", "shapes/7", "--storage", str(tmp_path)]
    )
    with pytest.raises(SystemExit, match=r"^2$"):
        report.main()
    assert "7" in capsys.readouterr().err


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="contains no exported model"):
        Served(tmp_path)
