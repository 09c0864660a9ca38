"""Splits by content are the same at every size, under every file name and for every experiment. No
image, nor a re-encoded copy of it, is in two splits."""

import hashlib
import io
import itertools
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from trainables.data import DataConfig, DataSet, Split, Task, inspect, load_dataset
from trainables.data.duplicates import near_duplicates
from trainables.data.layouts import read_layout
from trainables.data.pairs import read_pairs
from trainables.data.seen import SeenRecord, Training, met

CLASSES = ("ant", "bee", "cat", "dog")
SIDE = 130
BY_IMAGE: tuple[Task, ...] = ("ssl", "pretrain", "classify")
"""Experiments that split the images of every class."""


def picture(number: int, side: int = SIDE) -> Image.Image:
    """Return a smooth random picture, different for every number."""
    coarse = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


@cache
def encoded(number: int, side: int, kind: str) -> bytes:
    """Return the picture as a PNG or JPEG file."""
    file = io.BytesIO()
    picture(number, side).save(file, kind, quality=88)
    return file.getvalue()


def by_class(root: Path, count: int = 160, copied: Iterable[int] = (), side: int = SIDE) -> Path:
    """Write `count` pictures in class folders. Those in `copied` are also written as JPEG, as
    `<n>copy.jpg`."""
    copies = set(copied)
    for number in range(count):
        folder = root / CLASSES[number % len(CLASSES)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:03d}.png").write_bytes(encoded(number, side, "PNG"))
        if number in copies:
            (folder / f"{number:03d}copy.jpg").write_bytes(encoded(number, side, "JPEG"))
    return root


def in_pairs(root: Path, count: int, copied: Iterable[int] = (), side: int = SIDE) -> Path:
    """Write the same pictures in the satellite layout, with masks of one class."""
    root.mkdir(parents=True)
    copies = set(copied)
    mask = Image.new("RGB", (side, side), (0, 255, 0))
    for number in range(count):
        (root / f"{number:03d}_sat.png").write_bytes(encoded(number, side, "PNG"))
        mask.save(root / f"{number:03d}_mask.png")
        if number in copies:
            (root / f"{number:03d}copy_sat.jpg").write_bytes(encoded(number, side, "JPEG"))
            mask.save(root / f"{number:03d}copy_mask.png")
    return root


@dataclass(frozen=True)
class Loaded:
    """A data set and the numbers of the pictures in each split, whatever their encoding."""

    data: DataSet
    numbers: list[int]
    """Picture number of each row."""
    train: set[int]
    val: set[int]
    test: set[int]
    gallery: set[int]


def load(root: Path, task: Task, size: int, seed: int = 0, **more: int) -> Loaded:
    config = DataConfig(name=str(root), image_size=size, seed=seed, **more)  # type: ignore[arg-type]
    data = load_dataset(config, task, root.parent / "cache")
    listing = read_pairs(root).listing if task == "segment" else read_layout(root, task)
    numbers = [int(Path(file).name[:3]) for file in listing.files]

    def shown(split: Split | None) -> set[int]:
        return set() if split is None else {numbers[row] for row in split.indices}

    return Loaded(
        data, numbers, shown(data.train), shown(data.val), shown(data.test), shown(data.gallery)
    )


def test_no_size_and_no_experiment_trains_on_the_test_images_of_another(tmp_path: Path) -> None:
    root = by_class(tmp_path / "set")
    found = [load(root, task, size) for task in BY_IMAGE for size in (32, 48, 64, 128)]
    first = found[0]
    assert [len(part) for part in (first.train, first.val, first.test)] == [112, 24, 24]
    for one, other in itertools.permutations(found, 2):
        assert not one.train & (other.test | other.val)
        assert one.val == other.val
        assert one.test == other.test


def test_masks_and_no_labels_are_split_alike(tmp_path: Path) -> None:
    root = in_pairs(tmp_path / "pairs", 60)
    found = [load(root, task, size) for task in ("ssl", "segment") for size in (32, 64)]  # type: ignore[arg-type]
    assert len(found[0].test) == len(found[0].val) == 9
    for one, other in itertools.permutations(found, 2):
        assert not one.train & (other.test | other.val)


def test_new_classes_are_the_same_at_every_size(tmp_path: Path) -> None:
    root = by_class(tmp_path / "set", 40)
    found = [load(root, "fewshot", size, seed=3) for size in (32, 64)]
    assert found[0].test == found[1].test
    assert len({number % 4 for number in found[0].test}) == 1
    assert not {n % 4 for n in found[0].train} & {n % 4 for n in found[1].test | found[1].val}


def test_gallery_and_limit_are_the_same_at_every_size(tmp_path: Path) -> None:
    root = by_class(tmp_path / "set", 60)
    small, large = (load(root, "ssl", size, limit=11) for size in (32, 64))
    assert len(small.train) == 11
    assert small.train == large.train
    assert small.gallery == large.gallery
    few = [load(root, "classify", size, limit=10) for size in (32, 64)]
    assert few[0].train == few[1].train
    assert len({number % 4 for number in few[0].train}) == 4


def test_lent_classes_are_the_same_at_every_size(tmp_path: Path) -> None:
    """With a few-shot layout under `ssl`, half of each new class goes to the gallery."""
    for number in range(48):
        part = ("train", "train", "val")[number % 3]
        folder = tmp_path / "set" / part / f"{part}{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        picture(number).save(folder / f"{number:03d}.png")
    found = [load(tmp_path / "set", "ssl", size) for size in (32, 64)]
    assert found[0].gallery == found[1].gallery
    assert found[0].test == found[1].test
    assert len(found[0].test) == 8


def test_the_order_is_that_of_sha256(tmp_path: Path) -> None:
    """The rule of docs/evidence.md, implemented a second time."""
    root = by_class(tmp_path / "set", 80)
    for seed in (0, 7):
        found = load(root, "classify", 32, seed=seed)
        for label in range(4):
            numbers = range(label, 80, 4)

            def key(number: int) -> bytes:
                file = root / CLASSES[number % 4] / f"{number:03d}.png"
                content = hashlib.sha256(file.read_bytes()).digest()
                return hashlib.sha256(f"{seed} ".encode() + content).digest()  # noqa: B023

            in_order = sorted(numbers, key=key)
            assert set(in_order[:3]) == found.test & set(numbers)
            assert set(in_order[3:6]) == found.val & set(numbers)


def test_names_do_not_matter(tmp_path: Path) -> None:
    before = load(by_class(tmp_path / "set", 60), "classify", 32)
    for path in sorted((tmp_path / "set").rglob("*.png")):
        number = int(path.stem)
        path.rename(path.with_name(f"{number:03d}-{997 * number % 61}.png"))
    after = load(tmp_path / "set", "classify", 32)
    assert (before.train, before.val, before.test) == (after.train, after.val, after.test)


def test_one_more_image_moves_no_other(tmp_path: Path) -> None:
    """At most one image moves at each border, where the share is rounded up."""
    root = by_class(tmp_path / "set", 80)
    before = load(root, "classify", 32)
    for number in range(80, 92):
        picture(number).save(root / CLASSES[number % 4] / f"{number:03d}.png")
        after = load(root, "classify", 32)
        for old, new in ((before.test, after.test), (before.val, after.val)):
            assert len((old ^ new) - {number}) <= 2
        before = after


def test_copies_across_given_parts_train_nothing(tmp_path: Path) -> None:
    root = tmp_path / "set"
    by_class(root / "train", 40)
    for number in range(40, 64):
        folder = root / ("val" if number % 8 < 4 else "test") / CLASSES[number % 4]
        folder.mkdir(parents=True, exist_ok=True)
        picture(number).save(folder / f"{number:03d}.png")
    picture(40).save(root / "train" / "ant" / "040again.jpg")
    picture(44).save(root / "val" / "ant" / "044again.jpg")
    picture(45).save(root / "train" / "dog" / "045again.jpg")  # under another label
    found = load(root, "classify", 32)
    assert found.train == set(range(40))
    assert 44 not in found.val
    assert found.test == {number for number in range(40, 64) if number % 8 >= 4}


def test_val_and_test_train_byol_only_by_name(tmp_path: Path) -> None:
    root = by_class(tmp_path / "carved", 40)
    parts = tmp_path / "parts"
    by_class(parts / "train", 24)
    for number in range(40, 60):
        folder = parts / ("val" if number % 8 < 4 else "test") / CLASSES[number % 4]
        folder.mkdir(parents=True, exist_ok=True)
        picture(number).save(folder / f"{number:03d}.png")

    for folder in (root, parts):
        usual = load(folder, "ssl", 32)
        named = load(folder, "ssl", 32, transductive=True)
        assert not usual.train & (usual.val | usual.test)
        assert named.train == usual.train | usual.val | usual.test
        assert any(note.startswith("transductive: ") for note in named.data.summary.notes)
        assert (named.val, named.test, named.gallery) == (usual.val, usual.test, usual.gallery)


def in_parts(
    root: Path, count: int, copied: Iterable[int], parts: tuple[str, ...], side: int
) -> Path:
    """Write the pictures of `by_class` in folders of parts. A copy lies in the part after that of
    its picture."""
    copies = set(copied)
    for number in range(count):
        place = number // len(CLASSES) % len(parts)
        names = {place: (f"{number:03d}.png", "PNG")}
        if number in copies:
            names[(place + 1) % len(parts)] = (f"{number:03d}copy.jpg", "JPEG")
        for part, (name, kind) in names.items():
            folder = root / parts[part] / CLASSES[number % len(CLASSES)]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(encoded(number, side, kind))
    return root


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(24, 48),
    copied=st.sets(st.integers(0, 47), max_size=20),
    seed=st.integers(0, 2**31),
    sizes=st.permutations([16, 28, 40]),
    parts=st.sampled_from([("train", "val"), ("train", "test"), ("train", "val", "test")]),
)
def test_nothing_is_on_two_sides(
    tmp_path: Path,
    count: int,
    copied: set[int],
    seed: int,
    sizes: list[int],
    parts: tuple[str, ...],
) -> None:
    """Holds for all folders, sizes, seeds and experiments, with re-encoded copies, whether the
    folder gives splits or not. The record of what a backbone has seen counts exactly the images
    that it meets again."""
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        labelled = by_class(Path(folder) / "labelled", count, copied, side=48)
        parted = in_parts(Path(folder) / "parted", count, copied, parts, side=48)
        pairs = in_pairs(Path(folder) / "pairs", count, copied, side=48)
        experiments: list[tuple[Path, Task]] = [
            (root, task) for root in (labelled, parted) for task in BY_IMAGE
        ]
        experiments += [(labelled, "fewshot"), (pairs, "segment"), (pairs, "ssl")]

        runs = []
        for size, (root, task) in zip(itertools.cycle(sizes), experiments, strict=False):
            runs.append((root, task, load(root, task, size, seed)))

        for root, task, run in runs:
            assert not run.train & run.test
            assert not run.train & run.val
            assert not run.val & run.test
            for other_root, other_task, other in runs:
                if root == other_root and "fewshot" not in (task, other_task):
                    assert not run.train & (other.val | other.test)
                check_record(run, other, labels=task != "ssl")


def check_record(run: Loaded, other: Loaded, labels: bool) -> None:
    record = SeenRecord().then(Training.on(run.data, 0, labels))
    for split in (other.data.val, other.data.test):
        expected = sum(other.numbers[row] in run.train for row in split.indices)
        counted = met(record, other.data, split)
        assert counted.images == len(split)
        assert (counted.with_labels, counted.without_labels)[not labels] == expected
        assert counted.seen == expected


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", ["digits", "glyphs", "earth"])
def test_nothing_of_an_embedded_set_is_on_two_sides(name: str, seed: int) -> None:
    """By content, so that two drawings of one letter in one font are one picture."""
    sizes = {"digits": 8, "glyphs": 28, "earth": 32}
    tasks: dict[str, tuple[Task, ...]] = {
        "digits": ("ssl", "pretrain", "classify", "fewshot"),
        "glyphs": ("ssl", "pretrain", "classify", "fewshot"),
        "earth": ("ssl", "pretrain", "classify", "segment"),
    }
    found = {}
    for task in tasks[name]:
        config = DataConfig(name=name, image_size=sizes[name], seed=seed)
        data = load_dataset(config, task)
        assert data.contents is not None
        splits = {"train": data.train, "val": data.val, "test": data.test}
        parts = {part: set(data.contents.keys[of.indices]) for part, of in splits.items()}
        assert not parts["train"] & (parts["val"] | parts["test"])
        assert not parts["val"] & parts["test"]
        found[task] = parts
    # what pre-training has trained on judges no classifier
    for before in ("ssl", "pretrain"):
        assert not found[before]["train"] & found["classify"]["test"]


@pytest.mark.parametrize("task", ["classify", "fewshot"])
def test_digits_are_split_by_their_pixels(tmp_path: Path, task: Task) -> None:
    found = []
    for size in (8, 16):
        config = DataConfig(name="digits", image_size=size, seed=4)
        found.append(load_dataset(config, task, tmp_path))
    small, large = found
    for name in ("train", "val", "test"):
        rows = getattr(small, name).indices, getattr(large, name).indices
        np.testing.assert_array_equal(*rows)
    assert small.contents is not None
    digests = [set(small.contents.keys[part.indices]) for part in (small.train, small.test)]
    assert not digests[0] & digests[1]


def test_contents_are_recorded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are also recorded beside a store of an earlier version, without decoding its images
    again."""
    root = by_class(tmp_path / "set", 12)
    load(root, "ssl", 32)
    cache = tmp_path / "cache"
    (contents,) = cache.glob("*-contents-v2.npz")
    kept = contents.read_bytes()
    (images,) = cache.glob("*32px-v1/images.npy")
    written = images.stat().st_mtime_ns

    load(root, "ssl", 64)
    assert contents.read_bytes() == kept

    contents.unlink()
    load(root, "ssl", 32)
    assert contents.read_bytes() == kept
    assert images.stat().st_mtime_ns == written

    monkeypatch.setattr("trainables.data.folders.open_picture", None)
    load(root, "classify", 32)
    assert inspect(DataConfig(name=str(root)), "ssl").counts == {"images": 12}


@pytest.mark.parametrize(
    ("split", "version", "resample", "gap"),
    [(2, 1, Image.Resampling.BICUBIC, None), (3, 2, Image.Resampling.BILINEAR, 2.0)],
)
def test_thumbnails_are_those_of_the_version(
    tmp_path: Path, split: int, version: int, resample: Image.Resampling, gap: float | None
) -> None:
    """The groups on record are those of the largest centred squares at 32 px."""
    root = by_class(tmp_path / "set", 24, copied=range(5), side=96)
    data = load(root, "classify", 16, split=split).data
    (path,) = (tmp_path / "cache").glob("*-contents-v*.npz")
    assert path.name.endswith(f"contents-v{version}.npz")

    files = [Image.open(root / file) for file in data.files]
    drawn = [file.resize((32, 32), resample, reducing_gap=gap) for file in files]
    thumbnails = np.stack([np.asarray(image).transpose(2, 0, 1) for image in drawn])
    groups = data.contents.groups  # type: ignore[union-attr]
    assert groups.tolist() == near_duplicates(thumbnails).tolist()
    assert len(np.unique(groups)) == 24


def test_a_picture_saved_at_another_size_is_a_near_duplicate(tmp_path: Path) -> None:
    root = by_class(tmp_path / "set", 20, side=200)
    for number, side in ((0, 66), (1, 100), (2, 313), (3, 48)):
        image = picture(number, 200).resize((side, side), Image.Resampling.BICUBIC)
        image.save(root / "ant" / f"{number:03d}again.jpg", quality=90)
    groups = load(root, "classify", 16).data.contents.groups  # type: ignore[union-attr]
    assert len(groups) == 24
    assert len(np.unique(groups)) == 20
