"""A store on the device gives the same batches as the memory map, bit for bit."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.shapes import shapes
from tests.trainables.engine.test_waits import STEPS
from trainables.augment.evaluation import evaluation_batches
from trainables.data import DataConfig, load_dataset, placement
from trainables.data.placement import DeviceRows, copied_to, on_device
from trainables.data.sampling import generator
from trainables.engine.feed import tensors_in

CPU = torch.device("cpu")
GPU = torch.device("cuda")


def test_rows_are_those_of_the_array(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "_CHUNK_BYTES", 100)  # several copies
    array = np.random.default_rng(0).integers(0, 256, (50, 3, 4, 5), np.uint8)
    chosen = np.array([49, 0, 7, 7, 30])
    assert np.array_equal(DeviceRows(array, CPU).take(chosen).numpy(), array[chosen])


@pytest.mark.parametrize("name", ["ssl", "classify mixed", "fewshot", "segment"])
def test_batches_equal_those_of_the_memory_map(name: str) -> None:
    kind, config = STEPS[name]
    data = kind.load_data(config.data)
    positions = kind(config, data).sampler().positions(3)

    batches = []
    for one in (data, copied_to(data, CPU)):
        torch.manual_seed(0)
        batches.append(kind(config, one).draw(positions, generator(0, 2, 3)))

    ours, theirs = (list(tensors_in(batch)) for batch in batches)
    assert len(ours) == len(theirs) > 1
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_evaluation_views_equal_those_of_the_memory_map() -> None:
    _, config = STEPS["ssl"]
    data = load_dataset(config.data)
    some = replace(data.val, indices=data.val.indices[::3])
    there = replace(copied_to(data, CPU).val, indices=some.indices)
    for split in (some, there):
        assert split.input_batch(np.arange(4)).shape == (4, 3, 16, 16)
    views: list[Any] = [
        list(evaluation_batches(split, range(len(some)), config, "imagenet", CPU))
        for split in (some, there)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*views, strict=True))


def test_masks_come_from_where_the_images_do() -> None:
    data = shapes()
    there = copied_to(data, CPU)
    positions = np.array([5, 1, 1])
    assert torch.equal(there.val.input_masks(positions), data.val.masks(positions))
    assert torch.equal(there.val.masks(positions), data.val.masks(positions))


@pytest.mark.parametrize(
    ("wanted", "free_stores", "fits"),
    [
        ("auto", 2.6, True),
        ("auto", 2.4, False),  # more than 40 % of it
        ("auto", 0, False),  # unknown
        ("always", 1.1, True),
        ("never", 100, False),
    ],
)
def test_a_store_that_takes_little_of_the_free_memory_lies_on_the_gpu(
    wanted: Any, free_stores: float, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = shapes()
    size = data.train.images.nbytes + data.train.mask_images.nbytes
    monkeypatch.setattr(placement, "free_memory", lambda device: int(free_stores * size))
    found = placement.placement(data, wanted, GPU)
    assert (found.store_bytes, found.fits) == (size, fits)
    assert not placement.placement(data, wanted, CPU).fits


@pytest.mark.parametrize(
    ("fraction", "reserved", "expected"),
    [(1.0, 0, 60), (0.5, 10, 40), (0.5, 60, 0)],  # another process holds 40 of the 100
)
@pytest.mark.parametrize("device", [GPU, torch.device("cuda:0")])
def test_free_memory_is_what_this_process_may_still_take(
    fraction: float,
    reserved: int,
    expected: int,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved)
    # torch's own function, down to its call of the driver
    monkeypatch.setattr(torch.cuda.memory, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch._C, "_cuda_getMemoryFraction", lambda number: fraction, raising=False)
    assert placement.free_memory(device) == expected


def test_on_a_cpu_the_data_stay_as_they_are() -> None:
    data = shapes()
    assert on_device(data, "always", CPU) is data


def test_trials_on_the_same_data_share_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "DeviceRows", lambda array, device: DeviceRows(array, CPU))
    data = shapes()
    first = on_device(data, "always", GPU)
    assert on_device(data, "always", GPU) is first
    assert first.train.device_images is first.test.device_images is not None


def test_other_data_take_the_place_of_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their memory is freed before checking whether the next ones fit."""
    held: list[int] = []

    def rows(array: np.ndarray, device: torch.device) -> DeviceRows:
        held.append(len(placement._placed))
        return DeviceRows(array, CPU)

    monkeypatch.setattr(placement, "DeviceRows", rows)
    first = shapes()
    on_device(first, "always", GPU)
    on_device(shapes(seed=1), "always", GPU)
    on_device(first, "always", GPU)
    assert held == [0] * len(held)
    assert len(placement._placed) == 1
    placement.forget_placed()
    assert not placement._placed


def test_the_config_names_the_places() -> None:
    assert DataConfig().on_device == "auto"
