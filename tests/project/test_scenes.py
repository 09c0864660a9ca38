"""`benchmarks/scenes.py`: photographed cut-outs on photographs, with masks and three splits."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import scenes

STEMS = "abcdefghijklmnop"
"""Sixteen subjects of each class."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes of cut-outs that are squares of one colour each on black photographs: red is the
    class, green the subject, blue which of a subject's two cut-outs."""
    root = tmp_path_factory.mktemp("scenes")
    packages = root / "packages"
    for label, patterns in enumerate(scenes.CLASSES.values(), start=1):
        folder = packages / scenes.STAMPS / Path(patterns[0]).parent
        folder.mkdir(parents=True)
        for number, stem in enumerate(STEMS):
            for blue, name in ((100, f"{stem}.png"), (200, f"{stem}_2.png")):
                color = (40 * label, 8 * number + 8, blue, 255)
                Image.new("RGBA", (30, 30), color).save(folder / name)
    for name in scenes.PHOTOS:
        file = packages / "usr/share" / name
        if not file.suffix:
            file = file / "contents/images/400x300.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (400, 300)).save(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "TRAIN_IMAGES", 60)
        patch.setattr(scenes, "IMAGES_PER_GROUP", 4)
        patch.setattr(sys, "argv", ["scenes.py", str(packages), str(root / "made")])
        scenes.main()
    return root / "made"


def _pairs(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Read images (96, 96, 3) and masks (96, 96), uint8."""
    return [
        (np.asarray(Image.open(file)), np.asarray(Image.open(_mask_of(file))))
        for file in sorted((folder / "images").rglob("*.png"))
    ]


def _colors(image: np.ndarray) -> np.ndarray:
    """Return the colours (n, 3) of an image's cut-outs."""
    return np.unique(image[image[:, :, 2] > 0], axis=0)


def _mask_of(image: Path) -> Path:
    return Path(str(image).replace("/images/", "/masks/"))


def test_no_subject_is_in_two_splits(made: Path) -> None:
    seen: dict[str, set[tuple[int, int]]] = {}
    for split in scenes.SHARES:
        shown = np.concatenate([_colors(image) for image, _ in _pairs(made / split)])
        seen[split] = {(int(red), int(green)) for red, green, _ in shown}

    assert len(seen["train"]) >= 30
    assert len(seen["test"]) >= 20
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["val"]
    assert not seen["val"] & seen["test"]


def test_masks_mark_what_is_shown(made: Path) -> None:
    names = (made / "classes.txt").read_text().split()
    assert names == ["background", "bird", "mammal", "food", "flower", "tool"]
    for image, mask in _pairs(made / "test"):
        np.testing.assert_array_equal(mask, image[:, :, 0] // 40)


def test_groups_of_val_and_test_share_no_cut_out(made: Path) -> None:
    groups = [
        np.unique(np.concatenate([_colors(np.asarray(Image.open(file))) for file in files]), axis=0)
        for folder in sorted((made / "test/images").iterdir())
        if (files := sorted(folder.iterdir()))
    ]
    assert max(map(len, groups)) == 3
    every = np.concatenate(groups)
    assert len(np.unique(every, axis=0)) == len(every)
