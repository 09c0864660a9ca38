"""Data with masks: `earth` has the right orientation, its splits are disjoint, and masks follow
their images."""

from pathlib import Path

import numpy as np
import pytest

from trainables.data import IGNORE, DataConfig, DataSet, earth, inspect, load_dataset
from trainables.errors import UserError

SITES = {  # latitude, longitude
    "arid": [(23, 10), (-25, 125), (20, 50)],
    "tropical": [(-5, -62), (0, 22), (0, 114)],
    "temperate": [(48.8, 2.3), (33, -84), (-30, -56)],
    "cold": [(62, 100), (52, -85), (56, 38)],
    "polar": [(-80, 90), (75, -40), (-75, -80)],
    "water": [(0, -150), (42, 51), (47.7, -87.5), (-40, 80)],
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def data(cache: Path) -> DataSet:
    return load_dataset(DataConfig(name="earth", image_size=64), "segment", cache)


def test_climates_lie_where_they_are() -> None:
    climates = earth.climate_map()
    for name, places in SITES.items():
        for latitude, longitude in places:
            found = climates[int((90 - latitude) * 15), int((longitude + 180) * 15)]
            assert earth.CLASSES[found] == name, (latitude, longitude)


def test_masks_lie_on_their_images(data: DataSet) -> None:
    """Water is blue and climates have their typical look; flipped masks do not fit."""
    positions = np.arange(len(data.train))
    images, masks = (
        data.train.batch(positions).numpy().astype(float),
        data.train.masks(positions).numpy(),
    )
    blueness = images[:, 2] - images[:, :2].mean(1)
    water = masks == 0
    gap = blueness[water].mean() - blueness[~water & (masks < 5)].mean()
    for flipped in (water[:, ::-1], water[:, :, ::-1]):
        assert gap > blueness[flipped].mean() - blueness[~flipped].mean() + 5
    assert images.mean(1)[masks == 5].mean() > 2 * images.mean(1)[masks == 1].mean()


def test_splits_have_no_neighbours(data: DataSet) -> None:
    at = np.array(earth.places(earth.climate_map()))
    columns = 5400 // earth.TILE
    rows = [at[split.indices] for split in (data.train, data.val, data.test)]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        down = np.abs(rows[a][:, None, 0] - rows[b][None, :, 0])
        right = np.abs(rows[a][:, None, 1] - rows[b][None, :, 1])
        assert np.minimum(right, columns - right)[down <= 1].min() > 1


@pytest.mark.parametrize("seed", range(3))
def test_every_split_has_every_class(seed: int, cache: Path) -> None:
    data = load_dataset(DataConfig(name="earth", image_size=64, seed=seed), "segment", cache)
    for split in (data.train, data.val, data.test):
        assert set(np.unique(split.masks(np.arange(len(split))).numpy())) - {IGNORE} == set(
            range(6)
        )


def test_inspection_and_refusals(data: DataSet, cache: Path, tmp_path: Path) -> None:
    found = inspect(DataConfig(name="earth"), "segment", tmp_path)
    assert (found.fingerprint, found.classes, sum(found.counts.values())) == (
        data.fingerprint,
        6,
        len(data.train.images),
    )
    with pytest.raises(UserError, match="'digits' has no masks"):
        load_dataset(DataConfig(name="digits"), "segment", cache)
