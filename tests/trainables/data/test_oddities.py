"""Unusual folders (`odd_folders.py`). Each is either understood, and everything said about it is
compared word by word, or refused by a line that names what is unclear."""

import os
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.trainables.data.odd_folders import ODDITIES, Odd, labelled, lines, put
from trainables.data import DataConfig, DataSet, Task, inspect, load_dataset
from trainables.data.formats import EXTENSIONS
from trainables.data.images import decode
from trainables.data.labels import in_order
from trainables.data.layouts import read_layout
from trainables.data.listing import Entry, Listing, fingerprint_of
from trainables.data.split_names import are_pieces, firm_looks, is_fold, split_of
from trainables.data.summarize import layout_summary
from trainables.errors import UserError


def described(listing: Listing) -> str:
    """Return the classes and the summary that a user sees before any image is decoded."""
    classes = " ".join(listing.classes) or "no classes"
    unlabeled = int(np.sum(listing.labels < 0))
    more = f", {unlabeled} unlabeled" if unlabeled else ""
    return "\n".join([classes + more, *layout_summary(listing).lines(1000)])


@pytest.mark.parametrize("odd", ODDITIES, ids=lambda odd: odd.name)
def test_folder_is_understood_or_refused_by_name(odd: Odd, tmp_path: Path) -> None:
    root = tmp_path / "SET"
    root.mkdir()
    odd.build(root)
    try:
        said = described(odd.read(root))
    except UserError as refusal:
        said = f"refused: {refusal}".replace(str(root), "SET")
    assert said == odd.expected


def test_there_are_enough_oddities() -> None:
    names = [odd.name for odd in ODDITIES]
    assert len(set(names)) == len(names) >= 40


# ---------------------------------------------------------------- fingerprints

KNOWN = [
    Odd("images alone", ("{0..5}.png",), "dfabd44ed532589ae364f0cb48bd8f75", "ssl"),
    Odd(
        "flat parts in one folder",
        ("set/train/{0..5}.jpg", "set/val/{0..2}.jpg"),
        "b5c4a6de71f4858a2e7a915a3d0113a2",
        "ssl",
    ),
    Odd(
        "class folders",
        ("{cat,dog}/{0..3}.png", "notes.txt"),
        "3eb2854a341650430c4b5e32e67d2628",
    ),
    Odd(
        "class folders in parts",
        (
            "train_50/{cat,dog}/{0..3}.png",
            "{validation,test}/{cat,dog}/0.png",
            "preview.png",
        ),
        "06a5c727491fd304e226428b073972c5",
    ),
    Odd(
        "parts and unlabeled",
        ("train/{cat,dog}/{0..3}.png", "test/{cat,dog}/0.png", "unlabeled/{0..3}.png"),
        "cdb07a6df1802a10e19006d2dbb5cb79",
        "ssl",
    ),
    Odd(
        "few-shot classes",
        ("train/{cat,dog,owl}/{0..3}.png", "val/{eel,bee}/{0..3}.png"),
        "46065377f93e0fc04a3595ab05aff352",
        "fewshot",
    ),
    Odd("vehicles", ("{bus,car,train}/{0..3}.png",), "2f9357bb2d8cdd82d5ee07d35b7932c9"),
    Odd(
        "sources in classes",
        ("{walk,run}/p{1..2}/{0..2}.png",),
        "5e7538d0b2132c2c3f645f5b731b731f",
    ),
    Odd(
        "labels in names",
        ("train_50/{0,2,10}_{0..3}.png", "val_50/{0,2,10}_{0..1}.png"),
        "793092df2db1e84e47377466efb1f591",
    ),
    Odd(
        "letters in names",
        ("{o,p,q}_{0..3}.png", "readme.png"),
        "524323d97cee3b84321ff79b4df40624",
        "ssl",
    ),
    Odd(
        "csv",
        ("train/{cat,dog}{0..2}.png", "images/{cat,dog}{3..4}.png", "other/0.png"),
        "0a7d8fbb51f98b70b06e5a0536748f23",
        texts={
            "train.csv": labelled("cat dog", 3),
            "val.csv": lines("cat3.png,cat", "dog3.png,dog", "cat4.png,cat", "dog4.png,dog"),
        },
    ),
    Odd(
        "csv with a hidden test",
        ("train/{cat,dog}{0..2}.png", "test/{0..2}.png"),
        "ac7b9f6961be96357357c37fb84f219e",
        "ssl",
        texts={
            "train.csv": labelled("cat dog", 3),
            "test.csv": lines("2.png,", "0.png,", "1.png,"),
        },
    ),
    Odd(
        "folder of a hidden test",
        ("train/{cat,dog}/{0..2}.png", "test/{0..2}.png"),
        "f82203fd33b9e5cc89608986d3ba431c",
        "ssl",
    ),
    Odd(
        "satellite pairs",
        ("train/000{0..3}_{sat,mask}.png", "validation/000{0..1}_{sat,mask}.png"),
        "b2648303a99698c41e0c0dc26e971889",
        "ssl",
    ),
]
"""Folders with the fingerprints that commit 7642416 gave them, which must stay so that studies of
such data can resume."""


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_folders_that_were_understood_keep_their_fingerprint(known: Odd, tmp_path: Path) -> None:
    known.build(tmp_path)
    assert known.read(tmp_path).fingerprint == known.expected


def test_labels_that_are_equal_as_numbers_get_another_fingerprint(tmp_path: Path) -> None:
    """In stores of earlier versions the order of such classes was arbitrary."""
    put(tmp_path / "a", "{1,2}/{0..2}.png")
    put(tmp_path / "b", "{1,01}/{0..2}.png")
    a, b = (read_layout(tmp_path / name) for name in "ab")
    entries = [[Entry(file, "", file.split("/")[0]) for file in one.files] for one in (a, b)]
    assert a.fingerprint == fingerprint_of(tmp_path / "a", entries[0])
    assert b.fingerprint != fingerprint_of(tmp_path / "b", entries[1])


# ---------------------------------------------------------------- labels


def test_equal_labels_have_one_order_whatever_order_they_come_in() -> None:
    orders = {tuple(in_order(names)) for names in permutations(["1", "01", "001", "2", "10", "b"])}
    assert orders == {("001", "01", "1", "2", "10", "b")}


# ---------------------------------------------------------------- names of splits


NAMES = {
    "train": "train Training trn trainset train2017 images_train TrainImages images_background",
    "val": "val valid validation_set dev val2017 DevSet validating",
    "test": "testing holdout hold-out held_out test_images tst",
    "eval": "eval evaluation images_evaluation",
    None: "background latest contest devil valley strain cat 7 train_test",
}


@pytest.mark.parametrize(
    ("name", "part"), [(name, part) for part, names in NAMES.items() for name in names.split()]
)
def test_names_of_splits(name: str, part: str | None) -> None:
    look = split_of(name)
    assert (look.part if look else None) == part
    assert look is None or look.usual


def test_an_unusual_name_is_a_split_beside_its_like_alone() -> None:
    assert set(firm_looks(["seg_train", "seg_test", "seg_pred"])) == {"seg_train", "seg_test"}
    assert not firm_looks(["bullet_train", "test_tube"])
    assert is_fold("fold_0")
    assert not is_fold("class1")


@pytest.mark.parametrize(
    ("names", "pieces"),
    [
        ("fold0 fold1 cv_fold2", True),
        ("images_001 images_002 images_010", True),
        ("HAM10000_images_part_1 HAM10000_images_part_2", True),
        ("birds_part_a birds_part_b", True),
        ("batch1", False),
        ("s1 s2 s3", False),
        ("class_1 class_2", False),
        ("1 2 10", False),
        ("images_001 cat_002", False),
        ("part_one part_two", False),
        ("set_1 spare", False),
    ],
)
def test_names_of_pieces(names: str, pieces: bool) -> None:
    assert are_pieces(names.split()) == pieces


# ---------------------------------------------------------------- files


def test_every_ending_that_pillow_reads_is_an_image() -> None:
    """Excluded are documents, films and data files, which need other programs or contain no
    picture."""
    Image.init()
    known = {ending for ending, name in Image.registered_extensions().items() if name in Image.OPEN}
    assert known - set(EXTENSIONS) == {
        *(".ps", ".eps"),
        *(".wmf", ".emf"),
        *(".mpg", ".mpeg"),
        *(".bufr", ".grib", ".h5", ".hdf", ".iim"),
    }
    assert {".jpg", ".avif", ".jfif", ".ppm", ".jp2", ".tga"} <= set(EXTENSIONS) <= known


@pytest.mark.parametrize("ending", [".avif", ".jfif", ".ppm", ".webp", ".jp2", ".tga", ".qoi"])
def test_images_of_other_endings_are_decoded(ending: str, tmp_path: Path) -> None:
    gray = np.full((16, 16, 3), 120, np.uint8)
    Image.fromarray(gray).save(tmp_path / f"a{ending}")
    assert abs(int(decode(tmp_path / f"a{ending}", 8).mean()) - 120) <= 2


def test_a_folder_that_may_not_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "{cat,dog}/{0..2}.png")
    scan = os.scandir

    def no_dogs(path: str) -> Any:
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", no_dogs)  # root may read everything
    with pytest.raises(UserError, match=r"folder .*/dog cannot be read \(Permission denied\)"):
        read_layout(tmp_path)


# ---------------------------------------------------------------- loaded


def paint(root: Path, *patterns: str) -> None:
    """Write images of noise, no two of them near-duplicates."""
    put(root, *patterns)
    for number, path in enumerate(sorted(root.rglob("*.png"))):
        noise = np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(noise).save(path)


def load(root: Path, task: Task, **options: Any) -> DataSet:
    config = DataConfig(name=str(root), image_size=16, **options)
    return load_dataset(config, task, cache_dir=root.parent / "cache")


def test_a_hidden_test_set_is_never_trained_or_judged_on(tmp_path: Path) -> None:
    root = tmp_path / "set"
    paint(root, "train/{cat,dog}{0..9}.png", "test/{0..4}.png")
    (root / "train.csv").write_text(labelled("cat dog", 10))
    (root / "test.csv").write_text(lines("4.png", "0.png", "1.png", "3.png", "2.png", header="id"))

    data = load(root, "classify")
    used = np.concatenate([data.train.indices, data.val.indices, data.test.indices])
    listing = read_layout(root, "classify")
    assert sorted(used) == [row for row, file in enumerate(listing.files) if "train" in file]
    assert listing.hidden == tuple(f"test/{number}.png" for number in (4, 0, 1, 3, 2))
    assert inspect(DataConfig(name=str(root)), "classify").counts == {"train": 20, "hidden": 5}
    said = " ".join(" ".join(data.summary.lines()).split())
    assert "test 5 hidden test" in said
    assert "test 4 (carved from train by seed 0); hidden test 5 (no labels)" in said


def test_the_few_shot_set_is_pretrained_on(tmp_path: Path) -> None:
    root = tmp_path / "set"
    paint(root, "train/{cat,dog}{0..9}.png", "val/{owl,eel}{0..4}.png")
    (root / "train.csv").write_text(labelled("cat dog", 10))
    (root / "val.csv").write_text(labelled("owl eel", 5))

    data = load(root, "pretrain")
    assert data.classes == ("cat", "dog")
    assert len(data.train) + len(data.val) + len(data.test) == 20
    assert any("train lacks their 2 classes (eel, owl)" in text for text in data.summary.warnings)
    assert load(root, "fewshot").classes == ("cat", "dog", "eel", "owl")


def test_domains_are_chosen(tmp_path: Path) -> None:
    root = tmp_path / "set"
    paint(root, "{Art,Clipart}/{bed,chair}/{0..9}.png")
    assert len(load(root, "classify", domain="Art").train.images) == 20
    assert len(load(root, "classify", domain="all").train.images) == 40
    with pytest.raises(UserError, match=r"'digits' is an embedded set: leave them out"):
        load_dataset(DataConfig(name="digits", domain="Art"))
