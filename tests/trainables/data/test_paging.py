"""A store larger than memory opens, shuffles and trains without being read whole; the rows of a
batch are requested together."""

import json
import mmap
import time
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import psutil
import pytest
import torch

from trainables.augment.view_config import ViewConfig
from trainables.backbone.networks import BackboneConfig
from trainables.base import TrainConfig
from trainables.classifier import Classifier, ClassifierConfig
from trainables.data import DataConfig, paging
from trainables.data.contents import Contents, save_contents
from trainables.data.sampling import Sampler
from trainables.data.splits import DataSet, Split
from trainables.data.store import contents_path, open_store, store_path
from trainables.engine.fit import fit
from trainables.files import LAST
from tune.execution.runtimes import LocalRuntime

KEY = "f" * 32
ROWS, SIDE = 400_000, 224
ROW_BYTES = 3 * SIDE * SIDE  # 60 GB in total
MARKED = (0, 1, 77_777, ROWS - 1)


@pytest.fixture
def large_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the cache directory of a 60 GB store of which only a few rows occupy the disk."""
    path = store_path("many", KEY, SIDE, tmp_path)
    path.mkdir()
    shape = (ROWS, 3, SIDE, SIDE)
    try:
        images = np.lib.format.open_memmap(path / "images.npy", "w+", np.uint8, shape)
    except OSError as error:
        pytest.skip(f"no sparse file of 60 GB here: {error}")
    for number, row in enumerate(MARKED):
        images[row] = 10 + number
    del images

    np.save(path / "labels.npy", np.arange(ROWS) % 10)
    meta = {"count": ROWS, "size": SIDE, "skipped": [], "extra": {}, "masks": False}
    (path / "meta.json").write_text(json.dumps(meta))
    digests = np.random.default_rng(0).integers(0, 256, (ROWS, 32), dtype=np.uint8)
    save_contents(contents_path("many", KEY, tmp_path), Contents(digests, np.arange(ROWS)))
    monkeypatch.setattr(paging, "memory_bytes", lambda: 16e9)
    return tmp_path


def never() -> NoReturn:
    raise AssertionError("an existing store was built again")


@pytest.mark.slow
def test_a_store_of_60_gb_opens_shuffles_and_trains(large_store: Path, tmp_path: Path) -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    begun = time.process_time()
    store = open_store("many", KEY, SIDE, never, large_store)
    split = Split(store.images, store.labels, np.arange(ROWS))
    batch = split.batch(Sampler(ROWS, 64, seed=0).positions(0))
    assert batch.shape == (64, 3, SIDE, SIDE)
    assert [int(image.float().mean()) for image in split.batch(np.array(MARKED))] == [
        10,
        11,
        12,
        13,
    ]

    rng = np.random.default_rng(0)
    few = [np.sort(rows) for rows in np.split(rng.permutation(ROWS)[:300], 3)]
    val, test, gallery = (Split(store.images, store.labels, rows) for rows in few)
    classes = tuple("0123456789")
    data = DataSet("many", KEY, classes, split, gallery, val, test, (), contents=store.contents)
    config = ClassifierConfig(
        data=DataConfig(name="many", image_size=SIDE),
        backbone=BackboneConfig(width=8, pool=1),
        aug=ViewConfig(),
        train=TrainConfig(epochs=1, epoch_images=64, batch_size=16),
    )
    runtime = LocalRuntime(tmp_path, lambda epoch, metrics: True)
    torch.manual_seed(0)
    fit(Classifier(config, data), config, runtime)
    assert (tmp_path / LAST).exists()
    assert process.memory_info().rss - before < 2e9
    # copying 60 GB from the kernel, let alone from a disk, takes longer
    assert time.process_time() - begun < 30


class RecordingMap(mmap.mmap):
    """A memory map that records the advice given to it."""

    advice: list[tuple[int, ...]]

    def madvise(self, *advice: Any) -> None:
        self.advice.append(advice)
        super().madvise(*advice)


def test_the_pages_of_a_batch_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 50, 50), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    with (tmp_path / "images.npy").open("rb") as file:
        recording = RecordingMap(file.fileno(), 0, access=mmap.ACCESS_READ)
    recording.advice = []
    monkeypatch.setattr(paging, "_map_of_large", lambda array: recording)

    rows = np.array([3, 39, 0])
    assert (Split(mapped, None, np.arange(40)).batch(rows).numpy() == images[rows]).all()
    content = (tmp_path / "images.npy").read_bytes()
    for row, (kind, start, length) in zip(rows, recording.advice, strict=True):
        assert kind == mmap.MADV_WILLNEED
        assert start % mmap.PAGESIZE == 0
        assert images[row].tobytes() in content[start : start + length]
        assert length < 7500 + mmap.PAGESIZE  # and hardly more
    paging.read_rows_alone(mapped)
    assert recording.advice[-1] == (mmap.MADV_RANDOM,)


def test_a_store_that_fits_into_memory_gets_no_advice(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((4, 3, 8, 8), np.uint8))
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    assert paging._map_of_large(mapped) is None
    assert paging.memory_bytes() <= psutil.virtual_memory().total


@pytest.mark.parametrize("limited", [True, False])
def test_memory_is_that_of_the_container(
    limited: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.max").write_text("123456789\n" if limited else "max\n")
    monkeypatch.setattr(paging, "_LIMIT_OF_GROUP", tmp_path / "memory.max")
    paging.memory_bytes.cache_clear()
    expected = 123456789 if limited else psutil.virtual_memory().total
    assert paging.memory_bytes() == expected
    paging.memory_bytes.cache_clear()


def test_large_maps_are_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "images.npy", np.zeros((4, 3, 8, 8), np.uint8))
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    monkeypatch.setattr(paging, "memory_bytes", lambda: 100)
    assert isinstance(paging._map_of_large(mapped), mmap.mmap)
    assert paging._map_of_large(mapped[1:]) is None  # its rows start at another offset
    assert paging._map_of_large(np.zeros((4, 3, 8, 8), np.uint8)) is None
    paging.read_rows_alone(mapped)
    paging.fetch(mapped, np.array([0, 3]))
