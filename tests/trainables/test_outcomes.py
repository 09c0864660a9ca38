"""Outcomes of single test images: those of every trainable against its own test metrics, and their
record."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.ranks import on_ranks
from tests.shapes import Shapes, shapes_config
from tests.trainables.test_byol import SMALL as SSL
from tests.trainables.test_classifier import SMALL as CLASSIFIER
from tests.trainables.test_fewshot import SMALL as FEWSHOT
from trainables.base import Trainable
from trainables.byol import BYOL
from trainables.classifier import Classifier
from trainables.data import IGNORE, DataConfig, load_dataset
from trainables.data.folders import source_clusters
from trainables.miou import confusion_matrix, image_overlaps, mean_iou
from trainables.outcomes import ImageOutcomes, image_outcomes
from trainables.protonet import ProtoNet

KINDS = {
    "classifier": (Classifier, CLASSIFIER, ["test/top1"]),
    "byol": (BYOL, SSL, ["test/knn_top1", "test/probe_top1"]),
    "fewshot": (ProtoNet, FEWSHOT, ["test/episode_top1"]),
    "segmentation": (Shapes, shapes_config(), ["test/miou"]),
}
"""Trainable, config and the metrics for which it keeps outcomes."""


def built(kind: type[Trainable], config: Any) -> Trainable:
    data = kind.load_data(config.data)
    torch.manual_seed(0)
    return kind(config, data)


def value_of(outcomes: ImageOutcomes, metric: str) -> float:
    if metric in outcomes.right:
        return outcomes.right[metric].mean() / outcomes.answers
    sums = outcomes.overlaps[metric].sum(axis=0)  # (C, 2)
    return (sums[:, 0] / sums[:, 1]).mean()


@pytest.mark.parametrize("name", KINDS)
def test_outcomes_give_the_metric(name: str) -> None:
    kind, config, metrics = KINDS[name]
    model = built(kind, config)
    assert model.test_outcomes() is None  # before a test
    model.validate()
    assert model.test_outcomes() is None
    tested = model.test()
    outcomes = model.test_outcomes()
    assert outcomes is not None
    assert [*outcomes.right, *outcomes.overlaps] == metrics
    for metric in metrics:
        assert value_of(outcomes, metric) == pytest.approx(tested[metric], abs=1e-12)


@pytest.mark.parametrize("name", KINDS)
def test_a_record_gives_the_outcomes_back(name: str) -> None:
    kind, config, _ = KINDS[name]
    model = built(kind, config)
    model.test()
    outcomes = model.test_outcomes()
    assert outcomes is not None
    read = ImageOutcomes.from_record(json.loads(json.dumps(outcomes.to_record())))
    assert (read.test_set, read.answers) == (outcomes.test_set, outcomes.answers)
    for field in ("right", "overlaps"):
        one, other = getattr(outcomes, field), getattr(read, field)
        assert one.keys() == other.keys()
        for metric in one:
            np.testing.assert_array_equal(one[metric], other[metric])
    assert (read.pool, outcomes.ids is None) == (outcomes.pool, False)
    for field in ("clusters", "members", "ids"):
        one, other = getattr(outcomes, field), getattr(read, field)
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_array_equal(one, other)


def data_of(rows: np.ndarray, clusters: np.ndarray | None) -> Any:
    test = SimpleNamespace(indices=rows)
    return SimpleNamespace(fingerprint="f", pool="p", test=test, clusters=clusters)


def test_the_record_of_a_classifier_is_small() -> None:
    """The rows are a fifth of the pool, as a carve takes them."""
    rows = np.sort(np.random.default_rng(1).permutation(50_000)[:10_000])
    data = data_of(rows, None)
    right = np.random.default_rng(0).random(10_000) < 0.9
    record = image_outcomes(data, {"test/top1": right}).to_record()
    sizes = {name: len(json.dumps(part)) for name, part in record.items()}
    assert sizes["right"] < 2000
    assert sizes["ids"] < 8000


def test_other_images_have_another_name() -> None:
    rows = np.arange(5)
    data, other = data_of(rows, None), data_of(rows + 1, None)
    assert image_outcomes(data).test_set == image_outcomes(data).test_set
    assert image_outcomes(data).test_set != image_outcomes(other).test_set


def test_overlaps_add_up_to_the_confusion_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted = torch.randint(4, (6, 9, 9), generator=generator)
    masks = torch.randint(5, (6, 9, 9), generator=generator)
    masks[masks == 4] = IGNORE
    overlaps = image_overlaps(predicted, masks, 5)  # class 4 is in neither
    confusion = confusion_matrix(predicted, masks, 5)
    known = confusion[:, :-1]
    assert torch.equal(overlaps.sum(0)[:, 0], known.diagonal())
    union = confusion.sum(1) + known.sum(0) - known.diagonal()
    assert torch.equal(overlaps.sum(0)[:, 1], union)
    one = image_overlaps(predicted[2:3], masks[2:3], 5)
    assert torch.equal(one[0], overlaps[2])
    assert mean_iou(confusion) == pytest.approx(
        (overlaps.sum(0)[:4, 0] / overlaps.sum(0)[:4, 1]).mean().item()
    )


def test_two_workers_find_the_outcomes_of_one() -> None:
    config = shapes_config()
    data = Shapes.load_data(config.data)

    def overlaps(rank: int) -> np.ndarray:
        torch.manual_seed(0)
        model = Shapes(config, data)
        model.test()
        outcomes = model.test_outcomes()
        assert outcomes is not None
        return outcomes.overlaps["test/miou"]

    first, second = on_ranks(2, overlaps)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, overlaps(0))


def test_test_sets_of_one_pool_name_what_they_share() -> None:
    """A cluster, or an image without any, has the same identity in every test set."""
    whole = np.array([7, 3, 3, 9, 7, 5, 9])
    first = image_outcomes(data_of(np.array([0, 1, 2, 3]), whole))
    assert first.ids is not None
    assert first.clusters is not None
    by_image = dict(zip([0, 1, 2, 3], first.ids[first.clusters], strict=True))
    second = image_outcomes(data_of(np.array([3, 4, 5]), whole))  # each in a cluster of its own
    assert second.clusters is None
    by_image_there = dict(zip([3, 4, 5], second.ids, strict=True))  # type: ignore[arg-type]
    assert by_image[3] == by_image_there[3]
    assert by_image[0] == by_image_there[4]
    assert by_image_there[5] not in by_image.values()

    alone = image_outcomes(data_of(np.array([6, 2]), None))
    assert alone.ids is not None
    assert alone.ids.tolist() == [6, 2]
    read = ImageOutcomes.from_record(json.loads(json.dumps(alone.to_record())))
    assert read.ids is not None
    assert read.ids.tolist() == [6, 2]


def test_letters_have_one_identity_under_every_seed() -> None:
    """The drawings of two seeds differ, and so do the test sets, but not the letters."""
    first, second = (
        load_dataset(DataConfig(name="glyphs", seed=seed), task="classify") for seed in (0, 1)
    )
    assert first.fingerprint != second.fingerprint
    one, other = (image_outcomes(data) for data in (first, second))
    assert one.test_set != other.test_set
    assert one.pool == other.pool
    letters = [
        {classes[label]: ids for label, ids in zip(labels, found.ids[found.clusters], strict=True)}  # type: ignore[index]
        for classes, labels, found in (
            (first.classes, first.test.targets(), one),
            (second.classes, second.test.targets(), other),
        )
    ]
    assert letters[0] == letters[1]
    assert len(letters[0]) == len(set(letters[0].values())) == 209


# -- clusters


def test_drawings_of_a_letter_belong_together() -> None:
    data = load_dataset(DataConfig(name="glyphs"), task="classify")
    assert data.clusters is not None
    labels = data.test.targets()
    clusters = data.clusters[data.test.indices]
    pairs = {(label, cluster) for label, cluster in zip(labels, clusters, strict=True)}
    assert len(pairs) == len(set(labels.tolist())) == len(set(clusters.tolist()))


def test_tiles_of_a_block_belong_together() -> None:
    data = load_dataset(DataConfig(name="earth", image_size=32), task="segment")
    assert data.clusters is not None
    clusters = data.clusters[data.test.indices]
    assert 2 <= len(set(clusters.tolist())) <= 14  # two blocks in each of seven belts


def clusters_of(files: list[str], labels: list[int], groups: list[int] | None = None) -> list[int]:
    listing = SimpleNamespace(
        files=files, labels=np.array(labels), parts=np.array([""] * len(files))
    )
    numbers = groups or list(range(len(files)))
    return source_clusters(listing, np.array(numbers)).tolist()


def test_images_of_class_folders_are_alone_but_for_near_duplicates() -> None:
    files = ["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"]
    assert clusters_of(files, [0, 0, 1, 1]) == [0, 1, 2, 3]
    assert clusters_of(files, [0, 0, 1, 1], [0, 0, 1, 2]) == [0, 0, 1, 2]


def test_frames_of_a_folder_inside_a_class_belong_together() -> None:
    files = ["cat/a/1.png", "cat/a/2.png", "cat/b/1.png", "cat/3.png", "dog/1.png"]
    found = clusters_of(files, [0, 0, 0, 0, 1])
    assert found[0] == found[1]
    assert len(set(found)) == 4


def test_frames_of_folders_without_labels_belong_together() -> None:
    found = clusters_of(["x/1.png", "x/2.png", "y/1.png"], [-1, -1, -1])
    assert found[0] == found[1] != found[2]
