"""Folders of images with masks: both layouts decoded against NumPy, and every way in which a pair
can be wrong, reported by name."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.data import IGNORE, DataConfig, DataSet, inspect, load_dataset
from trainables.data.layouts import read_layout
from trainables.data.masks import SATELLITE
from trainables.errors import UserError

SIDE = 16
COLORS = np.array([*SATELLITE.values(), (0, 0, 0)], np.uint8)  # 6 is unknown
CLASSES = "ground\nroad\nroof\n"
NO_CLASSES = (
    "has no classes.txt; its masks have the values 0, 1, 2, 255: write one class name a line for "
    "the values 0 to 2, in their order; 255 is unknown"
)


def satellite(root: Path, train: int = 8, validation: int = 3) -> dict[str, np.ndarray]:
    """Write pairs and return {path of the image: (16, 16) class numbers}. Mask colours are off by
    up to 100 levels, as after JPEG compression."""
    rng, truth = np.random.default_rng(0), {}
    for part, count in (("train", train), ("validation", validation)):
        (root / part).mkdir(parents=True)
        for number in range(count):
            values = rng.integers(0, 7, (SIDE, SIDE))
            colors = COLORS[values].astype(int) + rng.integers(0, 101, (SIDE, SIDE, 3)) * np.where(
                COLORS[values] > 0, -1, 1
            )
            Image.fromarray(colors.astype(np.uint8)).save(root / part / f"{number:04d}_mask.png")
            Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(
                root / part / f"{number:04d}_sat.jpg"
            )
            truth[f"{part}/{number:04d}_sat.jpg"] = np.where(values == 6, IGNORE, values)
    return truth


# (count, height, width)
def folders(root: Path, size: tuple[int, int] = (SIDE, SIDE), count: int = 8) -> np.ndarray:
    rng = np.random.default_rng(1)
    values = rng.choice([0, 1, 2, IGNORE], (count, *size)).astype(np.uint8)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number, mask in enumerate(values):
        image = Image.fromarray(mask)
        if number % 2:
            image.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tobytes())
        image.save(root / "masks" / f"{number}.png")
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(
            root / "images" / f"{number}.jpg"
        )
    (root / "classes.txt").write_text(CLASSES)
    return values


def load(root: Path, size: int = SIDE, **settings: bool) -> DataSet:
    return load_dataset(
        DataConfig(name=str(root), image_size=size, **settings), "segment", root.parent / "cache"
    )


def error_of(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        load(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_satellite_colours_and_splits(tmp_path: Path) -> None:
    truth = satellite(tmp_path / "sat")
    data = load(tmp_path / "sat")
    assert data.classes == ("urban", "agriculture", "rangeland", "forest", "water", "barren")
    assert len(data.colors) == 6
    assert "3 test images of 16 px, 6 classes of pixels" in data.headline()
    # the layout's validation becomes the test split, val is carved from train
    assert (len(data.train) + len(data.val), len(data.test)) == (8, 3)
    assert data.train.mask_images is not None
    for stored, expected in zip(
        data.train.mask_images, (truth[path] for path in sorted(truth)), strict=True
    ):
        np.testing.assert_array_equal(stored, expected)
    assert not set(data.train.indices) & set(data.val.indices)


def test_images_and_masks_gray_and_palette(tmp_path: Path) -> None:
    values = folders(tmp_path / "pairs")
    data = load(tmp_path / "pairs")
    np.testing.assert_array_equal(data.train.mask_images, values)
    assert (data.classes, len(data.colors)) == (("ground", "road", "roof"), 3)
    found = inspect(DataConfig(name=str(tmp_path / "pairs"), image_size=SIDE), "segment")
    assert (found.layout, found.classes, found.counts, found.store_bytes) == (
        "images and masks",
        3,
        {"images": 8},
        8 * 4 * SIDE**2,
    )


def test_parts_above_or_below(tmp_path: Path) -> None:
    folders(tmp_path / "above" / "train", count=6)
    folders(tmp_path / "above" / "val", count=3)
    below = tmp_path / "below"
    for kind in ("images", "masks"):
        for part in ("train", "val"):
            shutil.copytree(tmp_path / "above" / part / kind, below / kind / part)
    for root in (tmp_path / "above", below):
        (root / "classes.txt").write_text(CLASSES)
        data = load(root)
        assert (len(data.train) + len(data.val), len(data.test)) == (6, 3)


def test_rectangles_are_cropped_as_their_images(tmp_path: Path) -> None:
    values = folders(tmp_path / "wide", size=(12, 20))
    np.testing.assert_array_equal(load(tmp_path / "wide", 12).train.mask_images, values[:, :, 4:16])
    half = load(tmp_path / "wide", 24).train.mask_images
    assert half is not None
    np.testing.assert_array_equal(half, values[:, :, 4:16].repeat(2, 1).repeat(2, 2))


def test_without_partner_all_are_named(tmp_path: Path) -> None:
    satellite(tmp_path / "sat")
    for name in ("train/0003_mask.png", "train/0005_sat.jpg", "validation/0001_mask.png"):
        (tmp_path / "sat" / name).unlink()
    message = error_of(tmp_path / "sat")
    assert "3 files" in message
    for name in ("train/0003_sat.jpg", "train/0005_mask.png", "validation/0001_sat.jpg"):
        assert name in message


def test_red_sizes_and_damage_are_named_and_can_be_left_out(tmp_path: Path) -> None:
    root = tmp_path / "sat"
    satellite(root)
    red = np.array(Image.open(root / "train/0002_mask.png"))
    red[0, :5] = (255, 0, 0)
    Image.fromarray(red).save(root / "train/0002_mask.png")
    Image.new("RGB", (8, 8)).save(root / "train/0004_mask.png")
    (root / "validation/0000_mask.png").write_bytes(
        (root / "validation/0000_mask.png").read_bytes()[:100]
    )
    (root / "train/0007_sat.jpg").write_bytes(b"")
    message = error_of(root)
    assert "4 of 11 images" in message
    assert "mask 0002_mask.png has 5 red pixels (code 4)" in message
    assert "mask 0004_mask.png is 8x8 pixels, its image 16x16" in message
    assert "mask 0000_mask.png is damaged" in message
    assert "train/0007_sat.jpg: zero bytes" in message
    assert "--skip-corrupt" in message
    data = load(root, skip_corrupt=True)
    assert (len(data.train) + len(data.val), len(data.test), len(data.skipped)) == (5, 2, 4)


def test_values_beyond_the_classes(tmp_path: Path) -> None:
    folders(tmp_path / "pairs")
    Image.fromarray(np.full((SIDE, SIDE), 7, np.uint8)).save(tmp_path / "pairs/masks/3.png")
    Image.new("RGB", (SIDE, SIDE), (9, 0, 7)).save(tmp_path / "pairs/masks/5.png")
    message = error_of(tmp_path / "pairs")
    assert "mask 3.png has the values 7, but classes.txt has 3 lines" in message
    assert "mask 5.png is coloured (9,0,7), but classes.txt has names alone" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one\n", "but names 1"),
        ("a\nb\na\n", "but names 3, a twice"),
        (None, NO_CLASSES),
    ],
)
def test_unusable_classes(tmp_path: Path, text: str | None, expected: str) -> None:
    folders(tmp_path / "pairs")
    (tmp_path / "pairs/classes.txt").unlink() if text is None else (
        tmp_path / "pairs/classes.txt"
    ).write_text(text)
    assert expected in error_of(tmp_path / "pairs")


def test_folders_without_masks(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "flat/a.jpg")
    assert error_of(tmp_path / "flat") == (
        f"data folder {tmp_path / 'flat'} has no pairs of image and mask, segmentation needs them; "
        "tried: satellite pairs (no <id>_sat.jpg with <id>_mask.png); "
        "pascal voc (no folder JPEGImages/); "
        "images and masks (no folder images/ with images); "
        "folder and its masks (no folder beside another of its name with annot, _labels or _masks "
        "added); "
        "names of masks (no a.jpg beside a_mask.png, a_label.png, a_L.png or a_gt.png)"
    )


def test_images_whose_masks_are_all_missing(tmp_path: Path) -> None:
    satellite(tmp_path / "sat")
    for path in (tmp_path / "sat").rglob("*_mask.png"):
        path.unlink()
    assert "satellite pairs (11 images and 0 masks, no two of one name)" in error_of(
        tmp_path / "sat"
    )
    folders(tmp_path / "pairs")
    shutil.rmtree(tmp_path / "pairs" / "masks")
    assert "images and masks (no folder masks/ with images)" in error_of(tmp_path / "pairs")


def test_a_changed_mask_is_another_store(tmp_path: Path) -> None:
    folders(tmp_path / "pairs")
    before = load(tmp_path / "pairs")
    Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)).save(tmp_path / "pairs/masks/0.png")
    after = load(tmp_path / "pairs")
    assert before.fingerprint != after.fingerprint
    assert after.train.mask_images is not None
    assert not after.train.mask_images[0].any()


def test_without_segmentation_masks_are_no_images(tmp_path: Path) -> None:
    satellite(tmp_path / "sat")
    listing = read_layout(tmp_path / "sat", "ssl")
    assert len(listing.files) == 11
    assert all(file.endswith("_sat.jpg") for file in listing.files)
