"""Folder layouts. The red channel of every test image encodes its class, so labels are checked
against pixels instead of paths."""

import csv
import os
import re
import shutil
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import REPO
from trainables.data import DataConfig, DataSet, Split, inspect, load_dataset
from trainables.data.layout_base import Layout, typed
from trainables.data.layouts import LAYOUTS, read_layout
from trainables.data.pair_layouts import PAIR_LAYOUTS
from trainables.data_summary import LeftOut
from trainables.errors import UserError

CLASSES = ("ant", "bee", "cat")
_number = count()


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISTUNE_CACHE", str(tmp_path / ".cache"))


def paint(path: Path, label: int = 0) -> None:
    """Write a unique smooth random image whose red channel is 40 + 40 x label."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(next(_number)).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = np.array(Image.fromarray(coarse).resize((24, 24), Image.Resampling.BICUBIC))
    image[..., 0] = 40 + 40 * label
    Image.fromarray(image).save(path)


def painted(split: Split) -> np.ndarray:
    """Return the classes that the pixels encode."""
    red = split.batch(np.arange(len(split)))[:, 0].float().mean((1, 2)).numpy()
    return np.round((red - 40) / 40).astype(int)


def flat(root: Path, n: int = 12) -> Path:
    for i in range(n):
        paint(root / f"{i:04d}.png")
    return root


def class_folders(root: Path, each: int = 10, classes: tuple[str, ...] = CLASSES) -> Path:
    for name in classes:
        for i in range(each):
            paint(root / name / f"{i}.png", CLASSES.index(name))
    return root


def prefixed(root: Path, each: int = 10, classes: tuple[str, ...] = CLASSES) -> Path:
    for name in classes:
        for i in range(each):
            paint(root / f"{name}_{i}.png", CLASSES.index(name))
    return root


def table(root: Path, part: str, each: int = 10, folder: str | None = None) -> Path:
    lines = []
    for label, name in enumerate(CLASSES):
        for i in range(each):
            file = f"{part}{name[0]}{i}.png"
            paint(root / (part if folder is None else folder) / file, label)
            lines.append((len(lines), file, name))
    write_csv(root / f"{part}.csv", lines)
    return root


def write_csv(
    path: Path,
    lines: list[tuple[object, ...]],
    header: tuple[str, ...] = ("id", "filename", "label"),
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *lines])


def make(kind: str, root: Path) -> Path:
    """Write a folder in this layout."""
    if kind == "flat":
        flat(root)
    elif kind == "flat in one folder":
        flat(root / "images")
    elif kind == "flat train val":
        flat(flat(root / "train").parent / "val", 4)
    elif kind == "classes":
        class_folders(root)
    elif kind == "classes train val":
        class_folders(class_folders(root / "train").parent / "val", 3)
    elif kind == "classes train val test":
        for part, each in (("train", 10), ("validation", 3), ("test", 4)):
            class_folders(root / part, each)
    elif kind == "csv":
        table(table(root, "train"), "val", 3)
    elif kind == "csv test":
        table(table(table(root, "train"), "val", 3), "test", 4)
    elif kind == "csv images":
        table(table(root, "train", folder="images"), "val", 3, folder="images")
    elif kind == "csv beside":
        table(table(root, "train", folder="."), "val", 3, folder=".")
    elif kind == "csv train only":
        table(root, "train")
    elif kind == "prefix":
        prefixed(root)
    elif kind == "prefix train val":
        prefixed(prefixed(root / "train_50").parent / "val_50", 3)
    return root


UNLABELED = {
    "flat": (12, "flat"),
    "flat in one folder": (12, "flat"),
    "flat train val": (16, "flat"),
}
LABELED = {  # images in total, in the layout's val, in its test
    "classes": (30, 0, 0),
    "classes train val": (39, 9, 0),
    "classes train val test": (51, 9, 12),
    "csv": (39, 9, 0),
    "csv test": (51, 9, 12),
    "csv images": (39, 9, 0),
    "csv beside": (39, 9, 0),
    "csv train only": (30, 0, 0),
    "prefix": (30, 0, 0),
    "prefix train val": (39, 9, 0),
}


def load(root: Path, task: str = "ssl", **options: object) -> DataSet:
    return load_dataset(DataConfig(name=str(root), image_size=16, **options), task)  # type: ignore[arg-type]


def assert_apart(data: DataSet) -> None:
    """Check that train, val and test share no row, and neither do gallery and queries."""
    for a, b in (
        ("train", "val"),
        ("train", "test"),
        ("val", "test"),
        ("gallery", "val"),
        ("gallery", "test"),
    ):
        if getattr(data, a) is not None:
            assert not set(getattr(data, a).indices) & set(getattr(data, b).indices), (a, b)


@pytest.mark.parametrize("task", ["ssl", "classify"])
@pytest.mark.parametrize("kind", LABELED)
def test_labelled_layouts(tmp_path: Path, kind: str, task: str) -> None:
    root = make(kind, tmp_path / "set")
    total, val, test = LABELED[kind]
    data = load(root, task)
    assert data.classes == CLASSES
    assert data.gallery is not None
    assert len(data.train) + len(data.val) + len(data.test) == total == len(data.train.images)
    assert_apart(data)
    for split in (data.train, data.gallery, data.val, data.test):
        np.testing.assert_array_equal(split.targets(), painted(split))
    assert set(data.gallery.indices) <= set(data.train.indices)
    if val and not test:  # the layout's val becomes the test split
        files = read_layout(root, task).files
        assert len(data.test) == val
        assert all("val" in files[i] for i in data.test.indices) or kind in (
            "csv images",
            "csv beside",
        )
    if test:
        assert (len(data.val), len(data.test)) == (val, test)


@pytest.mark.parametrize("kind", UNLABELED)
def test_unlabeled_layouts(tmp_path: Path, kind: str) -> None:
    root = make(kind, tmp_path / "set")
    data = load(root)
    total, _ = UNLABELED[kind]
    assert (data.classes, data.gallery, data.train.targets()) == ((), None, None)
    assert len(data.train) + len(data.val) + len(data.test) == total
    assert_apart(data)
    assert "no labels" in data.headline()
    assert np.isnan(data.chance)
    with pytest.raises(UserError, match=r"no labels .*classification needs them"):
        load(root, "classify")


def test_camera_names_and_numbers_are_not_labels(tmp_path: Path) -> None:
    for i in range(12):
        paint(tmp_path / "a" / f"IMG_{i:04d}.jpg")
        paint(tmp_path / "b" / f"scan{i}_1.jpg")
    assert load(tmp_path / "a").classes == ()
    assert load(tmp_path / "b").classes == ()


def test_nearly_all_names_with_prefix(tmp_path: Path) -> None:
    root = prefixed(tmp_path / "set")
    paint(root / "readme.png")
    data = load(root)
    assert data.classes == CLASSES
    assert len(data.train) + len(data.val) + len(data.test) == 31
    with pytest.raises(UserError, match=r"1 images in .* have no label .*readme\.png"):
        load(root, "classify")


def test_numbers_as_labels_are_in_numeric_order(tmp_path: Path) -> None:
    for label in (0, 2, 10):
        for i in range(4):
            paint(tmp_path / "set" / f"{label}_{i}.png")
    assert read_layout(tmp_path / "set").classes == ("0", "2", "10")


def test_class_folders_called_like_parts(tmp_path: Path) -> None:
    for name in ("bus", "car", "train"):
        for i in range(4):
            paint(tmp_path / "set" / name / f"{i}.png")
    assert read_layout(tmp_path / "set").classes == ("bus", "car", "train")


def test_partly_labelled_csv(tmp_path: Path) -> None:
    """Images without a label are used for training only, not for selection or testing."""
    root = table(tmp_path / "set", "train")
    for i in range(20):
        paint(root / "train" / f"more{i}.png")
    data = load(root)
    assert len(data.train.images) == 50
    assert data.gallery is not None
    for split in (data.gallery, data.val, data.test):
        np.testing.assert_array_equal(split.targets(), painted(split))
    assert np.sum(data.train.targets() == -1) == 20
    with pytest.raises(UserError, match=r"20 images in .* have no line in a csv"):
        load(root, "classify")


def test_classes_that_train_lacks_lend_half_to_the_gallery(tmp_path: Path) -> None:
    """In the few-shot layout the classes of val are new."""
    root = class_folders(tmp_path / "set" / "train", classes=CLASSES[:2]).parent
    class_folders(root / "val", classes=CLASSES[2:])
    data = load(root)
    assert data.gallery is not None
    assert (len(data.test), np.sum(data.gallery.targets() == 2)) == (5, 5)
    assert_apart(data)
    with pytest.raises(UserError, match=r"class 'cat' .* occurs in val but not in train"):
        load(root, "classify")


def test_limit(tmp_path: Path) -> None:
    data = load(class_folders(tmp_path / "set"), "classify", limit=6)
    assert np.bincount(data.train.targets()).tolist() == [2, 2, 2]
    assert set(data.train.indices) < set(load(tmp_path / "set", "classify").train.indices)


def test_hidden_and_other_files_are_ignored_and_links_followed(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set")
    (root / "ant" / "._0.png").write_bytes(b"resource fork")
    (root / "ant" / "notes.txt").write_text("x")
    shutil.move(root / "bee", tmp_path / "elsewhere")
    (root / "bee").symlink_to(tmp_path / "elsewhere")
    (root / "ant" / "loop").symlink_to(root)
    assert len(read_layout(root).files) == 30


def test_images_outside_the_parts_are_left_out_and_said_once(tmp_path: Path) -> None:
    root = make("classes train val", tmp_path / "set")
    paint(root / "preview.png")
    data = load(root)
    assert len(data.train.images) == 39
    expected = (LeftOut("outside the folders in use", 1, "preview.png"),)
    assert data.summary.left_out == expected
    assert data.summary.notes == ()


# fingerprint


def test_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    root = make("csv", tmp_path / "set")
    key = read_layout(root).fingerprint
    shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)  # with other dates
    assert read_layout(tmp_path / "copy").fingerprint == key
    assert inspect(DataConfig(name=str(tmp_path / "copy"))).fingerprint == key

    def changed(change: str) -> str:
        shutil.rmtree(tmp_path / "copy")
        shutil.copytree(root, tmp_path / "copy")
        file = tmp_path / "copy" / "train" / "traina0.png"
        if change == "byte":
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
        elif change == "name":
            paint(file.with_name("new.png"))
        else:
            path = tmp_path / "copy" / "train.csv"
            path.write_text(path.read_text().replace("traina0.png,ant", "traina0.png,bee"))
        return read_layout(tmp_path / "copy").fingerprint

    assert len({key, changed("byte"), changed("name"), changed("label")}) == 4


def test_fingerprint_samples_large_files(tmp_path: Path) -> None:
    root = flat(tmp_path / "set", 4)
    big = root / "big.bmp"
    Image.fromarray(np.zeros((200, 200, 3), np.uint8)).save(big)
    keys = [read_layout(root).fingerprint]
    size = big.stat().st_size
    for at in (100, size // 2 + 5, size - 1):
        content = bytearray(big.read_bytes())
        content[at] ^= 255
        big.write_bytes(content)
        os.utime(big, ns=(0, at))
        keys.append(read_layout(root).fingerprint)
    assert len(set(keys)) == 4


# every error is one line that names the value


def error_of(root: Path | str, task: str = "ssl") -> str:
    """Return the one message that both `inspect` and `load_dataset` raise."""
    messages = []
    for look in (inspect, load_dataset):
        with pytest.raises(UserError) as raised:
            look(DataConfig(name=str(root)), task)  # type: ignore[operator]
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
    assert "\n" not in messages[0]
    return messages[0]


def test_unknown_name() -> None:
    message = error_of("glyfs")
    assert "'glyfs'" in message
    assert "did you mean 'glyphs'?" in message
    assert "did you mean 'digits'?" in error_of("/home/me/digitz")  # typed without a folder
    assert "valid: digits, earth, glyphs" in error_of("/no/such/folder")


def test_file_instead_of_folder(tmp_path: Path) -> None:
    paint(tmp_path / "a.png")
    assert "is a file, not a folder" in error_of(tmp_path / "a.png")


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    message = error_of(tmp_path)
    assert f"{tmp_path} contains no images" in message
    assert "; left out: 1 ending .txt; known layouts: csv (train.csv (" in message
    for name in ("folder per class (<class>/*.jpg)", "file-name prefix (<label>_<n>.jpg)"):
        assert name in message
    assert message.endswith("(a flat folder of images); all but csv also in train/ and val/")


def test_a_refusal_lists_the_layouts_that_were_tried(tmp_path: Path) -> None:
    for number in range(8):
        paint(tmp_path / f"{number}.png")
    paint(tmp_path / "ant" / "a_1.png")
    assert error_of(tmp_path, "classify") == (
        f"data folder {tmp_path} has no labels (flat folder without labels), classification needs "
        "them; tried: csv (no train.csv); nested classes (images are not two folders deep); "
        "domains (images are not two folders deep); folder per class (1 of 9 images are in a "
        "subfolder); label file (no single csv with columns for file and label); "
        "file-name prefix (1 of 9 names are <label>_<n>)"
    )


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (["a/1.png", "2.png"], "folder per class (1 of 2 images are in a subfolder)"),
        (["a/1.png", "a/2.png", "3.png"], "folder per class (only one subfolder)"),
        (["a_1.png", "a_2.png"], "file-name prefix ('a' is the only label)"),
        (["a_1.png", "b_1.png", "c_1.png"], "file-name prefix (3 different labels in 3 names)"),
    ],
)
def test_a_refusal_says_what_each_layout_lacks(
    tmp_path: Path, files: list[str], reason: str
) -> None:
    for file in files:
        paint(tmp_path / file)
    assert reason in error_of(tmp_path, "fewshot")


def test_a_csv_without_any_label(tmp_path: Path) -> None:
    table(tmp_path, "train", 4)
    path = tmp_path / "train.csv"
    lines = [line.rpartition(",")[0] + "," for line in path.read_text().splitlines()[1:]]
    path.write_text("\n".join(["id,filename,label", *lines]))
    assert error_of(tmp_path, "classify").endswith("needs them; fill in the column label")


def test_val_without_train(tmp_path: Path) -> None:
    class_folders(tmp_path / "val")
    assert "no train folder" in error_of(tmp_path)


def test_two_folders_of_one_part(tmp_path: Path) -> None:
    for name in ("train", "train_50", "val"):
        flat(tmp_path / name, 2)
    assert "several folders of one kind (train, train_50, val)" in error_of(tmp_path)


def test_a_csv_that_cannot_be_opened(tmp_path: Path) -> None:
    table(tmp_path, "train", 4)
    (tmp_path / "train.csv").unlink()
    (tmp_path / "train.csv").mkdir()  # file permissions would not stop root
    assert (
        "train.csv cannot be read (Is a directory); make it a file that you may read"
        in error_of(tmp_path, "classify")
    )


def test_csv_errors(tmp_path: Path) -> None:
    table(tmp_path, "train", 4)
    good = (tmp_path / "train.csv").read_text()

    def with_csv(content: str | bytes) -> str:
        (tmp_path / "train.csv").write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
        return error_of(tmp_path, "classify")

    assert "train.csv lacks the columns label (found: id, filename, colour)" in with_csv(
        good.replace("label", "colour")
    )
    assert "lacks the columns filename, label (found: a:b:c)" in with_csv("a:b:c\n")
    assert "begins with an image (a.png, ant), not with the names of its columns" in with_csv(
        "a.png,ant\n"
    )
    assert "train.csv line 14 has 4 values for 3 columns (id, filename, label); put" in with_csv(
        good + "99,traina0.png,ant, red\n"
    )
    assert "lacks the columns filename, label (found: none)" in with_csv("")
    assert "train.csv cannot be read as csv" in with_csv(
        b"id,filename,label\n0,\xff\xfe\x00.png,ant\n"
    )
    assert "train.csv line 14 has no file name" in with_csv(good + "99,,ant\n")
    assert "names 2 files that are not in" in with_csv(
        good + "98,gone.png,ant\n99,/etc/passwd,ant\n"
    )
    assert "gone.png, /etc/passwd" in with_csv(good + "98,gone.png,ant\n99,/etc/passwd,ant\n")
    assert "train/traina0.png is listed as train/bee and train/ant" in with_csv(
        good + "99,traina0.png,bee\n"
    )
    assert "1 images in " in with_csv(good.replace("traina0.png,ant", "traina0.png,"))
    assert "have no line in a csv (train/traina0.png)" in with_csv(
        good.replace("0,traina0.png,ant\n", "", 1)
    )
    (tmp_path / "train.csv").rename(tmp_path / "val.csv")
    assert "has no train.csv beside it" in error_of(tmp_path)


def test_csv_with_byte_order_mark_and_spaces(tmp_path: Path) -> None:
    table(tmp_path, "train", 4)
    path = tmp_path / "train.csv"
    path.write_text("\ufeff" + path.read_text().replace(",", ", "), encoding="utf-8")
    assert read_layout(tmp_path).classes == CLASSES


def test_too_few_images(tmp_path: Path) -> None:
    flat(tmp_path / "set", 2)
    with pytest.raises(UserError, match="too small: no images are left for val of 2"):
        load(tmp_path / "set")


@pytest.mark.parametrize("layout", [*LAYOUTS, *PAIR_LAYOUTS], ids=lambda layout: layout.name)
def test_the_page_shows_every_layout_as_a_tree_with_its_command(layout: Layout) -> None:
    parts = re.split(r"^\*\*", (REPO / "docs/data.md").read_text(), flags=re.MULTILINE)
    (part,) = [part for part in parts if f"(`{typed(layout.name)}`)" in part.splitlines()[0]]
    blocks = re.findall(r"(?:^    .*\n)+", part.partition("\n#")[0], re.MULTILINE)
    assert re.match(r" {4}[\w-]+/", blocks[0]), "a tree"
    assert blocks[1].startswith("    python tune/run.py "), "its command"
