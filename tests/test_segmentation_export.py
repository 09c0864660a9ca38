"""An exported model answers as the trained one does, and paints a folder of images."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.shapes import CLASSES, COLORS, SIZE, Shapes, shapes, shapes_config
from trainables.augment import evaluation_view
from trainables.config import flatten
from trainables.errors import UserError
from trainables.segmentation_loss import SegmentationLossConfig
from trainables.served import DESCRIPTION, WEIGHTS, Served
from tune.export import paint


def test_served_and_painted(tmp_path: Path) -> None:
    config = replace(shapes_config(), loss=SegmentationLossConfig(name="weighted_ce"))
    torch.manual_seed(0)
    model = Shapes(config, shapes())
    model.calibrate()
    model.export(tmp_path / WEIGHTS, {})
    about = {"kind": "Segmentation", "config": flatten(config), "classes": CLASSES, "colors": COLORS, "labelled": False}
    (tmp_path / DESCRIPTION).write_text(json.dumps(about))
    images = model.data.val.batch(np.arange(3))
    with torch.no_grad():
        expected = model.eval().net(evaluation_view(images, SIZE, "imagenet"))[0].argmax(1).numpy()
    pixels = images.permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(Served(tmp_path).predict(pixels), expected)
    with pytest.raises(UserError, match=r"must be \(B, H, W, 3\) uint8, but got \(32, 32, 3\) uint8"):
        Served(tmp_path).predict(pixels[0])
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(pixels[0]).save(folder / "one.png")
    Image.fromarray(pixels[0]).resize((45, 70)).save(folder / "two.png")
    (folder / "bad.png").write_bytes(b"no image")
    assert paint(tmp_path, folder, tmp_path / "out") == ["bad.png: not an image"]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "one_mask.png")), np.array(COLORS, np.uint8)[expected[0]])
    assert Image.open(tmp_path / "out" / "two_mask.png").size == (45, 70)


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no exported model"):
        Served(tmp_path)
