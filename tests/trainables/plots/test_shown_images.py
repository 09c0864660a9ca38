"""The choice of images that pictures of masks show."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.shapes import shapes
from trainables.data import DataConfig, load_dataset
from trainables.plots.masks import _captions
from trainables.plots.shown_images import shown_images

IDS = ["0010", "0013", "0062", "0097", "0104", "0107"]


def satellite(root: Path, parts: dict[str, list[str]]) -> Path:
    """Write pairs of noise, 40 extra ones in train."""
    rng = np.random.default_rng(0)
    for part, ids in {"train": IDS + [f"{n:04d}" for n in range(200, 240)], **parts}.items():
        (root / part).mkdir(parents=True)
        for number in ids:
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / part / f"{number}_sat.png")
            mask = np.zeros((32, 32, 3), np.uint8)
            mask[..., rng.integers(1, 3)] = 255
            Image.fromarray(mask).save(root / part / f"{number}_mask.png")
    return root


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([*IDS, "0001"], ["0013", "0062", "0104", "0010", "0097", "0107"]),
        (["0001", "0013", "0062", "0104", "0010"], ["0013", "0062", "0104"]),
    ],
)
def test_files_that_the_reports_name_are_shown(
    tmp_path: Path, ids: list[str], expected: list[str]
) -> None:
    """The layout's validation part is the test split, and train contains files of the same
    names."""
    root = satellite(tmp_path / "data", {"validation": ids})
    data = load_dataset(DataConfig(name=str(root), image_size=32), "segment", tmp_path / "cache")
    shown = shown_images(data, np.zeros(len(data.val)))
    assert shown.captions == tuple(f"{number}_sat.png" for number in expected)
    for row, number in zip(shown.rows, expected, strict=True):
        file = np.asarray(Image.open(root / "validation" / f"{number}_sat.png"))
        np.testing.assert_array_equal(data.val.images[row], file.transpose(2, 0, 1))


def test_other_data_shows_first_middle_last_and_worst() -> None:
    data = shapes()
    accuracies = np.array([0.9, 0.2, 0.8, 0.1, 0.7, 0.0, 0.6, 0.3, 0.9, 0.9, 0.9, 0.5])
    shown = shown_images(data, accuracies)
    assert (shown.rows - data.val.indices[0]).tolist() == [0, 5, 11, 3, 1, 7]
    assert shown.captions[2:4] == ("0011 (last)", "0003 (worst)")
    few = replace(data, val=replace(data.val, indices=data.val.indices[:2]))
    shown = shown_images(few, accuracies[:2])
    assert shown.rows.tolist() == few.val.indices.tolist()
    assert shown.captions == ("0000 (first)", "0001 (last)")


def test_files_of_earlier_trials_have_positions() -> None:
    assert _captions({"positions": np.array([13, 104])}) == ("0013", "0104")
