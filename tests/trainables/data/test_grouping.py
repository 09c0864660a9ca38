"""Images that `data.group` groups stay in one split; a grouping that leaves a split empty is
refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.config import build
from trainables.data import DataConfig, load_dataset
from trainables.data.contents import Contents
from trainables.data.grouping import Grouping, grouped
from trainables.errors import UserError

FILES = ("a/x_01.png", "a/x_02.png", "a/x_2b.png", "a/y.png", "b/x_03.png", "b/7.png", "8.png")


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        # the last two files are equal and never separated
        ("none", [0, 1, 2, 3, 4, 5, 5]),
        ("folder", [0, 0, 0, 0, 1, 1, 1]),
        ("prefix", [0, 0, 0, 1, 2, 3, 3]),
        ("near", [4, 4, 1, 1, 0, 2, 2]),
    ],
)
def test_groups_are_those_of_the_key(by: Grouping, expected: list[int]) -> None:
    digests = np.random.default_rng(0).integers(0, 256, (7, 32), dtype=np.uint8)
    digests[6] = digests[5]
    contents = Contents(digests, np.array([4, 4, 1, 1, 0, 2, 2]))
    found = grouped(contents, FILES, by)
    assert found.groups.tolist() == expected
    assert found.digests is digests


def fixed_camera(root: Path) -> Path:
    """Write parts under one fixed camera that differ only in sensor noise."""
    rng = np.random.default_rng(0)
    base = np.kron(rng.integers(60, 200, (4, 4, 3)), np.ones((8, 8, 1)))
    for name, count in (("good", 40), ("bad", 20)):
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = base + rng.normal(0, 3, base.shape)
            Image.fromarray(pixels.astype(np.uint8)).save(
                root / name / f"s{number % 10}_{number}.png"
            )
    return root


def load(root: Path, cache: Path, **changes: object):  # type: ignore[no-untyped-def]
    config = build(DataConfig, {"name": str(root), "image_size": 16, **changes})
    return load_dataset(config, "pretrain", cache_dir=cache)


def test_a_fixed_camera_is_refused_with_the_reason_and_the_remedy(tmp_path: Path) -> None:
    root = fixed_camera(tmp_path / "parts")
    with pytest.raises(UserError) as caught:
        load(root, tmp_path / "cache")
    message = str(caught.value)
    assert "are left for val: its 60 images are 1 group of images that belong together" in message
    assert "near-duplicates" in message
    assert "give folders train/, val/ and test/ of your own" in message
    assert "--set data.group=none|folder|prefix" in message
    assert "\n" not in message


def test_what_belongs_together_is_on_one_side(tmp_path: Path) -> None:
    root = fixed_camera(tmp_path / "parts")
    alone = load(root, tmp_path / "cache", group="none")
    sizes = [len(split) for split in (alone.train, alone.val, alone.test)]
    assert sum(sizes) == 60
    assert sizes[1] == sizes[2] == 9

    data = load(root, tmp_path / "cache", group="prefix")
    files = sorted(f"{path.parent.name}/{path.name}" for path in root.glob("*/*.png"))
    sides = {
        name: {files[row].rpartition("_")[0] for row in split.indices}
        for name, split in (("train", data.train), ("val", data.val), ("test", data.test))
    }
    assert len(sides["train"] | sides["val"] | sides["test"]) == 20
    assert sum(map(len, sides.values())) == 20  # no series is in two splits
    assert all(sides.values())
    clusters = data.clusters
    assert clusters is not None
    assert len(np.unique(clusters)) == 20

    with pytest.raises(UserError, match="60 images are 2 groups of images that belong together"):
        load(root, tmp_path / "cache", group="folder")


def test_where_nothing_can_be_grouped_the_key_is_refused(tmp_path: Path) -> None:
    config = DataConfig(name="digits", group="folder")
    with pytest.raises(UserError, match=r"data\.group=folder is for folders of images"):
        load_dataset(config, "pretrain", cache_dir=tmp_path)
    root = fixed_camera(tmp_path / "parts")
    with pytest.raises(UserError, match=r"data\.group=none needs data\.split=3"):
        load(root, tmp_path / "cache", group="none", split=1)
