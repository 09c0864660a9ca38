"""Names and styles of predicted masks."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tune.prediction.course import satellite
from trainables.data.mask_code import plain_values
from trainables.data.pairs import read_pairs
from tune.prediction.inputs import images_of_folder
from tune.prediction.mask_style import MaskStyle, style_of
from tune.prediction.masks import _mask_end, _names, mask_name

COLORS = np.array([[9, 9, 9], [250, 0, 0], [0, 0, 250]], np.uint8)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("0016_sat.jpg", "0016_mask.png"),
        ("validation/0016_sat.jpg", "validation/0016_mask.png"),
        ("images/a.jpg", "masks/a.png"),
        ("train/images/x/a.b.tif", "train/masks/x/a.b.png"),
        ("a.jpg", "a_mask.png"),
        ("one/a.jpg", "one/a_mask.png"),
    ],
)
def test_masks_have_the_names_of_the_layout(image: str, mask: str) -> None:
    assert mask_name(image) == mask


def test_no_mask_takes_the_place_of_another() -> None:
    images = ["a.jpg", "a.png", "b.jpg", "sub/a.jpg"]
    names = _names(images, {})
    assert names == ("a.jpg_mask.png", "a.png_mask.png", "b_mask.png", "sub/a_mask.png")
    assert _names(["i/a.jpg"], {"i/a.jpg": "m/a.gif"}) == ("m/a.png",)
    alike = ["a.jpg", "a.jpg.png", "a.png", "images/b.png", "imgs/b.png"]
    assert len(set(_names(alike, {}))) == 5


def test_masks_of_images_alone_are_named_as_the_training_masks(tmp_path: Path) -> None:
    masks = [Image.fromarray(NUMBERS)] * 2
    same_names = read_pairs(write_pairs(tmp_path / "same", masks))
    assert _mask_end(same_names) == ""
    assert _names(["new/7.jpg"], {}, "") == ("new/7.png",)

    for path in sorted((tmp_path / "same/masks").iterdir()):
        path.rename(path.with_stem(f"{path.stem}_L"))
    assert _mask_end(read_pairs(tmp_path / "same")) == "_L"
    assert _names(["7.jpg", "images/8.jpg"], {}, "_L") == ("7_L.png", "masks/8_L.png")

    satellite(tmp_path / "land")
    assert _mask_end(read_pairs(tmp_path / "land")) == "_mask"
    assert _mask_end(None) is None


def test_masks_beside_images_are_left_out(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "a_mask.png", "b_mask.png"):
        (tmp_path / name).touch()
    found = images_of_folder(tmp_path)
    assert found.names == ("a.jpg", "b.jpg")
    said = "2 masks (names such as a_mask.png) are left out: only images are taken"
    assert found.notes == (said,)
    assert len(images_of_folder(tmp_path, ["a_mask.png"]).files) == 1


def write_pairs(root: Path, masks: list[Image.Image]) -> Path:
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    (root / "classes.txt").write_text("ground\nsquare\ndisc\n")
    for number, mask in enumerate(masks):
        Image.new("RGB", mask.size, (number, 0, 0)).save(root / "images" / f"{number}.jpg")
        mask.save(root / "masks" / f"{number}.png")
    return root


def saved(style: MaskStyle, mask: np.ndarray) -> Image.Image:
    file = io.BytesIO()
    style.save(mask, file)
    return Image.open(file)


NUMBERS = np.arange(12, dtype=np.uint8).reshape(3, 4) % 3


def test_masks_of_numbers_are_saved_as_numbers(tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "gray", [Image.fromarray(NUMBERS)])
    picture = saved(style_of(read_pairs(root), "abc", COLORS), NUMBERS)
    assert picture.mode == "L"
    np.testing.assert_array_equal(np.asarray(picture), NUMBERS)


def test_masks_with_a_palette_keep_it(tmp_path: Path) -> None:
    mask = Image.fromarray(NUMBERS).convert("P")
    mask.putpalette([1, 2, 3, 40, 50, 60, 200, 100, 0])
    root = write_pairs(tmp_path / "palette", [mask])
    picture = saved(style_of(read_pairs(root), "abc", COLORS), NUMBERS)
    assert picture.mode == "P"
    np.testing.assert_array_equal(np.asarray(picture), NUMBERS)
    np.testing.assert_array_equal(np.asarray(picture.convert("RGB"))[0, 2], [200, 100, 0])
    np.testing.assert_array_equal(plain_values(picture), NUMBERS)


def test_a_class_that_no_mask_shows_has_its_number(tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "few", [Image.fromarray(NUMBERS % 2)])
    np.testing.assert_array_equal(
        np.asarray(saved(style_of(read_pairs(root), "abc", COLORS), NUMBERS)), NUMBERS
    )


def test_without_training_masks_classes_have_their_colours() -> None:
    picture = saved(style_of(None, "abc", COLORS), NUMBERS)
    assert picture.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(picture), COLORS[NUMBERS])
