"""Every way in which people arrange images and masks and encode classes in masks: each is read as
it was written, pixel by pixel, or refused by name."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainables.data import IGNORE, DataConfig, DataSet, load_dataset
from trainables.data.class_list import distinct_colors
from trainables.data.pairs import read_pairs
from trainables.errors import UserError

SIDE = 12
COUNT = 8
THREE = "sky\nroad\ntree\n"
TWO = "background\nlesion\n"
COLORS = np.array([(128, 128, 128), (128, 64, 128), (0, 0, 0)], np.uint8)
TABLE = "name,r,g,b\nsky,128,128,128\nroad,128,64,128\ntree,0,0,0\n"

Write = Callable[[Path, np.ndarray], None]


def truths(classes: int = 3, count: int = COUNT) -> np.ndarray:  # (n, S, S) uint8
    return np.random.default_rng(3).integers(0, classes, (count, SIDE, SIDE)).astype(np.uint8)


def picture(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([number, 7]).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def mask(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def pairs(
    root: Path, image: str, mask_name: str, values: np.ndarray, classes: str | None = THREE
) -> None:
    """Write images and masks under names in which {} is the number."""
    for number, value in enumerate(values):
        picture(root / image.format(number), number)
        mask(root / mask_name.format(number), value)
    if classes is not None:
        (root / "classes.txt").write_text(classes)


def load(root: Path, **settings: Any) -> DataSet:
    config = DataConfig(name=str(root), image_size=SIDE, **settings)
    return load_dataset(config, "segment", root.parent / "cache")


def stored(root: Path, **settings: Any) -> np.ndarray:
    """Return all masks of the folder's store, in the order of the images' paths."""
    masks = load(root, **settings).train.mask_images
    assert masks is not None
    return np.array(masks)


def refusal(root: Path, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(root, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("image", "mask_name", "layout"),
    [
        ("imgs/{}.jpg", "masks/{}.png", "images and masks"),
        ("img/{}.jpg", "label/{}.png", "images and masks"),
        ("images/{}.jpg", "masks/{}_mask.png", "images and masks"),
        ("images/{}.jpg", "labels/{}_L.png", "images and masks"),
        ("images/{}.jpg", "gt/{}_gt.png", "images and masks"),
        ("images/{}_sat.jpg", "masks/{}_mask.png", "images and masks"),
        ("JPEGImages/{}.jpg", "SegmentationClass/{}.png", "pascal voc"),
        ("VOC2012/JPEGImages/{}.jpg", "VOC2012/SegmentationClass/{}.png", "pascal voc"),
        ("{}.jpg", "{}_mask.png", "names of masks"),
        ("{}.jpg", "{}_label.png", "names of masks"),
        ("{}.png", "{}_labels.png", "names of masks"),
        ("{}.png", "{}_L.png", "names of masks"),
        ("a/{}.png", "a/{}_gt.png", "names of masks"),
        ("{}_img.png", "{}_mask.png", "names of masks"),
        ("cars/{}.jpg", "cars_masks/{}_mask.png", "folder and its masks"),
        ("photos/{}.png", "photosannot/{}.png", "folder and its masks"),
        ("images/{}.png", "labels/{}_P.png", "images and masks"),
        ("photos/{}.png", "masks/{}.png", "images and masks"),
        ("train/frames/{}.png", "train/gt/{}_GT.png", "images and masks"),
        ("rgb/{}_rgb.png", "seg/{}_Mask.png", "images and masks"),
    ],
)
def test_names(tmp_path: Path, image: str, mask_name: str, layout: str) -> None:
    values = truths()
    pairs(tmp_path / "set", image, mask_name, values)
    found = read_pairs(tmp_path / "set", cache_dir=tmp_path / "cache")
    assert found.listing.layout == layout
    assert f"{COUNT} pairs" in found.listing.why
    np.testing.assert_array_equal(stored(tmp_path / "set"), values)


@pytest.mark.parametrize(
    ("ending", "stem"), [("annot", ""), ("_labels", "_L"), ("_masks", "_mask")]
)
def test_camvid_has_parts_and_folders_named_after_them(
    tmp_path: Path, ending: str, stem: str
) -> None:
    values = truths(count=14)
    for part, rows in (("train", range(8)), ("val", range(8, 11)), ("test", range(11, 14))):
        for row in rows:
            picture(tmp_path / f"set/{part}/{row:02d}.png", row)
            mask(tmp_path / f"set/{part}{ending}/{row:02d}{stem}.png", values[row])
    (tmp_path / "set/classes.txt").write_text(THREE)

    data = load(tmp_path / "set")
    assert (len(data.train), len(data.val), len(data.test)) == (8, 3, 3)
    np.testing.assert_array_equal(data.test.masks(np.arange(3)), values[11:])
    uses = read_pairs(tmp_path / "set").listing.folders
    found = [(use.folder, use.became, use.images, use.reason) for use in uses]
    assert sorted(found) == [
        ("test", "test", 3, f"masks in test{ending}"),
        ("train", "train", 8, f"masks in train{ending}"),
        ("val", "val", 3, f"masks in val{ending}"),
    ]


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("{part}/images", "{part}/masks"),
        ("imgs/{part}", "masks/{part}"),
        ("{part}_images", "{part}_masks"),
        ("{part} Images", "{part} Labels"),
        ("{part}", "{part}annot"),
    ],
)
@pytest.mark.parametrize(
    "parts",
    [
        ("seg_train", "seg_val", "seg_test"),
        ("TrainSet", "DevSet", "EvalSet"),
        ("trn", "dev", "tst"),
    ],
)
def test_parts_have_any_usual_name(
    tmp_path: Path, images: str, masks: str, parts: tuple[str, ...]
) -> None:
    expected = ("train", "val", "test")
    for part, rows in zip(parts, (range(8), range(8, 11), range(11, 14)), strict=True):
        for row in rows:
            picture(tmp_path / images.format(part=part) / f"{row}.png", row)
            mask(tmp_path / masks.format(part=part) / f"{row}.png", truths(count=14)[row])
    (tmp_path / "classes.txt").write_text(THREE)
    listing = read_pairs(tmp_path).listing
    became = {use.became: use.images for use in listing.folders}
    assert became == dict(zip(expected, (8, 3, 3), strict=True))


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        ("TrainSet extra", r"has TrainSet/ \(train\) beside extra/: unclear what is trained on"),
        ("holdout dev", r"has dev/ \(val\), holdout/ \(test\): unclear what is trained on"),
        (
            "train_a train_b dev",
            r"has dev/ \(val\), train_a/ \(train\), train_b/ \(train\): unclear",
        ),
        ("train extra", "has pairs inside and outside of train, val and test"),
    ],
)
def test_folders_that_may_be_splits_are_refused(tmp_path: Path, folders: str, said: str) -> None:
    for folder in folders.split():
        pairs(tmp_path / "set", f"{folder}/images/{{}}.jpg", f"{folder}/masks/{{}}.png", truths())
    assert re.search(said, refusal(tmp_path / "set"))


def test_an_end_that_all_masks_have_is_said(tmp_path: Path) -> None:
    pairs(tmp_path / "set", "images/{}.png", "labels/{}_P.png", truths())
    said = "8 pairs: images/a.jpg and masks/a.png; names of masks end in _P"
    assert read_pairs(tmp_path / "set").listing.why == said
    (tmp_path / "set/labels/3_P.png").rename(tmp_path / "set/labels/3_Q.png")
    assert "8 images and 8 masks, no two of one name" in refusal(tmp_path / "set")


def test_scenes_are_no_parts(tmp_path: Path) -> None:
    """Folders of videos or places say nothing about splits."""
    for folder in ("park", "test_tube", "train_a"):
        pairs(
            tmp_path, f"train/images/{folder}/{{}}.jpg", f"train/masks/{folder}/{{}}.png", truths()
        )
    assert set(read_pairs(tmp_path).listing.parts) == {"train"}


def test_files_that_are_no_images_are_counted(tmp_path: Path) -> None:
    pairs(tmp_path, "images/{}.jpg", "masks/{}.png", truths())
    for name in ("images/a.json", "images/b.json", "masks/.hidden.png", "list.csv", "readme.md"):
        (tmp_path / name).write_text("a,b")
    left_out = [
        (out.files, out.reason, out.example) for out in read_pairs(tmp_path).listing.left_out
    ]
    assert left_out == [
        (2, "ending .json", "images/a.json"),
        (1, "ending .md", "readme.md"),
        (1, "with hidden names", "masks/.hidden.png"),
        (1, "ending .csv", "list.csv"),
    ]


def test_masks_that_are_no_images_are_named(tmp_path: Path) -> None:
    for number in range(COUNT):
        picture(tmp_path / f"set/images/{number}.jpg", number)
        (tmp_path / "set/masks").mkdir(exist_ok=True)
        np.save(tmp_path / f"set/masks/{number}.npy", truths()[number])
    assert refusal(tmp_path / "set").endswith(
        "images and masks (no folder masks/ with images); folder and its masks (no folder beside "
        "another of its name with annot, _labels or _masks added); names of masks (no a.jpg beside "
        "a_mask.png, a_label.png, a_L.png or a_gt.png); no images: 8 ending .npy"
    )


def test_voc_takes_parts_from_its_lists_and_leaves_out_images_without_masks(tmp_path: Path) -> None:
    root = tmp_path / "VOCdevkit"
    values = truths(count=10)
    values[0, 0] = IGNORE
    pairs(root / "VOC", "JPEGImages/{:02d}.jpg", "SegmentationClass/{:02d}.png", values, None)
    for number in range(10, 15):
        picture(root / f"VOC/JPEGImages/{number}.jpg", number)
    mask(root / "VOC/SegmentationObject/00.png", values[0])
    lists = root / "VOC/ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("".join(f"{n:02d}\n" for n in range(7)))
    (lists / "val.txt").write_text("07\n08\n09\n")

    found = read_pairs(root)
    assert found.classes[:2] == ("background", "aeroplane")
    assert len(found.classes) == 21
    assert found.listing.parts.tolist() == ["train"] * 7 + ["val"] * 3
    assert [(out.reason, out.files) for out in found.listing.left_out] == [
        ("image without a mask, or in no list of a part", 5),
        ("neither image nor mask of the layout", 1),
    ]
    np.testing.assert_array_equal(stored(root), values)


def test_one_odd_name_does_not_switch_the_layout(tmp_path: Path) -> None:
    values = truths(2)
    pairs(tmp_path / "set", "images/{}.jpg", "masks/{}.png", values, TWO)
    for folder, ending in (("images", "jpg"), ("masks", "png")):
        for number, word in ((3, "mask"), (4, "sat")):
            path = tmp_path / f"set/{folder}/{number}.{ending}"
            path.rename(path.with_stem(f"{number}_{word}"))
    found = read_pairs(tmp_path / "set").listing
    assert (found.layout, len(found.files)) == ("images and masks", COUNT)
    np.testing.assert_array_equal(stored(tmp_path / "set"), values)


def test_a_forced_layout(tmp_path: Path) -> None:
    pairs(tmp_path / "set", "images/{}.jpg", "masks/{}.png", truths())
    assert read_pairs(tmp_path / "set", layout="images-and-masks").listing.layout
    with pytest.raises(UserError, match=r"tried: names of masks \(no a.jpg beside a_mask.png"):
        read_pairs(tmp_path / "set", layout="names-of-masks")
    with pytest.raises(
        UserError, match="--layout 'photos' is not a layout; valid: auto, satellite-pairs"
    ):
        read_pairs(tmp_path / "set", layout="photos")


def test_a_test_part_without_masks_is_hidden(tmp_path: Path) -> None:
    values = truths(count=12)
    pairs(tmp_path / "set", "train/images/{:02d}.jpg", "train/masks/{:02d}.png", values)
    for number in range(3):
        picture(tmp_path / f"set/test/images/{number}.jpg", 100 + number)
    found = read_pairs(tmp_path / "set").listing
    assert found.hidden == tuple(f"test/images/{number}.jpg" for number in range(3))
    assert ("test/images", "hidden test", 3) in [
        (use.folder, use.became, use.images) for use in found.folders
    ]
    data = load(tmp_path / "set")
    assert len(data.train) + len(data.val) + len(data.test) == 12


# ---------------------------------------------------------------- values


def in_colour(path: Path, values: np.ndarray) -> None:
    mask(path, COLORS[values])


def in_colour_with_alpha(path: Path, values: np.ndarray) -> None:
    rgb = Image.fromarray(COLORS[values])
    rgb.putalpha(255)
    mask(path, np.asarray(rgb))


def grey_saved_as_rgb(path: Path, values: np.ndarray) -> None:
    mask(path, np.repeat(values[..., None], 3, 2))


def sixteen_bits(path: Path, values: np.ndarray) -> None:
    mask(path, values.astype(np.uint16))


def with_palette(path: Path, values: np.ndarray) -> None:
    image = Image.fromarray(values)
    image.putpalette([*COLORS.ravel().tolist(), *[9] * (768 - COLORS.size)])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.mark.parametrize(
    ("write", "classes"),
    [
        (mask, THREE),
        (with_palette, THREE),
        (grey_saved_as_rgb, THREE),
        (sixteen_bits, THREE),
        (in_colour, TABLE),
        (in_colour_with_alpha, TABLE),
        (mask, TABLE),
        (with_palette, TABLE),
    ],
)
def test_ways_to_write_classes_into_masks(tmp_path: Path, write: Write, classes: str) -> None:
    values = truths()
    pairs(tmp_path / "set", "images/{}.jpg", "masks/{}.png", values, classes)
    for number, value in enumerate(values):
        write(tmp_path / f"set/masks/{number}.png", value)
    np.testing.assert_array_equal(stored(tmp_path / "set"), values)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("class_dict.csv", TABLE),
        ("label_colors.txt", "128 128 128\tsky\n128 64 128\t\troad\n0 0 0\ttree side\n"),
        ("classes.txt", "sky 128 128 128\nroad 128 64 128\ntree side 0 0 0\n"),
    ],
)
def test_files_that_give_colours(tmp_path: Path, name: str, text: str) -> None:
    values = truths()
    pairs(tmp_path / "set", "images/{}.jpg", "masks/{}.png", COLORS[values], None)
    (tmp_path / "set" / name).write_text(text)
    data = load(tmp_path / "set")
    assert data.classes[:2] == ("sky", "road")
    assert data.classes[2].split()[0] == "tree"
    assert data.colors == tuple(tuple(color) for color in COLORS.tolist())
    np.testing.assert_array_equal(data.train.mask_images, values)


@pytest.mark.parametrize("foreground", [255, 128, 7])
def test_binary_masks(tmp_path: Path, foreground: int) -> None:
    values = truths(2)
    pairs(tmp_path / "set", "images/{}.jpg", "masks/{}.png", values * np.uint8(foreground), TWO)
    data = load(tmp_path / "set")
    np.testing.assert_array_equal(data.train.mask_images, values)
    note = f"the masks contain only 0 and {foreground}: "
    note += f"{foreground} is read as lesion, 0 as background"
    assert note in read_pairs(tmp_path / "set").listing.notes


def test_binary_masks_in_which_white_is_void(tmp_path: Path) -> None:
    values = truths(3)
    values[values == 2] = IGNORE
    pairs(tmp_path / "set", "images/{}.jpg", "masks/{}.png", values, TWO)
    np.testing.assert_array_equal(stored(tmp_path / "set"), values)
    assert not read_pairs(tmp_path / "set").listing.notes


def test_what_was_read_rightly_before_keeps_its_fingerprint(tmp_path: Path) -> None:
    """Only a void value, colours or a foreground of 255 make it another data set."""
    values = truths(2)
    for name, factor in (("ones", 1), ("whites", 255)):
        pairs(tmp_path / name, "images/{}.png", "masks/{}.png", values * np.uint8(factor), TWO)
    plain = read_pairs(tmp_path / "ones").code.identity
    white = read_pairs(tmp_path / "whites").code.identity
    void = read_pairs(tmp_path / "ones", ignore=7).code.identity
    assert (plain, white, void) == ((), ("foreground 255",), ("ignore 7",))


def test_gif_masks_are_white_on_black_whatever_their_palette(tmp_path: Path) -> None:
    values = truths(2)
    pairs(tmp_path / "set", "{}.jpg", "{}_mask.png", values, TWO)
    for number, value in enumerate(values):
        (tmp_path / f"set/{number}_mask.png").unlink()
        swapped = number % 2 == 1
        image = Image.fromarray(1 - value if swapped else value)
        levels = [255, 0] if swapped else [0, 255]
        image.putpalette([level for level in levels for _ in range(3)])
        image.save(tmp_path / f"set/{number}_mask.gif", optimize=False)
    np.testing.assert_array_equal(stored(tmp_path / "set"), values)


def test_one_bit_masks(tmp_path: Path) -> None:
    values = truths(2)
    pairs(tmp_path / "set", "{}.jpg", "{}_mask.png", values.astype(bool), TWO)
    np.testing.assert_array_equal(stored(tmp_path / "set"), values)


@pytest.mark.parametrize(
    ("lines", "ignore", "classes", "expected"),
    [
        ("a\nb\nc\n", 3, ("a", "b", "c"), [0, 1, 2, IGNORE]),
        ("a\nb\nc\nvoid\n", 3, ("a", "b", "c"), [0, 1, 2, IGNORE]),
        ("void\na\nb\nc\n", 0, ("a", "b", "c"), [IGNORE, 0, 1, 2]),
    ],
)
def test_a_void_value_of_ones_own(
    tmp_path: Path, lines: str, ignore: int, classes: tuple[str, ...], expected: list[int]
) -> None:
    values = truths(4)
    pairs(tmp_path / "set", "images/{}.jpg", "masks/{}.png", values, lines)
    data = load(tmp_path / "set", ignore=ignore)
    assert data.classes == classes
    np.testing.assert_array_equal(data.train.mask_images, np.array(expected)[values])
    (note,) = read_pairs(tmp_path / "set", ignore).listing.notes
    assert f"value {ignore} of the masks is unknown" in note


def test_a_void_colour(tmp_path: Path) -> None:
    values = truths()
    pairs(tmp_path / "set", "images/{}.jpg", "masks/{}.png", COLORS[values], TABLE)
    data = load(tmp_path / "set", ignore=2)
    assert data.classes == ("sky", "road")
    np.testing.assert_array_equal(data.train.mask_images, np.array([0, 1, IGNORE])[values])


def test_classes_that_no_mask_has_are_warned_of(tmp_path: Path) -> None:
    classes = "a\nb\nc\nghost\nelf\n"
    pairs(tmp_path / "set", "images/{}.jpg", "masks/{}.png", truths(), classes)
    data = load(tmp_path / "set")
    assert warnings_of(data) == ("no mask shows ghost, elf: no metric tells anything about it",)


def test_a_class_in_the_margins_alone_is_warned_of(tmp_path: Path) -> None:
    """Training sees the centred squares; evaluation uses the whole rectangles."""
    for number, values in enumerate(truths(2, 12)):
        wide = np.pad(values, ((0, 0), (4, 4)), constant_values=2)
        picture(tmp_path / f"set/images/{number}.png", number)
        with Image.open(tmp_path / f"set/images/{number}.png") as image:
            image.resize((SIDE + 8, SIDE)).save(tmp_path / f"set/images/{number}.png")
        mask(tmp_path / f"set/masks/{number}.png", wide)
    (tmp_path / "set/classes.txt").write_text(THREE)
    assert warnings_of(load(tmp_path / "set")) == (
        "no mask shows tree in its centred square: training, which sees no more, learns nothing "
        "of it",
    )


def test_a_class_of_val_alone_is_warned_of(tmp_path: Path) -> None:
    values = truths(2, 12)
    values[8] = 2
    for row, value in enumerate(values):
        part = "train" if row < 8 else "val"
        picture(tmp_path / f"set/{part}/images/{row:02d}.png", row)
        mask(tmp_path / f"set/{part}/masks/{row:02d}.png", value)
    (tmp_path / "set/classes.txt").write_text(THREE)
    data = load(tmp_path / "set")
    assert warnings_of(data) == ("no training mask shows tree: nothing can be learned about it",)


def warnings_of(data: DataSet) -> tuple[str, ...]:
    return data.summary.warnings


# ---------------------------------------------------------------- refusals


def test_colours_that_the_file_does_not_list(tmp_path: Path) -> None:
    colors = COLORS[truths()]
    colors[0, 0] = (1, 2, 3)
    pairs(tmp_path / "set", "images/{}.jpg", "masks/{}.png", colors, TABLE)
    assert "has the colours 1,2,3, which classes.txt does not list" in refusal(tmp_path / "set")


def test_classes_missing_for_coloured_and_binary_masks(tmp_path: Path) -> None:
    pairs(tmp_path / "rgb", "images/{}.jpg", "masks/{}.png", COLORS[truths()], None)
    message = refusal(tmp_path / "rgb")
    assert "has no classes.txt; its masks have the colours" in message
    assert "128,64,128" in message
    assert "write a line name,red,green,blue for each" in message
    white = truths(2) * np.uint8(255)
    pairs(tmp_path / "binary", "images/{}.jpg", "masks/{}.png", white, None)
    assert refusal(tmp_path / "binary").endswith(
        "its masks have the values 0, 255: write two lines, such as background and object"
    )


def test_a_third_value_beside_0_and_255_names_the_option(tmp_path: Path) -> None:
    values = np.array([0, 128, 255], np.uint8)[truths()]
    pairs(tmp_path / "set", "images/{}.jpg", "masks/{}.png", values, TWO)
    message = refusal(tmp_path / "set")
    assert "has the values 128, but classes.txt has 2 lines (--set data.ignore=128" in message
    expected = np.array([0, IGNORE, 1])[truths()]
    np.testing.assert_array_equal(stored(tmp_path / "set", ignore=128), expected)


def test_masks_that_jpeg_has_blurred_say_so(tmp_path: Path) -> None:
    white = truths(2).repeat(4, 1).repeat(4, 2) * np.uint8(255)
    for number, values in enumerate(white):
        for kind in ("images", "masks"):
            path = tmp_path / "set" / kind / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(path, quality=60)
    advice = "JPEG has blurred the borders: save masks as PNG, with the values of classes alone"
    assert refusal(tmp_path / "set").endswith(f"values from 0 to 255: {advice}")
    (tmp_path / "set/classes.txt").write_text(TWO)
    assert advice in refusal(tmp_path / "set")


def test_two_masks_of_one_image(tmp_path: Path) -> None:
    pairs(tmp_path / "set", "images/{}.jpg", "masks/{}.png", truths())
    mask(tmp_path / "set/labels/3.png", truths()[0])
    message = refusal(tmp_path / "set")
    assert "labels/3.png and masks/3.png for one pair" in message


def test_a_void_value_that_leaves_one_class(tmp_path: Path) -> None:
    pairs(tmp_path / "set", "images/{}.jpg", "masks/{}.png", truths(2), TWO)
    assert "data.ignore=1 leaves one class of 2" in refusal(tmp_path / "set", ignore=1)


def test_images_and_masks_without_a_name_in_common(tmp_path: Path) -> None:
    for number in range(4):
        picture(tmp_path / f"set/images/{number}.jpg", number)
        mask(tmp_path / f"set/masks/x{number}.png", truths()[0])
    message = refusal(tmp_path / "set")
    assert "images and masks (4 images and 4 masks, no two of one name)" in message


def test_classes_without_colours_get_hues_and_the_background_none() -> None:
    colors = np.array(distinct_colors(["cat", "Background", "dog", "sheep"]))
    spread = np.ptp(colors, axis=1)  # between a colour's channels: 0 for a grey
    assert spread[1] == 0
    assert (spread[[0, 2, 3]] > 100).all()
    assert len(np.unique(colors, axis=0)) == 4
