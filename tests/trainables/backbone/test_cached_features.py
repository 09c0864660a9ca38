"""Cached features against the backbone itself, a head trained by hand and an uninterrupted run;
cache entries on disk under kills and full disks."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.nn import functional

from tests.disks import fill, small_disk
from tests.frozen import classifier, frozen_config
from tests.ranks import on_ranks
from trainables.augment.view_config import AugmentConfig, ViewConfig
from trainables.augment.views import Augment, evaluation_view
from trainables.backbone import feature_store
from trainables.backbone.cached_features import FeaturesConfig, FixedViews, why_not_cached
from trainables.backbone.export import load_backbone_state
from trainables.backbone.feature_store import Features, limit_bytes, open_features
from trainables.backbone.freezing import FreezeConfig
from trainables.backbone.initial import InitConfig
from trainables.backbone.networks import BackboneConfig
from trainables.base import TrainConfig
from trainables.classifier import Classifier, ClassifierConfig
from trainables.classifiers.heads import ClassifierHeadConfig
from trainables.classifiers.losses import LossConfig
from trainables.data.sampling import Sampler, generator
from trainables.data.splits import Split
from trainables.engine import watchdog
from trainables.engine.fit import fit
from trainables.errors import UserError
from trainables.files import BEST, LAST
from trainables.optim import OptimConfig, ScheduleConfig
from tune.cli.profiling import profile
from tune.execution.runtimes import LocalRuntime
from tune.experiments import EXPERIMENTS

Reports = list[dict[str, float]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of cached features. Images stay in the session's cache."""
    folder = tmp_path / "cache"
    monkeypatch.setattr("trainables.backbone.feature_store.default_cache_dir", lambda: folder)
    return folder / "features"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ClassifierConfig:
    """Return a config whose frozen backbone is random and calibrated."""
    return frozen_config(tmp_path_factory.mktemp("backbone"))


def run(
    config: ClassifierConfig, directory: Path, die_after: int = 0
) -> tuple[Classifier, Reports]:
    reports: Reports = []

    def report(epoch: int, metrics: dict[str, float]) -> bool:
        reports.append(metrics)
        if epoch == die_after:
            raise KeyboardInterrupt
        return True

    directory.mkdir(exist_ok=True)
    model = classifier(config)
    fit(model, config, LocalRuntime(directory, report))
    return model, reports


def entries(cache: Path) -> list[str]:
    return sorted(path.parent.name for path in cache.glob("*/meta.json"))


def without_times(reports: Reports) -> Reports:
    return [{k: v for k, v in metrics.items() if not k.startswith("time/")} for metrics in reports]


# looked-up features equal computed ones


def test_a_view_is_a_function_of_data_seed_view_and_image(config: ClassifierConfig) -> None:
    one, other = (
        classifier(config).features.views,
        classifier(replace(config, seed=5)).features.views,
    )
    assert one is not None
    assert other is not None
    assert len(one) == 3 * len(one.split) == 600
    views, again = (
        torch.cat(list(one.batches(torch.device("cpu")))),
        torch.cat(list(other.batches(torch.device("cpu")))),
    )
    assert torch.equal(views, again)
    for row in (0, 199, 200, 431):  # each view alone, from its own image
        alone = one.augment.apply(one.split.batch(np.array([row % 200])), one.draws[row : row + 1])
        torch.testing.assert_close(views[row], alone[0])
    assert not torch.equal(views[0], views[200])
    moved = replace(one, seed=1)
    assert not torch.equal(moved.draws.angle, one.draws.angle)


def test_every_view_is_chosen_and_fits_its_image(config: ClassifierConfig) -> None:
    views = classifier(config).features.views
    assert views is not None
    positions = np.arange(200).repeat(30)
    rows = views.choose(positions, generator(0, 1))
    np.testing.assert_array_equal(rows % 200, positions)
    counts = np.bincount(rows // 200)
    assert len(counts) == 3
    assert (abs(counts - 2000) < 5 * (6000 * 2 / 9) ** 0.5).all()  # 5 standard deviations


@pytest.mark.parametrize(
    "aug", [ViewConfig(policy="none"), ViewConfig(policy="none", crop_ratio=1.0, strength=2.0)]
)
def test_a_policy_that_changes_nothing_has_one_view(
    config: ClassifierConfig, aug: ViewConfig
) -> None:
    model = classifier(replace(config, aug=aug))
    views = model.features.views
    assert views is not None
    assert len(views) == 200
    images = views.split.batch(np.arange(200))
    torch.testing.assert_close(
        torch.cat(list(views.batches(torch.device("cpu")))), evaluation_view(images, 16, "imagenet")
    )


@pytest.mark.parametrize(
    "field",
    [
        "hflip",
        "rot90",
        "rotate",
        "jitter",
        "grayscale",
        "blur",
        "solarize",
        "one_of",
        "crop_scale_min",
    ],
)
def test_a_policy_that_changes_anything_has_all_views(config: ClassifierConfig, field: str) -> None:
    split = classifier(config).data.train
    policy = replace(AugmentConfig(), **{field: True if field == "one_of" else 0.5})
    assert FixedViews.of(split, Augment(policy, 16), 3, 0).count == 3


@pytest.mark.parametrize(
    ("aug", "head"),
    [
        (ViewConfig(policy="none"), ClassifierHeadConfig()),
        (ViewConfig(policy="byol"), ClassifierHeadConfig()),
        (
            ViewConfig(policy="glyphs", rotate=20.0),
            ClassifierHeadConfig(kind="mlp", hidden=16, dropout=0.5),
        ),
    ],
)
def test_a_run_on_kept_features_equals_the_run_without(
    config: ClassifierConfig,
    tmp_path: Path,
    cache: Path,
    aug: ViewConfig,
    head: ClassifierHeadConfig,
) -> None:
    config = replace(
        config, aug=aug, head=head, loss=LossConfig(label_smoothing=0.1, focal_gamma=0.5)
    )
    kept, kept_reports = run(config, tmp_path / "kept")
    # entries for the training views, for val, and for the training images shown in pictures
    assert len(entries(cache)) == 3
    bare, bare_reports = run(
        replace(config, features=FeaturesConfig(views=3, cache=False)), tmp_path / "bare"
    )
    for a, b in zip(kept.head.parameters(), bare.head.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    for a, b in zip(without_times(kept_reports), without_times(bare_reports), strict=True):
        assert (a.pop("features/cached"), b.pop("features/cached")) == (1.0, 0.0)
        assert a == pytest.approx(b, rel=1e-4)
    assert kept.test() == pytest.approx(bare.test(), rel=1e-4)
    np.testing.assert_allclose(
        kept.embeddings("val")[0], bare.embeddings("val")[0], rtol=1e-5, atol=1e-6
    )


def test_a_head_by_hand_on_features_of_fixed_views(
    config: ClassifierConfig, tmp_path: Path
) -> None:
    """The reference augments image by image and trains with torch's SGD and cross-entropy."""
    config = replace(
        config,
        optim=OptimConfig(name="sgd", lr=0.1, weight_decay=0.0),
        schedule=ScheduleConfig(name="constant"),
    )
    model = classifier(config)
    views, labels = model.features.views, torch.from_numpy(model.data.train.targets())
    assert views is not None
    probe = nn.Linear(32, 10)
    probe.load_state_dict({k.removeprefix("0."): v for k, v in model.head.state_dict().items()})
    optimizer = torch.optim.SGD(probe.parameters(), lr=0.1, momentum=0.9)
    model.backbone.eval()
    sampler = Sampler(200, 32, config.seed)
    for step in range(18):
        at = sampler.positions(step)
        choice = torch.randint(3, (32,), generator=generator(config.seed, 2, step))
        with torch.no_grad():
            rows = [int(v) * 200 + int(i) for v, i in zip(choice, at, strict=True)]
            seen = [
                model.augment.apply(views.split.batch(at[j : j + 1]), views.draws[row : row + 1])
                for j, row in enumerate(rows)
            ]
            features = model.backbone(torch.cat(seen))
        optimizer.zero_grad()
        functional.cross_entropy(probe(features), labels[at]).backward()
        optimizer.step()
    fit(model, config, LocalRuntime(tmp_path, lambda epoch, metrics: True))
    torch.testing.assert_close(model.head[0].weight, probe.weight, rtol=1e-4, atol=1e-5)


# the savings it reports


class Counted(Exception):
    """Raised when the backbone is called."""


def fail_when_called(model: Classifier) -> None:
    def forward(images: Tensor) -> Tensor:
        raise Counted

    model.backbone.forward = forward  # type: ignore[method-assign]


def test_the_second_trial_never_calls_the_backbone(
    config: ClassifierConfig, tmp_path: Path
) -> None:
    """The second trial has another seed, head, optimizer and loss; it could run in another
    process."""
    _, first = run(config, tmp_path / "first")
    other = replace(
        config,
        seed=7,
        head=ClassifierHeadConfig(kind="mlp"),
        optim=OptimConfig(lr=0.1),
        loss=LossConfig(focal_gamma=2.0),
    )
    model = classifier(other)
    fail_when_called(model)
    reports: Reports = []
    (tmp_path / "second").mkdir()
    fit(
        model,
        other,
        LocalRuntime(tmp_path / "second", lambda epoch, metrics: not reports.append(metrics)),
    )  # type: ignore[func-returns-value]
    assert [metrics["features/cached"] for metrics in first + reports] == [1.0] * 6
    assert first[0]["time/features_s"] > reports[0]["time/features_s"]
    assert first[2]["time/features_s"] == 0.0
    assert all(metrics["time/saved_s"] > 0 for metrics in reports)
    with pytest.raises(Counted):
        model.test()  # the features of the test split were never computed


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"freeze": FreezeConfig()}, "freeze.policy=none trains the backbone"),
        (
            {"freeze": FreezeConfig(policy="until", until="layer3")},
            "freeze.policy=until trains the backbone",
        ),
        ({"freeze": FreezeConfig(policy="gradual")}, "freeze.policy=gradual trains the backbone"),
        (
            {"freeze": FreezeConfig(policy="probe_first")},
            "freeze.policy=probe_first trains the backbone",
        ),
        ({"loss": LossConfig(mixup=0.2)}, "mixup and CutMix make other images at every step"),
        ({"loss": LossConfig(cutmix=1.0)}, "mixup and CutMix make other images at every step"),
        ({"features": FeaturesConfig(views=0)}, "features.views=0 draws fresh views at every step"),
    ],
)
def test_never_used_where_it_must_not(
    config: ClassifierConfig, cache: Path, change: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    config = replace(config, **change)
    assert why_not_cached(config) == reason
    model, reports = run(
        replace(config, train=TrainConfig(epochs=1, epoch_images=32, batch_size=32)), tmp_path / "t"
    )
    assert not cache.exists()
    batch = model.draw(np.arange(4), generator(0, 0))
    assert (batch.images.dtype, batch.images.shape, len(batch.draws) > 0) == (
        torch.uint8,
        (4, 3, 16, 16),
        True,
    )
    frozen = config.freeze.policy == "all"
    assert [metrics.get("features/cached") for metrics in reports] == [0.0 if frozen else None]
    assert (reason in Classifier.check_startup(config, model.data)) == frozen


def test_it_is_said_before_any_trial(
    config: ClassifierConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Classifier.load_data(config.data)
    assert Classifier.check_startup(config, data).endswith(
        "; its features are cached, 3 views of 200 images in 0.0768 MB"
    )
    assert Classifier.check_startup(
        replace(config, features=FeaturesConfig(cache=False)), data
    ).endswith(": features.cache=False")
    monkeypatch.setenv("VISTUNE_FEATURES_GB", "0.00001")
    assert Classifier.check_startup(config, data).endswith(
        "at every step: 7.68e-05 GB exceed VISTUNE_FEATURES_GB=1e-05"
    )
    monkeypatch.setenv("VISTUNE_FEATURES_GB", "ten")
    with pytest.raises(
        UserError, match="VISTUNE_FEATURES_GB='ten' is not a number of gigabytes; unset it for 20"
    ):
        Classifier.check_startup(config, data)


def test_the_backbone_leaves_as_it_came(config: ClassifierConfig, tmp_path: Path) -> None:
    run(config, tmp_path / "t")
    came, left = (
        load_backbone_state(Path(config.init.file)),
        load_backbone_state(tmp_path / "t" / BEST),
    )
    assert came.keys() == left.keys()
    assert all(torch.equal(left[key], value) for key, value in came.items())


def test_a_plan_computes_no_more_than_it_times(config: ClassifierConfig, cache: Path) -> None:
    config = replace(config, train=replace(config.train, batch_size=10))
    data = Classifier.load_data(config.data)
    for _ in range(2):  # entries that exist already do not change the estimate
        cost = profile(EXPERIMENTS["classify"], config, data)
        sizes = sorted(
            len(np.load(cache / key / "features.npy", mmap_mode="r")) for key in entries(cache)
        )
        assert sizes == sorted([3 * 4 * 10, len(data.val)])
        seconds = [
            json.loads((cache / key / "meta.json").read_text())["seconds"] for key in entries(cache)
        ]
        assert cost.setup_seconds > max(seconds)
        assert cost.setup_seconds < 10 * sum(seconds)  # 600 views instead of 120, and val


# the cache key


def test_what_the_key_depends_on(config: ClassifierConfig) -> None:
    def key(config: ClassifierConfig, scale: float = 1.0) -> tuple[str, Any]:
        model = classifier(config)
        with torch.no_grad():
            model.backbone.bn1.running_mean.mul_(scale)
        assert model.features.views is not None
        return model.features._key_of(model.backbone), model.features.views.digest

    usual = key(config)
    for same in (
        {"seed": 9},
        {"optim": OptimConfig(lr=0.5)},
        {"head": ClassifierHeadConfig(kind="mlp")},
        {"loss": LossConfig(focal_gamma=1.0)},
        {"train": TrainConfig(epochs=9, batch_size=8)},
    ):
        assert key(replace(config, **same)) == usual
    for other in (
        {"backbone": BackboneConfig(width=8, pool=2)},
        {"normalize": "half"},
        {"aug": ViewConfig(policy="glyphs", rotate=21.0)},
        {"features": FeaturesConfig(views=2)},
        {"data": replace(config.data, image_size=20)},
        {"data": replace(config.data, limit=199)},
        {"data": replace(config.data, seed=1)},
        {"train": TrainConfig(channels_last=True)},
        {"train": TrainConfig(bf16=True)},
    ):
        assert key(replace(config, **other)) != usual, other
    assert key(config, scale=1.0000002) != usual  # one bit of one statistic


def test_the_backbones_hash_is_of_its_values_alone(config: ClassifierConfig) -> None:
    model = classifier(config)
    before = model.features._key_of(model.backbone)
    model.backbone.to(memory_format=torch.channels_last)
    assert model.features._key_of(model.backbone) == before


def test_another_backbone_under_the_same_model_has_other_features(
    config: ClassifierConfig, tmp_path: Path
) -> None:
    model = classifier(config)
    before = model.validate()
    torch.manual_seed(3)
    other = classifier(replace(config, init=InitConfig()))
    other.export(tmp_path / "other.pt", {})
    model.load_export(tmp_path / "other.pt")
    expected = other.validate()
    assert model.validate() == expected
    assert before["val/loss"] != expected["val/loss"]


# kills


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("die_after", [1, 2])
def test_resume_is_exact(
    config: ClassifierConfig, tmp_path: Path, cache: Path, die_after: int, lost: bool
) -> None:
    config = replace(config, head=ClassifierHeadConfig(kind="mlp", hidden=16, dropout=0.5))
    whole, expected = run(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "killed", die_after)
    assert not any(
        key.startswith("backbone")
        for key in torch.load(tmp_path / "killed" / LAST, weights_only=True)["model"]
    )
    if lost:  # the entries were evicted meanwhile
        for key in entries(cache):
            (cache / key / "meta.json").unlink()
    torch.randn(5)
    killed, got = run(config, tmp_path / "killed")
    assert without_times(got) == without_times(expected)[die_after - 1 :]
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.state_dict().values(), killed.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("room", [True, False])
def test_two_workers_train_the_head_that_one_does(
    config: ClassifierConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: bool
) -> None:
    """Each worker has the features of the whole batch and takes its share. A worker that cannot
    cache features computes them, and no worker waits for it."""

    class Worker:
        device, world_size = torch.device("cpu"), 2

        def __init__(self, rank: int):
            self.rank, self.directory = rank, tmp_path / "two"

        def report(self, epoch: int, metrics: dict[str, float]) -> bool:
            return True

    def worker(rank: int) -> tuple[Reports, dict[str, Tensor]]:
        if rank == 1 and not room:
            monkeypatch.setattr(
                "trainables.backbone.feature_store.default_cache_dir",
                lambda: tmp_path / "other machine",
            )
            monkeypatch.setenv("VISTUNE_FEATURES_GB", "0")
        model = classifier(config)
        return fit(model, config, Worker(rank)).history, model.head.state_dict()

    (tmp_path / "two").mkdir()
    one, reports = run(config, tmp_path / "one")
    for history, head in on_ranks(2, worker):
        for a, b in zip(without_times(history), without_times(reports), strict=True):
            assert a == pytest.approx(b, rel=1e-4)
        for key, value in head.items():
            torch.testing.assert_close(value, one.head.state_dict()[key], rtol=1e-3, atol=1e-5)


def rows_of(value: float, n: int = 100) -> Callable[[], Iterator[Tensor]]:
    """Return a function that yields the features of an entry, 5 to a row, in two batches."""
    return lambda: iter([torch.full((n // 2, 5), value), torch.full((n - n // 2, 5), value + 1)])


def opened(cache: Path, key: str, value: float = 0.0, n: int = 100) -> Features:
    found = open_features(key, (n, 5), rows_of(value, n), cache.parent)
    assert found is not None
    return found


def never() -> Iterator[Tensor]:
    raise AssertionError("it already exists")


def test_an_entry_is_computed_once(cache: Path) -> None:
    rows = opened(cache, "aa1", 3.0).rows
    assert (rows[:50] == 3).all()
    assert (rows[50:] == 4).all()
    again = open_features("aa1", (100, 5), never, cache.parent)
    assert again is not None
    np.testing.assert_array_equal(again.rows, rows)
    again.rows[0] = 9  # a private copy
    assert opened(cache, "aa1").rows[0, 0] == 3


def test_who_dies_while_building_leaves_nothing(cache: Path) -> None:
    def dying() -> Iterator[Tensor]:
        yield torch.zeros(50, 5)
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        open_features("aa1", (100, 5), dying, cache.parent)
        os._exit(1)  # never reached
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert [path.name for path in cache.glob("*.building")] == ["aa1.building"]
    opened(cache, "bb1")  # sweeps leftovers
    assert not list(cache.glob("*.building"))
    assert (opened(cache, "aa1", 3.0).rows[:50] == 3).all()


def test_a_build_in_progress_is_not_swept(cache: Path) -> None:
    started, go_on, made = threading.Event(), threading.Event(), []

    def slow() -> Iterator[Tensor]:
        made.append(1)
        yield torch.zeros(50, 5)
        started.set()
        assert go_on.wait(20)
        yield torch.ones(50, 5)

    builders = [
        threading.Thread(target=open_features, args=("aa1", (100, 5), slow, cache.parent))
        for _ in range(2)
    ]
    for builder in builders:
        builder.start()
    assert started.wait(20)
    opened(cache, "bb1")
    assert len(list(cache.glob("aa1.building"))) == 1
    go_on.set()
    for builder in builders:
        builder.join()
    assert made == [1]  # the other thread waited for the build
    assert opened(cache, "aa1").rows.sum() == 250


def test_who_waits_for_anothers_build_does_not_hang(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without beats the watchdog would end the waiting process, and the trial after three times."""
    alive = threading.Semaphore(0)
    monkeypatch.setattr(feature_store, "_BEAT_S", 0.01)
    monkeypatch.setattr(watchdog, "beat", alive.release)
    cache.mkdir(parents=True, exist_ok=True)
    waiting = threading.Thread(target=opened, args=(cache, "aa1"))
    with FileLock(cache / "aa.lock"):
        waiting.start()
        assert all(alive.acquire(timeout=20) for _ in range(3))
        assert entries(cache) == []
    waiting.join(20)
    assert entries(cache) == ["aa1"]


@pytest.mark.parametrize("damage", ["features.npy", "meta.json", "width"])
def test_a_damaged_entry_is_made_anew(cache: Path, damage: str) -> None:
    opened(cache, "aa1")
    if damage == "width":
        np.save(cache / "aa1" / "features.npy", np.zeros((100, 4), np.float32))
    else:
        (cache / "aa1" / damage).write_bytes((cache / "aa1" / damage).read_bytes()[:20])
    assert (opened(cache, "aa1", 7.0).rows[:50] == 7).all()


# the size limit


def test_the_longest_unused_makes_room(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # room for three entries with their headers
    monkeypatch.setenv("VISTUNE_FEATURES_GB", str(3.5 * 100 * 5 * 4 / 1e9))
    first = opened(cache, "aa1", 1.0)
    for number, key in enumerate(("aa1", "bb1", "cc1")):
        opened(cache, key)
        os.utime(cache / key, (number, number))
    opened(cache, "aa1")  # used now, so evicted last
    opened(cache, "dd1")
    assert entries(cache) == ["aa1", "cc1", "dd1"]
    opened(cache, "ee1", n=250)
    assert entries(cache) == ["ee1"]
    assert (first.rows[:50] == 1).all()  # a reader that has the entry open keeps it
    assert len(list(cache.glob("*.lock"))) <= 257


def test_what_is_larger_than_the_limit_is_not_kept_and_removes_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened(cache, "aa1")
    monkeypatch.setenv("VISTUNE_FEATURES_GB", "1e-6")
    assert limit_bytes() == 1000
    assert open_features("bb1", (100, 5), never, cache.parent) is None
    assert "they need 2e-06 GB, VISTUNE_FEATURES_GB allows 1e-06" in capsys.readouterr().err
    assert entries(cache) == ["aa1"]


def test_a_run_without_room_is_the_same_run(
    config: ClassifierConfig, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, kept = run(config, tmp_path / "kept")
    monkeypatch.setenv("VISTUNE_FEATURES_GB", "0")
    for key in entries(cache):
        (cache / key / "meta.json").unlink()
    _, bare = run(config, tmp_path / "bare")
    assert [metrics["features/cached"] for metrics in bare] == [0.0] * 3
    assert [metrics["val/loss"] for metrics in bare] == pytest.approx(
        [metrics["val/loss"] for metrics in kept], rel=1e-4
    )


def test_a_full_disk_costs_the_cache_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.backbone.feature_store._SPARE_BYTES", 0)
    with small_disk(tmp_path / "disk") as disk:
        assert open_features("aa1", (100, 5), rows_of(1.0), disk) is not None

        def filling() -> Iterator[Tensor]:
            yield torch.zeros(50, 5)
            fill(disk)
            yield torch.zeros(50_000, 5)

        assert open_features("bb1", (50_050, 5), filling, disk) is None
        assert entries(disk / "features") == ["aa1"]
        assert not list((disk / "features").glob("*.building"))


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert open_features("aa1", (100, 5), never, tmp_path / "file") is None


def test_a_step_on_kept_features_is_fast(config: ClassifierConfig, tmp_path: Path) -> None:
    """A loose bound; benchmarks/features.py measures the time."""
    model, _ = run(replace(config, train=replace(config.train, epochs=1)), tmp_path / "t")
    started = time.perf_counter()
    for step in range(200):
        model(model.draw(np.arange(32), generator(0, 2, step)))
    assert time.perf_counter() - started < 2.0  # 50 times what it takes


def test_splits_are_told_apart(config: ClassifierConfig) -> None:
    model = classifier(config)
    some = Split(model.data.val.images, model.data.val.labels, model.data.val.indices[:7])
    np.testing.assert_allclose(
        model.split_features(some).numpy(),
        model.split_features(model.data.val)[:7].numpy(),
        rtol=1e-4,
        atol=1e-6,
    )
