"""The summary of a data set, word by word: layouts, splits that share images, and conditions that
make a claim worthless."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.trainables.data.test_layouts import class_folders, flat, paint
from tests.trainables.data.test_pairs import folders, satellite
from trainables.data import DataConfig, DataSet, load_dataset
from trainables.data.layouts import read_layout
from trainables.data.listing import Listing
from trainables.data.summarize import folder_summary, with_counts
from trainables.data_summary import (
    ClassCounts,
    DataSummary,
    Duplicates,
    FolderUse,
    FoundImages,
    LeftOut,
    SplitUse,
)

WHOLE = DataSummary(
    layout="folder per class",
    why="24 of 24 images are in 2 folders",
    folders=(
        FolderUse("train", "train", 24),
        FolderUse("unlabeled", "left out", 3, "no part"),
    ),
    splits=(
        SplitUse("train", 1014, 2),
        SplitUse("val", 3, 2, "carved from train by seed 0"),
        SplitUse("test", 10, 2),
        SplitUse("hidden test", 7, 0, "no labels"),
    ),
    classes=ClassCounts(2, ("ant", "bee"), ("bee", 7), ("ant", 1007)),
    found=FoundImages((3, 4), (640, 480), (320, 240), 4, {"RGB": 1030, "L": 4}, (0, 4095)),
    left_out=(LeftOut("ending .txt", 2, "train/a.txt"),),
    duplicates=Duplicates(test=10, given=5, remaining=0, left_out=6),
    notes=("training images limited to 1,014",),
    warnings=("x" * 60 + " " + "y" * 60,),
)


def test_lines_are_aligned_and_warnings_come_first() -> None:
    assert WHOLE.lines() == [
        "WARNING    " + "x" * 60,
        "           " + "y" * 60,
        "layout     folder per class: 24 of 24 images are in 2 folders",
        "folders    train      24  train",
        "           unlabeled   3  left out (no part)",
        "splits     train 1,014; val 3 (carved from train by seed 0); test 10; hidden test 7 "
        "(no labels)",
        "classes    2: ant, bee; 7 (bee) to 1,007 (ant) training images",
        "images     3x4 to 640x480 px, most 320x240 (4 sizes); 1,030 RGB, 4 L; values of more than "
        "8 bits",
        "           from 0 to 4095",
        "left out   2 ending .txt (such as train/a.txt)",
        "duplicates 5 of 10 test images (50%) are in train or val too (near-duplicates): 6 images "
        "are left",
        "           out of train and val, none is now",
        "note       training images limited to 1,014",
    ]


def test_a_run_begins_with_a_short_form() -> None:
    labels = [line[:10].strip() for line in WHOLE.short_lines() if line[0] != " "]
    assert labels == ["WARNING", "layout", "splits", "classes", "left out", "duplicates", "note"]


def test_json_gives_the_same_value_back() -> None:
    text = json.dumps(WHOLE.as_json())
    assert DataSummary.from_json(json.loads(text)) == WHOLE


def test_a_record_of_another_version_can_be_read() -> None:
    value = {"layout": "csv", "a_later_field": 3, "splits": [{"name": "train", "images": 4}]}
    assert DataSummary.from_json(value) == DataSummary(layout="csv", splits=(SplitUse("train", 4),))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            Duplicates(test=36, given=1, remaining=0, left_out=1),
            "1 of 36 test images (3%) is in train or val too (near-duplicates): 1 image is left "
            "out of train and val, none is now",
        ),
        (
            Duplicates(test=36, given=0, remaining=0, left_out=1),
            "1 near-duplicate of an image of val or test is left out",
        ),
        (
            Duplicates(test=36, given=0, remaining=0, left_out=2),
            "2 near-duplicates of images of val and test are left out",
        ),
    ],
)
def test_near_duplicates_in_words(found: Duplicates, said: str) -> None:
    assert str(found) == said


def test_letters_that_take_two_columns_are_counted_as_two() -> None:
    cats = "\u732b" * 12
    uses = (FolderUse(cats, "train", 24), FolderUse("test", "test", 3))
    names = ClassCounts(3, (cats, cats, cats))
    assert DataSummary(layout="csv", folders=uses, classes=names).lines(70) == [
        "layout     csv",
        f"folders    {cats}  24  train",
        f"           test{' ' * 20}   3  test",
        f"classes    3: {cats}, {cats},",
        f"           {cats}",
    ]


def test_lines_are_no_wider_than_asked() -> None:
    assert max(len(line) for line in WHOLE.lines(60)) == 71  # a word is never broken
    assert max(len(line) for line in WHOLE.lines()[2:]) <= 100


# ---------------------------------------------------------------- real folders


def summary_of(root: Path, task: str = "classify", **settings: object) -> list[str]:
    """Return the lines, except for those that other files test: folders, left out and images."""
    config = DataConfig(name=str(root), image_size=16, **settings)  # type: ignore[arg-type]
    data = load_dataset(config, task, root.parent / "cache")  # type: ignore[arg-type]
    assert DataSummary.from_json(json.loads(json.dumps(data.summary.as_json()))) == data.summary
    return [f"{label} {text}" for label, text in data.summary.rows()] + [*data.summary.warnings]


def only(lines: list[str], *labels: str) -> list[str]:
    return [line for line in lines if line.startswith(labels)]


def test_class_folders_whose_splits_are_carved(tmp_path: Path) -> None:
    lines = summary_of(class_folders(tmp_path / "set"))
    assert only(lines, "splits", "classes", "duplicates") == [
        "splits train 21; val 3 (carved from train by seed 0); test 6 (carved from train by seed "
        "0)",
        "classes 3: ant, bee, cat; 7 training images each",
    ]


def test_a_val_part_that_is_the_test(tmp_path: Path) -> None:
    class_folders(class_folders(tmp_path / "set" / "train").parent / "val", 3)
    lines = summary_of(tmp_path / "set")
    [splits] = only(lines, "splits")
    assert splits.endswith("test 9 (the layout's val)")


def test_unlabeled_images_have_no_classes(tmp_path: Path) -> None:
    lines = summary_of(flat(tmp_path / "set"), "ssl")
    assert only(lines, "classes") == []
    assert only(lines, "splits") == [
        "splits train 8; val 2 (carved from train by seed 0); test 2 (carved from train by seed 0)"
    ]


def test_more_classes_than_are_named(tmp_path: Path) -> None:
    for label in range(11):
        for number in range(8):
            paint(tmp_path / "set" / f"c{label}" / f"{number}.png", label % 3)
    [classes] = only(summary_of(tmp_path / "set"), "classes")
    assert classes.startswith("classes 11: c0, c1, c2, c3, c4, c5, c6, c7, ...; ")


def test_test_images_that_are_in_train_are_counted(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set" / "train").parent
    class_folders(root / "test", each=5)
    for number in range(4):
        shutil.copy(root / "train/ant" / f"{number}.png", root / "test/ant" / f"copy{number}.png")
    lines = summary_of(root)
    assert only(lines, "duplicates") == [
        "duplicates 4 of 19 test images (21%) are in train or val too (near-duplicates): 4 images "
        "are left out of train and val, none is now"
    ]

    version1 = summary_of(root, split=1)
    assert version1[-1] == (
        "4 of 19 test images (21%) are training images too: a test result flatters"
    )


def test_corrupt_files_are_counted_where_they_may_be_left_out(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set")
    (root / "ant/0.png").write_bytes(b"")
    lines = summary_of(root, skip_corrupt=True)
    assert only(lines, "left out") == [
        "left out 1 that cannot be decoded (such as ant/0.png: zero bytes)"
    ]


def test_sizes_and_modes_of_the_files(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set")  # 30 images of 24x24
    gray = Image.new("L", (40, 20))
    gray.putpixel((3, 3), 9)
    gray.save(root / "ant/gray.png")
    gray.convert("1").save(root / "ant/black.png")
    deep = np.full((8, 8), 700, np.uint16)
    deep[2, 2] = 4095
    Image.fromarray(deep).save(root / "bee/deep.png")
    lines = summary_of(root)
    assert only(lines, "images") == [
        "images 8x8 to 40x20 px, most 24x24 (3 sizes); 30 RGB, 1 1-bit, 1 I;16, 1 L; values of "
        "more than 8 bits from 700 to 4095"
    ]
    assert summary_of(root) == lines  # from the existing store


def test_a_store_of_an_earlier_version_says_nothing_of_sizes(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set")
    assert only(summary_of(root), "images") == ["images 24x24 px; 30 RGB"]
    [meta] = (tmp_path / "cache").glob("*/meta.json")
    earlier = json.loads(meta.read_text())
    del earlier["found"]
    meta.write_text(json.dumps(earlier))
    assert only(summary_of(root), "images") == []


def test_masks(tmp_path: Path) -> None:
    root = tmp_path / "set"
    satellite(root)
    lines = summary_of(root, "segment")
    assert only(lines, "layout")[0].startswith("layout satellite pairs")
    assert only(lines, "splits") == [
        "splits train 7; val 1 (carved from train by seed 0); test 3 (the layout's val)"
    ]
    assert only(lines, "classes") == [
        "classes 6: urban, agriculture, rangeland, forest, water, barren; 7 training masks each"
    ]


def test_a_class_that_no_mask_shows_is_a_warning(tmp_path: Path) -> None:
    root = tmp_path / "set"
    folders(root, count=12)
    for path in sorted((root / "masks").iterdir())[:11]:
        with Image.open(path) as mask:
            values = np.asarray(mask).copy()
        values[values == 2] = 1
        Image.fromarray(values).save(path)
    lines = summary_of(root, "segment")
    [classes] = only(lines, "classes")
    if "0 (roof)" in classes:  # the only mask with a roof is in val or test
        assert lines[-1] == "no training mask shows roof: nothing can be learned about it"
    else:
        assert classes == "classes 3: ground, road, roof; 1 (roof) to 8 (road) training masks"

    last = sorted((root / "masks").iterdir())[11]
    shutil.copy(root / "masks/0.png", last)
    lines = summary_of(root, "segment")
    assert "; 0 (roof) to 8 (" in only(lines, "classes")[0]
    assert lines[-1] == "no mask shows roof: no metric tells anything about it"


def test_few_shot_splits_have_their_numbers_of_classes(tmp_path: Path) -> None:
    for label in range(15):
        for number in range(3):
            paint(tmp_path / "set" / f"c{label:02d}" / f"{number}.png", label % 3)
    [splits] = only(summary_of(tmp_path / "set", "fewshot"), "splits")
    assert splits == (
        "splits train 27 of 9 classes; val 9 of 3 classes (classes chosen from train by seed 0); "
        "test 9 of 3 classes (classes chosen from train by seed 0)"
    )


@pytest.mark.parametrize(
    ("name", "task", "layout"),
    [
        ("digits", "classify", "scikit-learn's 1,797 handwritten digits, 8x8 pixels, enlarged"),
        (
            "glyphs",
            "ssl",
            "letters of matplotlib's fonts: pre-training on Latin and Greek, judged on Cyrillic, "
            "Armenian and Georgian",
        ),
    ],
)
def test_embedded_sets(name: str, task: str, layout: str) -> None:
    data = load_dataset(DataConfig(name=name, image_size=8), task)  # type: ignore[arg-type]
    assert data.summary.layout == layout
    named = {split.name: split for split in data.summary.splits}
    assert named["test"].images == len(data.test)
    assert ("gallery" in named) == (task == "ssl")
    assert data.summary.warnings == ()
    assert len(data.summary.notes) == 1


# ---------------------------------------------------------------- worthless claims


def changed(tmp_path: Path, labels: dict[str, int]) -> DataSet:
    """Return three classes of 10 images; all images of the splits in `labels` get one label."""
    data = load_dataset(
        DataConfig(name=str(class_folders(tmp_path / "set")), image_size=16),
        "classify",
        tmp_path / "cache",
    )
    assert data.train.labels is not None
    relabelled = data.train.labels.copy()
    for split, label in labels.items():
        relabelled[getattr(data, split).indices] = label
    for name in ("train", "gallery", "val", "test"):
        object.__setattr__(getattr(data, name), "labels", relabelled)
    return with_counts(data)


def test_one_class_only_is_a_warning(tmp_path: Path) -> None:
    data = changed(tmp_path, {"train": 1, "val": 1, "test": 1})
    assert data.summary.warnings == ("there is one class only (bee): every model is right",)


def test_classes_without_a_training_image_are_a_warning(tmp_path: Path) -> None:
    data = changed(tmp_path, {"train": 1})
    assert data.summary.warnings == (
        "2 classes of val or test have no training image (ant, cat): no answer to them can be "
        "right",
    )


def test_what_a_layout_says_is_in_the_summary(tmp_path: Path) -> None:
    listing = read_layout(class_folders(tmp_path / "set"))
    values = {
        **vars(listing),
        "why": "said",
        "folders": (FolderUse("ant", "train", 10),),
        "left_out": (LeftOut("thumbnail", 1, "a"),),
        "warnings": ("wrong",),
        "hidden": ("x.png", "y.png"),
        "notes": ("noted",),
    }

    class Opened:
        skipped = ()
        found = None
        deep = None

    summary = folder_summary(Listing(**values), Opened(), {"val": "v"}, None)  # type: ignore[arg-type]
    assert summary == DataSummary(
        layout="folder per class",
        why="said",
        folders=(FolderUse("ant", "train", 10),),
        left_out=(LeftOut("thumbnail", 1, "a"),),
        warnings=("wrong",),
        notes=("noted",),
        origins={"val": "v"},
        hidden=2,
    )
