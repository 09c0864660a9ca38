"""The picture of a data set: which images are chosen, and where their pixels are drawn."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.shapes import CLASSES, shapes
from trainables.data import DataSet, Split
from trainables.plots.data_sample import write_data_sample
from trainables.plots.draw import draw

LEVELS = (30, 120, 210)


def grey_images(labels: list[int], train: int, names: tuple[str, ...] = ("a", "b", "c")) -> DataSet:
    """Return images of a single level each, which encodes the class. The last rows are val and
    test."""
    known = np.array(labels)
    images = np.zeros((len(known), 3, 16, 16), np.uint8)
    for row, label in enumerate(known):
        images[row] = LEVELS[label % 3]
    held_out = (len(known) - train) // 2
    rows = np.split(np.arange(len(known)), [train, train + held_out])
    splits = [Split(images, known, chosen) for chosen in rows]
    return DataSet(
        name="painted",
        fingerprint="1" * 32,
        classes=names,
        train=splits[0],
        gallery=splits[0],
        val=splits[1],
        test=splits[2],
        skipped=(),
    )


def written_sample(data: DataSet, folder: Path) -> dict[str, np.ndarray]:
    write_data_sample(data, folder / "data.npz")
    with np.load(folder / "data.npz") as arrays:
        return dict(arrays)


def test_every_line_shows_images_of_its_class(tmp_path: Path) -> None:
    data = grey_images([0, 1, 2] * 20 + [2, 1, 0] * 6, train=60)
    arrays = written_sample(data, tmp_path)
    assert arrays["splits"].tolist() == ["train", "val", "test"]
    for name, count in (("train", 20), ("val", 3), ("test", 3)):
        level = arrays[f"{name}_images"].mean((1, 2, 3))
        label = arrays[f"{name}_labels"][arrays[f"{name}_lines"]]
        np.testing.assert_array_equal(level, np.array(LEVELS)[label])
        assert set(arrays[f"{name}_counts"].tolist()) == {count}
        assert set(label.tolist()) == {0, 1, 2}


def test_no_image_is_shown_twice_in_a_split(tmp_path: Path) -> None:
    images = np.arange(90, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 8, 8), np.uint8)
    data = grey_images([0, 1, 2] * 30, train=60)
    splits = {
        name: replace(getattr(data, name), images=images) for name in ("train", "val", "test")
    }
    arrays = written_sample(replace(data, **splits, gallery=splits["train"]), tmp_path)
    for name in splits:
        shown = arrays[f"{name}_images"][:, 0, 0, 0].tolist()
        assert len(set(shown)) == len(shown)


def test_unlabeled_images_are_shown_without_names(tmp_path: Path) -> None:
    data = grey_images([0] * 90, train=60, names=())
    unlabeled = {
        name: replace(getattr(data, name), labels=None) for name in ("train", "val", "test")
    }
    arrays = written_sample(replace(data, **unlabeled, gallery=None), tmp_path)
    assert set(arrays["train_labels"].tolist()) == {-1}
    assert len(arrays["train_images"]) == 40
    assert draw(tmp_path / "data.npz", tmp_path, "title") == [tmp_path / "data.png"]


def test_ten_of_many_classes_are_shown(tmp_path: Path) -> None:
    names = tuple(f"class {number}" for number in range(40))
    data = grey_images(list(range(40)) * 4, train=80, names=names)
    arrays = written_sample(data, tmp_path)
    labels = np.unique(arrays["train_labels"])
    assert len(labels) == 10
    assert labels[0] == 0
    assert labels[-1] == 39


def test_images_are_drawn_in_the_order_of_their_classes(tmp_path: Path) -> None:
    data = grey_images([0, 1, 2] * 20 + [2, 1, 0] * 6, train=60)
    write_data_sample(data, tmp_path / "data.npz")
    [path] = draw(tmp_path / "data.npz", tmp_path / "plots", "title")
    picture = np.asarray(Image.open(path).convert("L")).astype(int)
    rows: dict[int, np.ndarray] = {}
    for level in LEVELS:
        exact = np.abs(picture - level) == 0
        rows[level] = np.flatnonzero(exact.sum(1) > 200)
        assert len(rows[level]) > 50, level
    middles = [float(np.median(rows[level])) for level in LEVELS]
    assert middles == sorted(middles)  # a above b above c


def test_masks_are_drawn_beside_their_images(tmp_path: Path) -> None:
    data = shapes()
    write_data_sample(data, tmp_path / "data.npz")
    with np.load(tmp_path / "data.npz") as arrays:
        assert arrays["names"].tolist() == list(CLASSES)
        masks = arrays["train_masks"]
        images = arrays["train_images"]
    assert masks.shape == (len(images), *images.shape[2:])
    [path] = draw(tmp_path / "data.npz", tmp_path, "title")
    with Image.open(path) as picture:
        assert picture.width > picture.height  # pairs of image and mask, side by side


@pytest.mark.parametrize("side", [300, 512])
def test_large_images_are_subsampled(tmp_path: Path, side: int) -> None:
    data = grey_images([0, 1, 2] * 10, train=20)
    images = np.zeros((30, 3, side, side), np.uint8)
    splits = {
        name: replace(getattr(data, name), images=images) for name in ("train", "val", "test")
    }
    arrays = written_sample(replace(data, **splits, gallery=splits["train"]), tmp_path)
    assert arrays["train_images"].shape[-1] <= 150
