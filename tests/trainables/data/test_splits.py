"""Carving, balancing and near-duplicates against closed-form counts and copies made here."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.model_selection import StratifiedShuffleSplit

from tests import REPO
from tests.trainables.data.test_layouts import class_folders
from trainables.data import DataConfig, DataSet, Split, load_dataset
from trainables.data.carving_v1 import balanced, carve
from trainables.data.duplicates import near_duplicates
from trainables.data_summary import Duplicates


def natural(n: int, size: int = 48, seed: int = 0) -> np.ndarray:  # (n, 3, S, S) uint8
    """Return smooth random pictures with some texture."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(n):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(
            (size, size), Image.Resampling.BICUBIC
        )
        images.append(
            np.clip(np.asarray(coarse) + rng.normal(0, 6, (size, size, 3)), 0, 255).astype(np.uint8)
        )
    return np.stack(images).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("fraction", [0.15, 0.3])
def test_carve_is_stratified_like_scikit_learn(fraction: float) -> None:
    labels = np.repeat([0, 1, 2], [100, 40, 60])
    kept, carved = carve(np.arange(200), labels, np.arange(200), fraction, seed=3)
    assert sorted([*kept, *carved]) == list(range(200))
    reference = next(
        StratifiedShuffleSplit(1, test_size=fraction, random_state=0).split(labels, labels)
    )[1]
    np.testing.assert_array_equal(np.bincount(labels[carved]), np.bincount(labels[reference]))


def test_carve_depends_on_the_seed_alone() -> None:
    rows, labels = np.arange(90), np.repeat([0, 1, 2], 30)
    first = carve(rows, labels, rows, 0.2, seed=1)[1]
    np.testing.assert_array_equal(carve(rows[::-1], labels, rows, 0.2, seed=1)[1], first)
    assert carve(rows, labels, rows, 0.2, seed=2)[1].tolist() != first.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_carve_keeps_groups_together(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 120, 300)
    labels = (np.arange(120) % 4)[groups]
    kept, carved = carve(np.arange(300), labels, groups, 0.2, seed)
    assert not set(groups[kept]) & set(groups[carved])
    assert abs(len(carved) - 60) <= 12


def test_small_classes() -> None:
    """A single image stays. Of two or three, one is carved. A class that is one group stays
    whole."""
    labels = np.array([0, 1, 1, 2, 2, 2, 3, 3, 3, 3])
    groups = np.array([0, 1, 2, 3, 4, 5, 6, 6, 6, 6])
    _, carved = carve(np.arange(10), labels, groups, 0.15, seed=0)
    assert labels[carved].tolist() == [1, 2]


def test_carve_of_nothing_and_at_most() -> None:
    empty = np.empty(0, np.int64)
    assert [len(part) for part in carve(empty, empty, empty, 0.5, seed=0)] == [0, 0]
    rows = np.arange(1000)
    assert len(carve(rows, np.zeros(1000, int), rows, 0.15, seed=0, most=70)[1]) == 70


def test_balanced_fills_classes_evenly() -> None:
    labels = np.repeat([0, 1, 2], [5, 50, 500])
    chosen = balanced(np.arange(555), labels, 45, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [5, 20, 20]
    assert len(set(chosen)) == 45
    np.testing.assert_array_equal(balanced(np.arange(10), labels, 45, seed=0), np.arange(10))


@pytest.mark.parametrize("quality", [75, 90])
def test_re_encoded_copies_are_near_duplicates(quality: int) -> None:
    images = natural(60)
    copies = []
    for image in images[:20]:
        buffer = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(buffer, "JPEG", quality=quality)
        copies.append(np.asarray(Image.open(buffer)).transpose(2, 0, 1))
    groups = near_duplicates(np.concatenate([images, np.stack(copies)]))
    assert len(set(groups[:60])) == 60
    np.testing.assert_array_equal(groups[60:], groups[:20])


def test_plain_and_single_images() -> None:
    """Plain colours are duplicates only if they are equal."""
    levels = np.array([10, 11, 12, 10, 200])
    groups = near_duplicates(
        np.broadcast_to(levels.reshape(-1, 1, 1, 1), (5, 3, 16, 16)).astype(np.uint8)
    )
    assert groups[0] == groups[3]
    assert len(set(groups)) == 4
    assert near_duplicates(natural(1)).tolist() == [0]


def test_copies_in_a_folder_stay_on_one_side(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set", each=12)
    for path in sorted(root.rglob("*.png")):
        image = Image.open(path)
        image.save(path.with_name(f"{path.stem}copy.jpg"), quality=95)
    for seed in range(4):
        data = load_dataset(
            DataConfig(name=str(root), image_size=16, seed=seed), cache_dir=tmp_path
        )
        stems = [_stems(root, split) for split in (data.train, data.val, data.test)]
        assert all(stems)
        assert sum(map(len, stems)) == len(set.union(*stems))


def _stems(root: Path, split: Split) -> set[str]:
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.*"))
    return {files[i].split(".")[0].removesuffix("copy") for i in split.indices}


def test_duplicates_across_given_parts_are_left_out_of_train(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set" / "train").parent
    class_folders(root / "val", each=3)
    copies = {}
    for name in ("ant", "bee"):
        original = root / "train" / name / "5.png"
        Image.open(original).save(root / "val" / name / "copy.jpg", quality=95)
        copies[f"train/{name}/5.png"] = original

    def load(split: int) -> DataSet:
        config = DataConfig(name=str(root), image_size=16, split=split)  # type: ignore[arg-type]
        return load_dataset(config, "classify", tmp_path / "cache")

    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.*"))
    now, before = load(2), load(1)
    assert now.summary.duplicates == Duplicates(test=11, given=2, remaining=0, left_out=2)
    trained = {files[row] for row in [*now.train.indices, *now.val.indices]}
    assert not trained & copies.keys()
    assert len(trained) == 28
    assert before.summary.duplicates == Duplicates(test=11, given=2, remaining=2, left_out=0)
    assert before.summary.warnings == (
        "2 of 11 test images (18%) are training images too: a test result flatters",
    )
    assert len(before.train) + len(before.val) == 30


def test_batch_is_one_gather() -> None:
    images = natural(20, size=8)
    split = Split(images, None, np.arange(19, 9, -1))
    batch = split.batch(torch.tensor([0, 3, 3]))
    assert batch.dtype == torch.uint8
    np.testing.assert_array_equal(batch.numpy(), images[[19, 16, 16]])
    assert (len(split), split.targets()) == (10, None)
    np.testing.assert_array_equal(
        Split(images, np.arange(20) * 2, split.indices).targets(), np.arange(19, 9, -1) * 2
    )


@pytest.mark.heavy
def test_groups_and_splits_are_the_same_in_every_process(tmp_path: Path) -> None:
    """Python salts the hashes of bytes in each process. A split based on them would differ between
    machines."""
    root = class_folders(tmp_path / "set")
    program = (
        "import sys; from pathlib import Path;"
        "from trainables.data import DataConfig, load_dataset;"
        "config = DataConfig(name=sys.argv[1], image_size=16);"
        "d = load_dataset(config, 'classify', Path(sys.argv[2]));"
        "print(d.train.indices.tolist(), d.val.indices.tolist(), d.test.indices.tolist())"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", program, str(root), str(tmp_path / "elsewhere")],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    here = load_dataset(DataConfig(name=str(root), image_size=16), "classify", tmp_path / "here")
    parts = [part.indices.tolist() for part in (here.train, here.val, here.test)]
    assert elsewhere.strip() == " ".join(map(str, parts))
