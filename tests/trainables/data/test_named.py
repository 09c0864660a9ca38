"""`--data torchvision:NAME`: small data sets in the layouts that torchvision reads, compared with
what torchvision itself reads."""

import pickle
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

from trainables.data import DataConfig, DataSet, inspect, load_dataset, named
from trainables.data.images import sha256
from trainables.data.named import Example, Examples, data_name, named_folder, parse_name
from trainables.data.named_torchvision import SETS, examples_of, up_of
from trainables.errors import UserError

S = 16
BREEDS = ("Abyssinian", "american_bulldog")
COUNTS = {"trainval": 12, "test": 4}  # of each breed


def picture(number: int, side: int = S) -> Image.Image:
    """Return a unique picture."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def trimap(number: int) -> np.ndarray:
    """Return a trimap: 1 pet, 2 background, 3 not classified."""
    return np.random.default_rng(number).integers(1, 4, (S, S)).astype(np.uint8)


def pets(root: Path) -> str:
    """Write the Oxford pets as torchvision unpacks them; return the value of `--data`."""
    base = root / "oxford-iiit-pet"
    for folder in ("images", "annotations/trimaps"):
        (base / folder).mkdir(parents=True)
    number = 0
    for split, count in COUNTS.items():
        lines = []
        for label, breed in enumerate(BREEDS):
            for _ in range(count):
                name = f"{breed}_{number}"
                picture(number).save(base / "images" / f"{name}.jpg", quality=95)
                Image.fromarray(trimap(number)).save(base / "annotations/trimaps" / f"{name}.png")
                lines.append(f"{name} {label + 1} {label + 1} 1\n")
                number += 1
        (base / "annotations" / f"{split}.txt").write_text("".join(lines))
    return f"torchvision:OxfordIIITPet,root={root}"


def loaded(name: str, task: Any, cache: Path, **changes: Any) -> DataSet:
    return load_dataset(DataConfig(name=name, image_size=S, **changes), task, cache)


def by_content(data: DataSet) -> dict[bytes, tuple[str, str]]:
    """Return {digest of an image's file: its split and class}."""
    assert data.contents is not None
    found = {}
    for part in ("train", "val", "test"):
        split = getattr(data, part)
        for row in split.indices:
            name = data.classes[split.labels[row]]
            found[data.contents.digests[row].tobytes()] = (part, name)
    return found


def test_pets_are_the_files_labels_and_test_split_of_torchvision(tmp_path: Path) -> None:
    name = pets(tmp_path / "tv")
    data = loaded(name, "classify", tmp_path / "cache")
    assert data.name == "torchvision-OxfordIIITPet"
    assert data.classes == ("Abyssinian", "American Bulldog")
    found = by_content(data)

    wanted = {}
    for split in COUNTS:
        official = torchvision.datasets.OxfordIIITPet(tmp_path / "tv", split)
        for path, label in zip(official._images, official._labels, strict=True):
            wanted[sha256(path.read_bytes())] = (split, official.classes[label])
    assert found.keys() == wanted.keys()
    for content, (split, breed) in wanted.items():
        part, shown = found[content]
        assert shown == breed
        assert (part == "test") == (split == "test")
    assert len(data.val)  # carved from train

    # the files are linked, not copied
    folder = named_folder(name, "classify", tmp_path / "cache")
    links = [path.stat().st_nlink for path in folder.rglob("*.jpg")]
    assert links == [2] * len(wanted)


def test_same_files_in_a_folder_are_the_same_data(tmp_path: Path) -> None:
    name = pets(tmp_path / "tv")
    data = loaded(name, "classify", tmp_path / "cache")
    folder = named_folder(name, "classify", tmp_path / "cache")
    copied = tmp_path / "copied"
    for path in folder.rglob("*.jpg"):
        target = copied / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())

    same = loaded(str(copied), "classify", tmp_path / "other")
    assert same.fingerprint == data.fingerprint
    assert by_content(same) == by_content(data)
    described = inspect(DataConfig(name=name, image_size=S), "classify", tmp_path / "cache")
    assert described.fingerprint == data.fingerprint
    assert described.counts == {"train": 24, "test": 8}


def test_pets_with_masks_are_their_trimaps(tmp_path: Path) -> None:
    name = pets(tmp_path / "tv")
    data = loaded(name, "segment", tmp_path / "cache")
    assert data.classes == ("background", "pet")
    assert len(data.test) == 8

    of_image = {}
    for path in (tmp_path / "tv/oxford-iiit-pet/images").iterdir():
        number = int(path.stem.rpartition("_")[2])
        of_image[sha256(path.read_bytes())] = trimap(number)
    assert data.contents is not None
    for split in (data.train, data.val, data.test):
        masks = split.masks(np.arange(len(split))).numpy()
        for row, mask in zip(split.indices, masks, strict=True):
            values = of_image[data.contents.digests[row].tobytes()]
            expected = np.where(values == 1, 1, np.where(values == 2, 0, 255))
            np.testing.assert_array_equal(mask, expected)


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a CIFAR10 with 20 training and 10 test images, and skip its checksums."""
    folder = tmp_path / "tv" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    kind = torchvision.datasets.CIFAR10
    for number, (file, count) in enumerate({"data_batch_1": 20, "test_batch": 10}.items()):
        images = [np.asarray(picture(100 * number + row, 32)) for row in range(count)]
        pixels = np.stack(images).transpose(0, 3, 1, 2).reshape(count, -1)
        batch = {"data": pixels, "labels": [row % 5 for row in range(count)]}
        (folder / file).write_bytes(pickle.dumps(batch))
    names = ["airplane", "automobile", "bird", "cat", "deer"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    monkeypatch.setattr(kind, "train_list", [["data_batch_1", None]])
    monkeypatch.setattr(kind, "test_list", [["test_batch", None]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": None})
    return f"torchvision:CIFAR10,root={tmp_path / 'tv'}"


def test_arrays_keep_every_pixel(cifar: str, tmp_path: Path) -> None:
    config = DataConfig(name=cifar, image_size=32)
    data = load_dataset(config, "classify", tmp_path / "cache")
    official = torchvision.datasets.CIFAR10(tmp_path / "tv", train=False)
    found = {
        image.tobytes(): data.classes[label]
        for image, label in zip(
            data.test.batch(np.arange(len(data.test))).permute(0, 2, 3, 1).numpy(),
            data.test.targets(),
            strict=True,
        )
    }
    wanted = {
        image.tobytes(): official.classes[label]
        for image, label in zip(official.data, official.targets, strict=True)
    }
    assert found == wanted


def voc(root: Path) -> str:
    base = root / "VOCdevkit/VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (base / folder).mkdir(parents=True)
    palette = np.random.default_rng(0).integers(0, 255, 768).tolist()
    for split, numbers in {"train": range(20), "val": range(20, 26)}.items():
        for number in numbers:
            picture(number).save(base / "JPEGImages" / f"{number:04d}.jpg")
            values = np.random.default_rng(number).choice([0, 1, 20, 255], (S, S))
            mask = Image.fromarray(values.astype(np.uint8), "P")
            mask.putpalette(palette)
            mask.save(base / "SegmentationClass" / f"{number:04d}.png")
        lines = [f"{number:04d}\n" for number in numbers]
        (base / "ImageSets/Segmentation" / f"{split}.txt").write_text("".join(lines))
    return f"torchvision:VOCSegmentation,root={root}"


def test_voc_is_tested_on_its_val_split(tmp_path: Path) -> None:
    name = voc(tmp_path / "tv")
    data = loaded(name, "segment", tmp_path / "cache")
    assert len(data.classes) == 21
    assert (data.classes[0], data.classes[20]) == ("background", "tvmonitor")
    assert data.summary.origins["test"] == "the layout's val"
    masks = data.test.masks(np.arange(len(data.test))).numpy()
    values = [np.random.default_rng(n).choice([0, 1, 20, 255], (S, S)) for n in range(20, 26)]
    assert sorted(mask.tobytes() for mask in masks) == sorted(
        value.astype(np.uint8).tobytes() for value in values
    )
    with pytest.raises(UserError, match="has masks and no labels: train on it by `segment`"):
        loaded(name, "classify", tmp_path / "cache")


def test_what_is_in_no_cache_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "torchvision.datasets.oxford_iiit_pet.download_and_extract_archive"
    asked: list[str] = []

    def download(url: str, download_root: str, md5: str) -> None:
        asked.append(url)
        if len(asked) == 1:
            pets(tmp_path / "tv")

    monkeypatch.setattr(module, download)
    monkeypatch.setattr(named, "default_cache_dir", lambda: tmp_path)
    data = loaded(f"torchvision:OxfordIIITPet,root={tmp_path / 'tv'}", "classify", tmp_path)
    assert len(asked) == 2  # images, annotations
    assert len(data.test) == 8


def test_neither_in_a_cache_nor_in_reach_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*arguments: Any, **words: Any) -> None:
        raise URLError("no route")

    module = "torchvision.datasets.oxford_iiit_pet.download_and_extract_archive"
    monkeypatch.setattr(module, download)
    name = f"torchvision:OxfordIIITPet,root={tmp_path / 'tv'}"
    with pytest.raises(UserError, match=r"cannot be downloaded .*no route.*root=FOLDER") as refused:
        loaded(name, "classify", tmp_path / "cache")
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match=r"cannot be downloaded .*ILSVRC2012_devkit"):
        loaded(f"torchvision:ImageNet,root={tmp_path}", "classify", tmp_path / "cache")


def test_a_killed_start_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [Example("train", str(n % 2), picture(n)) for n in range(6)]

    def torn() -> Iterator[Example]:
        yield from whole[:3]
        raise KeyboardInterrupt

    monkeypatch.setattr(named, "_examples", lambda *_: Examples(6, torn()))
    with pytest.raises(KeyboardInterrupt):
        named_folder("torchvision:CIFAR10", "ssl", tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.suffix == ".png"] == []

    monkeypatch.setattr(named, "_examples", lambda *_: Examples(6, iter(whole)))
    folder = named_folder("torchvision:CIFAR10", "ssl", tmp_path)
    leftover = folder.with_name(folder.name + named.BUILDING)
    assert not leftover.exists()
    assert len(list(folder.rglob("*.png"))) == 6

    monkeypatch.setattr(named, "_examples", lambda *_: pytest.fail("it already exists"))
    assert named_folder("torchvision:CIFAR10", "ssl", tmp_path) == folder


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        ("torchvision:", "names no data set"),
        ("torchvision:CIFAR", r"there is no 'CIFAR' among .*; did you mean 'CIFAR10'"),
        ("torchvision:CIFAR10,train", "'train' must be OPTION=VALUE"),
        ("torchvision:CIFAR10,size=3", r"CIFAR10,size=3: .*unexpected keyword argument 'size'"),
        ("torchvision:CIFAR10,loader=a", "unknown option 'loader'; valid: annotation_level, part"),
        ("torchvision:DTD,partition=two", "partition 'two' must be a number"),
    ],
)
def test_unusable_names_are_refused(typed: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=reason):
        loaded(typed, "classify", tmp_path)


def test_options_are_what_torchvision_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A partition is passed as a number, a year as text."""
    taken: list[dict[str, Any]] = []

    def opened(root: str, **given: Any) -> list[Any]:
        taken.append(given)
        return []

    monkeypatch.setattr(torchvision.datasets, "DTD", opened)
    monkeypatch.setattr(torchvision.datasets, "VOCSegmentation", opened)
    examples_of(parse_name("torchvision:DTD,partition=2"), masks=False)
    examples_of(parse_name("torchvision:VOCSegmentation,year=2011"), masks=True)
    assert taken == [
        *({"partition": 2, "split": split} for split in ("train", "val", "test")),
        *({"year": "2011", "image_set": split} for split in ("train", "val")),
    ]


def test_a_layout_or_masks_that_there_are_not_are_refused(cifar: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no masks, segmentation needs them; with masks: Ox"):
        loaded(cifar, "segment", tmp_path / "cache")
    config = replace(DataConfig(name=cifar), layout="flat-folder")
    with pytest.raises(UserError, match=r"--layout and data\.domain are for folders"):
        load_dataset(config, "classify", tmp_path / "cache")


def test_names_mean_the_same_in_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert data_name("glyphs") == "glyphs"
    assert data_name("images") == str(tmp_path / "images")
    assert data_name("hf:owner/name,label=kind") == "hf:owner/name,label=kind"
    (tmp_path / "saved").mkdir()
    assert data_name("hf:saved") == f"hf:{tmp_path}/saved"
    root = f"torchvision:MNIST,root={tmp_path}/tv"
    assert data_name("torchvision:MNIST,root=tv") == root
    assert [up_of(name) for name in (root, "torchvision:EuroSAT", "hf:a/b", "images")] == [
        "none",
        "all",
        None,
        None,
    ]


def test_missing_package_of_the_hub_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"hf:owner/name needs .* pip install '?datasets"):
        loaded("hf:owner/name", "ssl", tmp_path)


def test_every_set_is_a_class_of_torchvision_with_these_splits() -> None:
    import inspect as python

    for name, known in SETS.items():
        parameters = python.signature(getattr(torchvision.datasets, name)).parameters
        given = {key for part in known.parts.values() for key in part} | set(known.masks)
        takes_more = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        assert takes_more or given <= parameters.keys(), name
