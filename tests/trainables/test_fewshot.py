"""Few-shot learning against NumPy loops, scikit-learn's nearest neighbour and centroid, closed
forms and an uninterrupted run."""

import csv
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from torch.nn import functional

from tests.steps import fresh_state
from trainables.backbone.export import load_backbone_state, save_backbone
from trainables.backbone.freezing import FreezeConfig
from trainables.backbone.initial import InitConfig
from trainables.backbone.networks import BackboneConfig, build_backbone
from trainables.base import TrainConfig
from trainables.config import build, flatten
from trainables.data import DataConfig, FewShotData, load_dataset
from trainables.data.episodes import EpisodeSampler, draw_episodes
from trainables.data.sampling import generator
from trainables.engine.fit import fit, train_step
from trainables.engine.step import BatchSplitter
from trainables.errors import TrialFailed, UserError
from trainables.files import BEST
from trainables.optim import OptimConfig
from trainables.protonet import (
    EvaluationConfig,
    Metric,
    MetricConfig,
    ProtoNet,
    ProtoNetConfig,
    TrainEpisodeConfig,
    evaluate,
)
from tune.backbones.resolve import choose, from_backbone
from tune.execution.runtimes import LocalRuntime
from tune.experiments import EXPERIMENTS
from tune.search.space import asked_for, within

SMALL = ProtoNetConfig(
    data=DataConfig(name="digits", image_size=16),
    backbone=BackboneConfig(width=8, pool=1),
    episode=TrainEpisodeConfig(way=4, query=3),
    val=EvaluationConfig(way=2, shot=1, query=5, episodes=40),
    train=TrainConfig(epochs=3, epoch_images=160, batch_size=50),
    optim=OptimConfig(name="adam", lr=3e-3),
)
DISTANCES = ("euclidean", "cosine", "parametric")
every_distance = pytest.mark.parametrize("distance", DISTANCES)


def protonet(config: ProtoNetConfig = SMALL) -> ProtoNet:
    data = ProtoNet.load_data(config.data)
    torch.manual_seed(config.seed)
    return ProtoNet(config, data)


def blobs(classes: int = 12, each: int = 20, dim: int = 6) -> tuple[torch.Tensor, np.ndarray]:
    """Return overlapping clusters, so that some episodes are answered wrongly."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(classes), each))
    return torch.from_numpy(
        (rng.normal(size=(classes, dim))[labels] + rng.normal(size=(len(labels), dim))).astype(
            np.float32
        )
    ), labels


# episodes


def test_fixed_episodes_are_disjoint_and_the_same_every_time() -> None:
    _, labels = blobs()
    episodes = draw_episodes(labels, way=5, shot=3, query=4, count=100, seed=1, split="val")
    assert (episodes.support.shape, episodes.query.shape, episodes.truth.shape) == (
        (100, 5, 3),
        (100, 20),
        (100, 20),
    )
    for support, query, truth in zip(episodes.support, episodes.query, episodes.truth, strict=True):
        assert len({*support.ravel().tolist(), *query.tolist()}) == 5 * 3 + 20  # no image twice
        classes = labels[support]
        assert (classes == classes[:, :1]).all()
        assert len(set(classes[:, 0].tolist())) == 5
        np.testing.assert_array_equal(labels[query], classes[truth, 0])
    again = draw_episodes(labels, 5, 3, 4, 100, 1, "val")
    np.testing.assert_array_equal(episodes.support, again.support)
    for seed, split in ((2, "val"), (1, "test")):
        assert not np.array_equal(
            episodes.support, draw_episodes(labels, 5, 3, 4, 100, seed, split).support
        )


def test_classes_of_episodes_are_uniform() -> None:
    _, labels = blobs()
    drawn = labels[draw_episodes(labels, 5, 1, 1, 2000, 0, "val").support.ravel()]
    counts = np.bincount(drawn, minlength=12)  # binomial(2000, 5 / 12): standard deviation 22
    assert abs(counts - 2000 * 5 / 12).max() < 5 * 22


def test_training_steps_hold_whole_and_new_episodes() -> None:
    _, labels = blobs()
    sampler = EpisodeSampler(labels, way=4, shot=2, query=3, batch_size=50, seed=0)
    assert (sampler.unit, sampler.batch_size) == (20, 40)
    steps = [sampler.positions(step) for step in range(20)]
    for positions in steps:
        episodes = labels[positions].reshape(2, 4, 5)
        assert (episodes == episodes[..., :1]).all()
        assert all(len(set(p.tolist())) == 20 for p in positions.reshape(2, 20))
    assert len({tuple(e.tolist()) for positions in steps for e in positions.reshape(2, 20)}) == 40
    # positions of a step need no history
    np.testing.assert_array_equal(steps[7], EpisodeSampler(labels, 4, 2, 3, 50, 0).positions(7))
    # at least one episode
    assert EpisodeSampler(labels, way=4, shot=2, query=3, batch_size=8, seed=0).batch_size == 20


def test_shares_and_micro_batches_are_whole_episodes(tmp_path: Path) -> None:
    # 5 episodes of 16
    model = protonet(replace(SMALL, train=replace(SMALL.train, batch_size=80, micro_batch=40)))
    seen: list[int] = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    runtime = LocalRuntime(tmp_path, lambda epoch, metrics: True)
    state = fresh_state(model, model.config, runtime)
    train_step(state, model.config, runtime, step=0, total_steps=10)
    assert seen == [16, 32, 32]


def test_every_worker_needs_an_episode(tmp_path: Path) -> None:
    """Without this check no worker would train, and nobody would be told."""
    model = protonet(replace(SMALL, train=replace(SMALL.train, batch_size=40)))  # 2 episodes of 16
    assert [model.sampler().batch_size // 16, ProtoNet.max_workers(model.config)] == [2, 2]
    runtime = SimpleNamespace(directory=tmp_path, device=torch.device("cpu"), rank=0, world_size=3)
    with pytest.raises(
        TrialFailed, match=r"2 x 16 images of a step for 3 workers; raise train\.batch_size"
    ) as failure:
        BatchSplitter(model, model.config, runtime, model.sampler())
    assert failure.value.reason == "workers"
    for config in (
        SMALL,
        replace(SMALL, train=replace(SMALL.train, batch_size=8)),
        replace(SMALL, episode=TrainEpisodeConfig(way=2)),
    ):
        sampler = protonet(config).sampler()
        assert ProtoNet.max_workers(config) == sampler.batch_size // sampler.unit


def test_too_few_classes_or_images_are_named() -> None:
    _, labels = blobs(classes=6, each=8)
    message = (
        r"5-way episodes of 4 support and 5 query images need 5 classes with 9 images, "
        r"val has 0 \(of 6\); lower val\.way"
    )
    with pytest.raises(UserError, match=message):
        draw_episodes(labels, 5, 4, 5, 10, 0, "val")
    with pytest.raises(
        UserError,
        match=r"7-way .* need 7 classes with 2 images, train has 6 \(of 6\); lower episode\.way",
    ):
        EpisodeSampler(labels, 7, 1, 1, 10, 0)
    config = replace(SMALL, val=EvaluationConfig(way=5))
    with pytest.raises(UserError, match=r"5-way .* val has 2 \(of 2\)"):
        ProtoNet.check_startup(config, ProtoNet.load_data(config.data))


# distances


@every_distance
def test_distances_are_a_loops(distance: Any) -> None:
    torch.manual_seed(0)
    head = Metric(MetricConfig(distance=distance, hidden=8), 6)
    queries, prototypes = torch.randn(3, 7, 6), torch.randn(3, 4, 6)
    with torch.no_grad():
        logits = head(queries, prototypes).numpy()
    weights = {name: value.numpy().astype(np.float64) for name, value in head.state_dict().items()}

    def score(q: np.ndarray, p: np.ndarray) -> float:
        if distance == "euclidean":
            return float(-((q - p) ** 2).sum())
        if distance == "cosine":
            return float(10 * (q @ p) / np.sqrt((q @ q) * (p @ p)))
        u, v = weights["embed.weight"] @ q, weights["embed.weight"] @ p
        hidden = (
            weights["score.0.weight"] @ np.concatenate([abs(u - v), u * v])
            + weights["score.0.bias"]
        )
        return float(
            (weights["score.2.weight"] @ np.maximum(hidden, 0) + weights["score.2.bias"]).item()
        )

    q, p = queries.numpy().astype(np.float64), prototypes.numpy().astype(np.float64)
    expected = [[[score(q[e, m], p[e, n]) for n in range(4)] for m in range(7)] for e in range(3)]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@every_distance
def test_loss_is_that_of_a_loop_over_episodes_and_queries(distance: Any) -> None:
    model = protonet(
        replace(SMALL, head=MetricConfig(distance=distance), val=replace(SMALL.val, shot=2))
    ).eval()
    batch = model.draw(model.sampler().positions(0), generator(0, 2, 0))
    with torch.no_grad():
        loss = model(batch)
        features = model.backbone(model.augment.apply(batch.images, batch.draws[0])).reshape(
            -1, 4, 5, 32
        )
        assert len(features) == 2
        losses = []
        for episode in features:
            prototypes = torch.stack([c[:2].mean(0) for c in episode])
            losses += [
                functional.cross_entropy(
                    model.head(q[None, None], prototypes[None])[0], torch.tensor([n])
                )
                for n, c in enumerate(episode)
                for q in c[2:]
            ]
    torch.testing.assert_close(loss, torch.stack(losses).mean())


@every_distance
@pytest.mark.parametrize("shot", [1, 2])
def test_every_image_is_support_as_often_as_any(distance: Any, shot: int) -> None:
    model = protonet(
        replace(
            SMALL,
            head=MetricConfig(distance=distance),
            episode=replace(SMALL.episode, every_support=True),
            val=replace(SMALL.val, shot=shot),
        )
    ).eval()
    batch = model.draw(model.sampler().positions(0), generator(0, 2, 0))
    each = shot + 3
    with torch.no_grad():
        loss = model(batch)
        views = model.augment.apply(batch.images, batch.draws[0])
        losses = []
        for episode in model.backbone(views).reshape(-1, 4, each, 32):
            for first in range(each):
                support = [(first + k) % each for k in range(shot)]
                prototypes = episode[:, support].mean(1)
                for number, images in enumerate(episode):
                    for query in sorted({*range(each)} - {*support}):
                        logits = model.head(images[query][None, None], prototypes[None])[0]
                        losses.append(functional.cross_entropy(logits, torch.tensor([number])))
    torch.testing.assert_close(loss, torch.stack(losses).mean())


@every_distance
def test_autocast_leaves_distances_exact(distance: Any) -> None:
    """Features are far from the origin: in bfloat16 the squares of their distances would be
    noise."""
    model = protonet(replace(SMALL, head=MetricConfig(distance=distance))).eval()
    batch = model.draw(model.sampler().positions(0), generator(0, 2, 0))
    features = torch.randn(len(batch), model.backbone.feature_dim) + 5
    model.backbone.forward = lambda views: features
    expected = model(batch)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(batch)
    torch.testing.assert_close(loss, expected)


def test_euclidean_is_scikit_learns_nearest_neighbour_or_nearest_centroid() -> None:
    features, labels = blobs()
    for shot, judge in ((1, KNeighborsClassifier(1)), (5, NearestCentroid())):
        episodes = draw_episodes(labels, 5, shot, 6, 60, 3, "val")
        accuracies, _ = evaluate(Metric(MetricConfig(), 6), features, episodes)
        expected = []
        for support, query, truth in zip(
            episodes.support, episodes.query, episodes.truth, strict=True
        ):
            judge.fit(features[support.ravel()].numpy(), np.repeat(np.arange(5), shot))
            expected.append(np.mean(judge.predict(features[query].numpy()) == truth))
        np.testing.assert_allclose(accuracies.numpy(), expected)
        assert 0.3 < np.mean(expected) < 0.95


@every_distance
def test_evaluation_in_chunks_is_the_whole(distance: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = blobs()
    head, episodes = (
        Metric(MetricConfig(distance=distance), 6),
        draw_episodes(labels, 5, 2, 6, 50, 3, "val"),
    )
    whole = evaluate(head, features, episodes)
    monkeypatch.setattr("trainables.protonet._CHUNK_FLOATS", 30 * 6 * 5 * 7)  # 7 episodes at a time
    for one, other in zip(whole, evaluate(head, features, episodes), strict=True):
        torch.testing.assert_close(one, other)


def test_metrics_and_interval_by_hand() -> None:
    model = protonet()
    metrics = model.validate()
    accuracies, _ = evaluate(
        model.head, model.split_features(model.data.val), model.fixed_episodes["val"]
    )
    a = accuracies.numpy()
    assert metrics["val/episode_top1"] == pytest.approx(a.mean())
    # t with 39 degrees of freedom
    assert metrics["val/episode_top1_ci95"] == pytest.approx(
        2.0227 * a.std(ddof=1) / np.sqrt(40), rel=1e-4
    )
    assert model.test().keys() == {"test/episode_top1", "test/episode_top1_ci95", "test/loss"}
    assert not set(model.data.val.targets()) & {
        *model.data.train.targets(),
        *model.data.test.targets(),
    }


def test_cosine_at_scale_1_caps_the_confidence() -> None:
    """The confidence is e / (e + 4 / e) = .649 for one class at cosine 1 and four at -1."""
    prototypes = torch.tensor([[[1.0, 0.0], *[[-1.0, 0.0]] * 4]])
    query = torch.tensor([[[2.0, 0.0]]])
    raw, scaled = (
        Metric(MetricConfig(distance="cosine", scale=s), 2)(query, prototypes)
        .softmax(2)[0, 0, 0]
        .item()
        for s in (1, 10)
    )
    assert raw == pytest.approx(0.6488, abs=1e-4)
    assert scaled > 0.999


# training


@every_distance
def test_it_learns_new_digits(tmp_path: Path, distance: Any) -> None:
    config = replace(
        SMALL,
        data=replace(SMALL.data, seed=2),  # val: 0 and 5
        head=MetricConfig(distance=distance, hidden=16),
        train=TrainConfig(epochs=4, epoch_images=1280, batch_size=64),
        val=replace(SMALL.val, shot=5, episodes=100),
        episode=TrainEpisodeConfig(way=4, shot=3, query=3),
    )
    model = protonet(config)
    untrained = model.validate()["val/loss"]
    fitted = fit(model, config, LocalRuntime(tmp_path, lambda epoch, metrics: True))
    assert fitted.best > 0.85  # chance .5
    assert fitted.history[-1]["val/loss"] < 0.7 * untrained
    other = protonet(replace(config, seed=7))
    other.load_export(tmp_path / BEST)
    assert other.validate()["val/episode_top1"] == fitted.best


def test_resume_is_exact(tmp_path: Path) -> None:
    config = replace(SMALL, head=MetricConfig(distance="parametric"))
    reports: dict[str, list[dict[str, float]]] = {"whole": [], "killed": []}

    def run(name: str, last: int | None) -> ProtoNet:
        def report(epoch: int, metrics: dict[str, float]) -> bool:
            if epoch == last:
                raise KeyboardInterrupt
            reports[name].append({k: v for k, v in metrics.items() if not k.startswith("time/")})
            return True

        (tmp_path / name).mkdir(exist_ok=True)
        model = protonet(config)
        fit(model, config, LocalRuntime(tmp_path / name, report))
        return model

    whole = run("whole", None)
    with pytest.raises(KeyboardInterrupt):
        run("killed", 2)
    torch.randn(5)
    killed = run("killed", None)
    assert reports["killed"] == reports["whole"]
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.state_dict().values(), killed.state_dict().values(), strict=True)
    )


def test_a_loaded_frozen_backbone_stays_and_its_metric_learns(tmp_path: Path) -> None:
    torch.manual_seed(99)
    save_backbone(tmp_path / "b.pt", build_backbone(SMALL.backbone), {})
    config = replace(
        SMALL,
        init=InitConfig(source="ssl", file=str(tmp_path / "b.pt")),
        freeze=FreezeConfig(policy="all"),
        head=MetricConfig(distance="parametric"),
    )
    model = protonet(config)
    before = {k: v.clone() for k, v in model.head.state_dict().items()}
    fit(model, config, LocalRuntime(tmp_path, lambda epoch, metrics: True))
    for key, value in load_backbone_state(tmp_path / "b.pt").items():
        assert torch.equal(value, model.backbone.state_dict()[key])
    assert all(
        not torch.equal(value, before[key])
        for key, value in model.head.state_dict().items()
        if key != "score.2.bias"
    )


@every_distance
@pytest.mark.parametrize("policy", ["gradual", "probe_first"])
def test_whatever_thaws_later_something_trains_from_the_first_step(
    tmp_path: Path, policy: Any, distance: Any
) -> None:
    """Euclidean distances have no parameters, so the last stage trains until the policy thaws the
    others."""
    frozen = FreezeConfig(policy=policy, thaw_frac=0.9)
    config = replace(
        SMALL,
        freeze=frozen,
        head=MetricConfig(distance=distance),
        train=replace(SMALL.train, epochs=1),
    )
    model = protonet(config)
    before = {k: v.clone() for k, v in model.named_parameters()}
    fit(model, config, LocalRuntime(tmp_path, lambda epoch, metrics: True))
    moved = {
        ".".join(k.split(".")[:2])
        for k, v in model.named_parameters()
        if not torch.equal(v, before[k])
    }
    assert {name for name in moved if name.startswith("backbone")} == (
        {"backbone.layer3"} if distance == "euclidean" else set()
    )
    assert any(name.startswith("head") for name in moved) == (distance != "euclidean")


def test_the_scale_is_learned_and_not_decayed() -> None:
    model = protonet(replace(SMALL, head=MetricConfig(distance="cosine")))
    (group,) = [g for g in model.param_groups(0.1) if g["name"] == "head"]
    assert [p is model.head.scale for p in group["params"]] == [True]
    assert group["weight_decay"] == 0.0
    model(model.draw(model.sampler().positions(0), generator(0, 2, 0))).backward()
    assert model.head.scale.grad.abs() > 0


def test_a_study_may_start_from_a_backbone(tmp_path: Path) -> None:
    torch.manual_seed(99)
    path = tmp_path / "b.pt"
    save_backbone(path, build_backbone(SMALL.backbone), {"normalize": "half"})
    experiment = EXPERIMENTS["fewshot"]
    assert choose(experiment, None, str(path)) is None
    loaded, values = from_backbone(experiment, str(path), tmp_path, tmp_path / "study")
    flat = experiment.presets["tiny"] | {
        "data.name": "digits",
        "backbone.width": 8,
        "backbone.pool": 1,
        "val.way": 2,
        "episode.way": 5,
    }
    config: Any = build(ProtoNetConfig, flat | values)
    assert (config.init.origin, config.normalize, config.freeze.policy) == ("b.pt", "half", "none")
    assert "tensors matched" in ProtoNet.check_startup(config, ProtoNet.load_data(config.data))
    asked = asked_for(loaded.space, "tiny", flatten(config), {})
    assert {"freeze.policy", "freeze.backbone_lr", "head.distance"} <= asked.keys()
    assert all(within(distribution, flatten(config)[key]) for key, distribution in asked.items())
    for name, setting in (("ssl", None), ("fewshot", "A")):
        with pytest.raises(
            UserError, match=f"{name} always starts from scratch|unknown --setting 'A'"
        ):
            choose(EXPERIMENTS[name], setting, str(path))


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        ({"freeze.policy": "all"}, "leaves nothing to train"),
        (
            {"backbone.name": "resnet12", "data.image_size": 15},
            "backbone.name=resnet12 needs data.image_size >= 16, but got 15",
        ),
        ({"head.distance": "manhattan"}, "head.distance='manhattan' is not valid"),
        ({"val.episodes": 1}, "val.episodes=1 is not valid"),
    ],
)
def test_bad_values_are_named(flat: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(ProtoNetConfig, flat)


# folders


def paint(path: Path, label: int, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([label, number]).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    pixels[..., 0] = 10 * label
    Image.fromarray(pixels).save(path)


def write_csv(path: Path, header: list[str], lines: list[list[Any]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *lines])


def mini_imagenet(root: Path, parts: dict[str, range], each: int = 8) -> Path:
    """Write folders of images, and csv files with id, filename and label. The red channel is ten
    times the class."""
    for part, classes in parts.items():
        lines = []
        for label in classes:
            for number in range(each):
                name = f"n{label:02d}_{number}.png"
                paint(root / part / name, label, number)
                lines.append([len(lines), name, f"n{label:02d}"])
        write_csv(root / f"{part}.csv", ["id", "filename", "label"], lines)
    return root


def load(root: Path) -> FewShotData:
    data = load_dataset(
        DataConfig(name=str(root), image_size=12), "fewshot", cache_dir=root.parent / "cache"
    )
    assert isinstance(data, FewShotData)
    return data


def painted(data: FewShotData, split: str) -> set[int]:
    images = getattr(data, split)
    return set(
        np.round(images.batch(np.arange(len(images)))[:, 0].float().mean((1, 2)).numpy() / 10)
        .astype(int)
        .tolist()
    )


def test_mini_imagenet_layout(tmp_path: Path) -> None:
    data = load(
        mini_imagenet(
            tmp_path / "set", {"train": range(10), "val": range(10, 16), "test": range(16, 20)}
        )
    )
    assert [painted(data, s) for s in ("train", "val", "test")] == [
        set(range(10)),
        set(range(10, 16)),
        set(range(16, 20)),
    ]
    assert "80 train of 10 classes, 48 val of 6 classes, 32 test of 4 classes" in data.headline()


def test_without_test_classes_the_layouts_val_is_the_claim(tmp_path: Path) -> None:
    data = load(mini_imagenet(tmp_path / "set", {"train": range(10), "val": range(10, 16)}))
    assert painted(data, "test") == set(range(10, 16))
    assert len(painted(data, "val")) == 2
    assert painted(data, "val") | painted(data, "train") == set(range(10))
    assert data.summary.origins == {
        "test": "the layout's val",
        "val": "classes chosen from train by seed 0",
    }


def test_class_folders_are_split_by_class(tmp_path: Path) -> None:
    for label in range(15):
        for number in range(3):
            paint(tmp_path / "set" / f"c{label:02d}" / f"{number}.png", label, number)
    data = load(tmp_path / "set")
    found = [painted(data, split) for split in ("train", "val", "test")]
    assert [len(classes) for classes in found] == [9, 3, 3]
    assert set.union(*found) == set(range(15))


def test_a_class_of_train_is_not_new(tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"class 'n03' of .* occurs in train and in val: "
        r"few-shot classes of val and test must be new",
    ):
        load(mini_imagenet(tmp_path / "set", {"train": range(4), "val": range(3, 6)}))


HEADER = [
    "episode_id",
    *(f"class{n}_support{k}" for k in range(2) for n in range(3)),
    *(f"query{m}" for m in range(4)),
]


def with_episodes(root: Path, lines: list[list[int]], name: str = "val_testcase.csv") -> Path:
    write_csv(root / name, HEADER, [[i, *line] for i, line in enumerate(lines)])
    return root


# Val has classes 10 to 15 with 8 images each: id 8 c + k is image k of class 10 + c.
EPISODES = [[0, 8, 16, 1, 9, 17, 2, 10, 18, 3], [40, 24, 0, 41, 25, 1, 27, 42, 2, 26]]


def test_given_episodes_are_read(tmp_path: Path) -> None:
    root = mini_imagenet(tmp_path / "set", {"train": range(10), "val": range(10, 16)})
    plain = load(root).fingerprint
    data = load(with_episodes(root, EPISODES))
    episodes = data.episodes("test", way=3, shot=2, query=9, count=9, seed=0)
    assert (len(episodes), episodes.way, episodes.shot) == (2, 3, 2)
    red = np.round(
        data.test.batch(np.arange(len(data.test)))[:, 0].float().mean((1, 2)).numpy() / 10
    )
    np.testing.assert_array_equal(
        red[episodes.support], [[[10] * 2, [11] * 2, [12] * 2], [[15] * 2, [13] * 2, [10] * 2]]
    )
    np.testing.assert_array_equal(red[episodes.query], [[10, 11, 12, 10], [13, 15, 10, 13]])
    np.testing.assert_array_equal(episodes.truth, [[0, 1, 2, 0], [1, 0, 2, 1]])
    assert data.fingerprint != plain
    assert "2 3-way 2-shot episodes of test are those of val_testcase.csv" in data.summary.notes
    drawn = data.episodes("test", way=3, shot=1, query=2, count=9, seed=0)  # another shot
    assert len(drawn) == 9


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            [[99, *EPISODES[0][1:]]],
            r"val_testcase.csv line 2: class0_support0 is image '99', "
            r"which is not among the 48 usable ones",
        ),
        ([EPISODES[1], [*EPISODES[0][:9], 0]], r"line 3: 1 images are support and query at once"),
        (
            [[*EPISODES[0][:9], 47]],
            r"line 2: every class needs equally many support images, "
            r"and every query must be of one",
        ),
        ([[0, 8, 16, 1, 9, 10, 2, 11, 18, 3]], r"line 2: every class needs equally many"),
        ([], r"must contain episodes of one way, shot and number of queries, found 0 kinds"),
    ],
)
def test_given_episodes_that_cannot_be_used(
    tmp_path: Path, lines: list[list[int]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load(
            with_episodes(
                mini_imagenet(tmp_path / "set", {"train": range(10), "val": range(10, 16)}), lines
            )
        )


def test_episodes_without_a_name_or_a_table(tmp_path: Path) -> None:
    root = mini_imagenet(tmp_path / "set", {"train": range(10)})
    with pytest.raises(UserError, match=r"has episodes of val but no val\.csv"):
        load(with_episodes(root, EPISODES))
    (root / "val_testcase.csv").rename(root / "episodes.csv")
    with pytest.raises(UserError, match=r"name it val_episodes\.csv or test_episodes\.csv"):
        load(root)


def test_letters_of_the_splits_are_others() -> None:
    # the size for which other tests have built the store
    data = load_dataset(DataConfig(name="glyphs", image_size=28), "fewshot")
    train, val, test = (
        set(split.targets().tolist()) for split in (data.train, data.val, data.test)
    )
    assert not train & val and not train & test and not val & test  # noqa: PT018
    assert min(np.bincount(data.val.targets())[list(val)]) >= 18
