"""BYOL against the paper's formulas, and against the mistakes of the package."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from byol_pytorch import BYOL as PackageBYOL
from byol_pytorch.byol_pytorch import EMA, cosine_loss_fn, update_moving_average
from torch import nn
from torch.nn import functional

from tests.steps import fresh_state
from trainables.augment.evaluation import IMAGES
from trainables.augment.fixed_views import FixedViews
from trainables.augment.view_config import PRESETS, ViewConfig
from trainables.augment.views import evaluation_view
from trainables.backbone.export import load_backbone_state
from trainables.backbone.networks import BackboneConfig, build_backbone
from trainables.base import Batch, TrainConfig
from trainables.byol import (
    BYOL,
    BYOLConfig,
    HeadConfig,
    OnlineAndTarget,
    regression_loss,
)
from trainables.data import DataConfig, DataSet, Split, load_dataset
from trainables.data.sampling import generator
from trainables.engine.fit import fit, train_step
from trainables.errors import TrialFailed
from trainables.files import BEST
from trainables.metrics import calibrate_batchnorm, share
from trainables.momentum import momentum_at
from trainables.optim import OptimConfig, build_optimizer
from trainables.self_supervised import ValidationConfig
from tune.execution.runtimes import LocalRuntime

SMALL = BYOLConfig(
    data=DataConfig(name="digits", image_size=16),
    backbone=BackboneConfig(width=8),
    head=HeadConfig(projection_size=16, hidden_size=32, tau0=0.9),
    train=TrainConfig(epochs=3, epoch_images=128, batch_size=32),
    val=ValidationConfig(knn_k=5, probe_steps=5),
    optim=OptimConfig(name="sgd", lr=0.05),
)


def byol(config: BYOLConfig = SMALL, data: DataSet | None = None) -> BYOL:
    torch.manual_seed(0)
    return BYOL(config, data or load_dataset(config.data))


def test_momentum_is_the_papers() -> None:
    assert momentum_at(0, 100, 0.996) == pytest.approx(0.996)
    assert momentum_at(100, 100, 0.996) == 1
    assert momentum_at(50, 100, 0.99) == pytest.approx(1 - 0.01 * (math.cos(math.pi / 2) + 1) / 2)


def test_moving_average_equals_the_packages() -> None:
    model = byol()
    for parameter in model.learner.online_encoder.parameters():
        nn.init.normal_(parameter)
    expected = copy.deepcopy(model.learner.target_encoder)
    update_moving_average(EMA(0.97), expected, model.learner.online_encoder)
    model.tau = 0.97
    model.after_step()
    for a, b in zip(model.learner.target_encoder.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("simplicial", [False, True])
def test_networks_and_their_first_weights_are_the_packages(simplicial: bool) -> None:
    """Names and their order are equal too, because checkpoints contain them."""
    head = HeadConfig(projection_size=16, hidden_size=32, simplicial=simplicial)

    torch.manual_seed(0)
    ours = OnlineAndTarget(build_backbone(BackboneConfig(width=8)), head, image_size=16)
    torch.manual_seed(0)
    theirs = PackageBYOL(
        build_backbone(BackboneConfig(width=8)),
        image_size=16,
        hidden_layer=-1,
        projection_size=16,
        projection_hidden_size=32,
        augment_fn=nn.Identity(),
        use_simplicial_embeddings=simplicial,
    )
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_running_stats()

    state, expected = ours.state_dict(), theirs.state_dict()
    assert list(state) == list(expected)
    for key, value in expected.items():
        assert torch.equal(state[key], value), key
    for (name, a), (other, b) in zip(
        ours.named_parameters(), theirs.named_parameters(), strict=True
    ):
        assert (name, a.requires_grad) == (other, b.requires_grad)

    images = torch.randn(8, 3, 16, 16)
    one, two = ours.predict(torch.cat([images, images])).chunk(2)
    target_one, target_two = ours.project_target(torch.cat([images, images])).chunk(2)
    loss = regression_loss(one, target_two) + regression_loss(two, target_one)
    assert torch.equal(loss.mean(), theirs(images))


def test_a_policy_of_views_does_not_choose_the_normalisation_too() -> None:
    for policy in PRESETS:
        config = replace(SMALL, aug=ViewConfig(policy=policy))
        assert {view.config.normalize for view in byol(config).views} == {"imagenet"}

    earlier = replace(SMALL, aug=ViewConfig(policy="glyphs"), normalize="policy")
    assert byol(earlier).normalize == "half"


def test_regression_loss_equals_the_packages() -> None:
    predictions, targets = torch.randn(2, 5, 7)
    assert torch.equal(regression_loss(predictions, targets), cosine_loss_fn(predictions, targets))


def test_loss_is_equation_2() -> None:
    """Both views pass through both networks: L = 2 - 2 cos(q(z), z'), symmetrised, averaged over
    images."""
    model = byol()
    model.eval()  # makes a second forward pass equal the first
    batch = model.draw(np.arange(8), generator(0, 1))
    loss = model(batch)
    one, two = (
        view.apply(batch.images, draws)
        for view, draws in zip(model.views, batch.draws, strict=True)
    )
    learner = model.learner

    def predict(x: torch.Tensor) -> torch.Tensor:
        return learner.online_predictor(learner.online_encoder(x)[0])

    def target(x: torch.Tensor) -> torch.Tensor:
        return learner.target_encoder(x)[0]

    expected = (
        4
        - 2 * functional.cosine_similarity(predict(one), target(two))
        - 2 * functional.cosine_similarity(predict(two), target(one))
    ).mean()
    torch.testing.assert_close(loss, expected)


def test_batchnorm_sees_one_view_at_a_time() -> None:
    """As in the paper's code. Studies that began under rules 1 keep both views in one pass."""
    model = byol().train()
    batch = model.draw(np.arange(8), generator(0, 1))
    one, two = model.augmented(batch)
    learner = model.learner

    apart = regression_loss(learner.predict(one), learner.project_target(two))
    apart = apart + regression_loss(learner.predict(two), learner.project_target(one))
    torch.testing.assert_close(model(batch), apart.mean())

    earlier = byol(replace(SMALL, train=replace(SMALL.train, rules=1))).train()
    both = torch.cat([one, two])
    prediction_one, prediction_two = learner.predict(both).chunk(2)
    target_one, target_two = learner.project_target(both).chunk(2)
    together = regression_loss(prediction_one, target_two)
    together = together + regression_loss(prediction_two, target_one)
    torch.testing.assert_close(earlier(batch), together.mean())
    assert abs(together.mean() - apart.mean()) > 1e-3


def test_the_loss_is_computed_in_float32() -> None:
    """In bfloat16 the loss has three digits, too few for the differences in the last tenth of a
    run."""
    model = byol().eval()
    batch = model.draw(np.arange(8), generator(0, 1))
    one, two = model.augmented(batch)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(batch)
        outputs = [model.learner.predict(one), model.learner.predict(two)]
        targets = [model.learner.project_target(two), model.learner.project_target(one)]

    assert outputs[0].dtype == torch.bfloat16
    cosines = [
        functional.cosine_similarity(output.float(), target.float())
        for output, target in zip(outputs, targets, strict=True)
    ]
    torch.testing.assert_close(loss, (4 - 2 * cosines[0] - 2 * cosines[1]).mean())


def test_every_image_gets_views_of_its_own() -> None:
    """The package's own augmentation draws once per batch, so equal images would stay equal."""
    model = byol()
    batch = model.draw(np.zeros(16, dtype=int), generator(0, 1))
    views = model.views[0].apply(batch.images, batch.draws[0])
    assert all(not torch.equal(views[0], view) for view in views[1:])


def test_no_gradient_reaches_the_target_and_norms_do_not_decay() -> None:
    model = byol()
    groups = model.param_groups(0.1)
    target = {id(p) for p in model.learner.target_encoder.parameters()}
    assert not target & {id(p) for group in groups for p in group["params"]}
    online = {
        id(p)
        for m in (model.learner.online_encoder, model.learner.online_predictor)
        for p in m.parameters()
    }
    assert online == {id(p) for group in groups for p in group["params"]}
    for group in groups:
        assert all((p.ndim > 1) == (group["weight_decay"] == 0.1) for p in group["params"])


def test_the_constructor_leaves_fresh_batchnorm_statistics() -> None:
    for module in byol().modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert torch.equal(module.running_mean, torch.zeros_like(module.running_mean))  # type: ignore[arg-type]
            assert module.num_batches_tracked == 0


def test_package_defaults_that_are_not_byol_are_off() -> None:
    model = byol()
    assert not model.learner.online_encoder.use_simplicial_embeddings
    assert model.learner.online_encoder.layer == -1
    assert not model.learner.online_encoder.hook_registered
    assert byol(
        BYOLConfig(data=SMALL.data, backbone=SMALL.backbone, head=HeadConfig(simplicial=True))
    ).learner.online_encoder.use_simplicial_embeddings


@pytest.mark.heavy
def test_labels_do_not_reach_training(tmp_path: Path) -> None:
    """The weights are the same with shuffled labels, and without labels, where validation retrieves
    strong views."""
    data = load_dataset(SMALL.data)
    labels = np.random.default_rng(0).permutation(data.train.labels)

    def relabel(split: Split) -> Split:
        return Split(split.images, labels, split.indices)

    from dataclasses import replace

    shuffled = replace(
        data,
        train=relabel(data.train),
        gallery=relabel(data.train),
        val=relabel(data.val),
        test=relabel(data.test),
    )
    bare = replace(data, gallery=None)
    exports = []
    for name, some in (("true", data), ("shuffled", shuffled), ("none", bare)):
        (tmp_path / name).mkdir()
        model = byol(data=some)
        fit(model, SMALL, LocalRuntime(tmp_path / name, lambda epoch, metrics: True))
        exports.append({k: v.clone() for k, v in model.backbone.state_dict().items()})
        assert model.objective == ("val/view_rank" if name == "none" else "val/knn_top1")
    for other in exports[1:]:
        assert all(torch.equal(other[k], v) for k, v in exports[0].items())


def test_the_probe_of_a_test_learns_from_the_backbone_that_is_tested(tmp_path: Path) -> None:
    """A repeat is tested at its best epoch, but the probe of the last epoch was fitted on other
    features."""
    model = byol()
    fit(model, SMALL, LocalRuntime(tmp_path, lambda epoch, metrics: True))
    nn.init.normal_(model.backbone.conv1.weight)
    model.validate()
    probe = copy.deepcopy(model.probe)
    assert probe is not None
    model.load_export(tmp_path / BEST)
    got = model.test()["test/probe_top1"]
    (gallery, _), (queries, _) = (
        model._embed(split) for split in (model.data.gallery, model.data.test)
    )
    labels, truth = (
        torch.from_numpy(split.targets()) for split in (model.data.gallery, model.data.test)
    )
    stale = share(probe.right(queries, truth))
    probe.fit(gallery, labels)
    assert got == share(probe.right(queries, truth)) != stale
    assert model.test()["test/probe_top1"] == got


def test_the_probe_does_not_depend_on_earlier_validations() -> None:
    model, other = byol(), byol()
    for _ in range(3):
        repeated = model.validate()
    assert repeated["val/probe_top1"] == other.validate()["val/probe_top1"]


def test_collapse_ends_the_trial() -> None:
    model = byol()
    fine, collapsed = {"val/std": 0.8}, {"val/std": 0.01}
    model.check([fine, collapsed])
    model.check([collapsed, fine, collapsed])
    with pytest.raises(TrialFailed) as failure:
        model.check([fine, collapsed, collapsed])
    assert failure.value.reason == "collapse"


def test_resume_is_exact_and_export_loads_into_a_clean_backbone(tmp_path: Path) -> None:
    reports: dict[str, list[dict[str, float]]] = {"whole": [], "killed": []}

    def run(name: str, die_after: int | None) -> BYOL:
        def report(epoch: int, metrics: dict[str, float]) -> bool:
            if epoch == die_after:
                raise KeyboardInterrupt
            reports[name].append({k: v for k, v in metrics.items() if not k.startswith("time/")})
            return True

        (tmp_path / name).mkdir(exist_ok=True)
        model = byol()
        fit(model, SMALL, LocalRuntime(tmp_path / name, report))
        return model

    whole = run("whole", None)
    with pytest.raises(KeyboardInterrupt):
        run("killed", 2)
    killed = run("killed", None)
    assert reports["killed"] == reports["whole"]
    for a, b in zip(whole.state_dict().values(), killed.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    fresh = byol()
    fresh.load_export(tmp_path / "whole" / BEST)
    for key, value in load_backbone_state(tmp_path / "whole" / BEST).items():
        assert torch.equal(fresh.backbone.state_dict()[key], value)


def test_calibrated_baseline_follows_the_data() -> None:
    model = byol()
    model.calibrate()
    features, _ = model._embed(model.data.train)
    before = [
        m.running_mean.clone() for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)
    ]  # type: ignore[union-attr]
    assert any(mean.abs().max() > 0.01 for mean in before)
    assert torch.isfinite(features).all()


def test_the_baseline_of_a_set_with_one_image_more_than_batches() -> None:
    data = load_dataset(SMALL.data)
    model = byol(
        data=replace(data, train=replace(data.train, indices=data.train.indices[: IMAGES + 1]))
    )
    model.calibrate()
    assert model.validate()["val/std"] > 0


def batchnorm_statistics(model: BYOL) -> list[torch.Tensor]:
    norms = [m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    return [value.clone() for m in norms for value in (m.running_mean, m.running_var)]


def test_a_network_is_judged_and_exported_with_statistics_of_training_images(
    tmp_path: Path,
) -> None:
    model = byol()
    fit(model, SMALL, LocalRuntime(tmp_path, lambda epoch, metrics: True))
    model.load_export(tmp_path / BEST)
    judged = batchnorm_statistics(model)

    train = model.data.train
    rows = train.indices[len(train) * np.arange(1024) // 1024]
    views = evaluation_view(torch.from_numpy(train.images[rows]), 16, model.normalize)
    calibrate_batchnorm(model.backbone, views.split(IMAGES))
    for got, expected in zip(judged, batchnorm_statistics(model), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_an_earlier_study_keeps_its_statistics_and_its_objective() -> None:
    earlier = replace(SMALL, train=replace(SMALL.train, rules=1))
    bare = replace(load_dataset(SMALL.data), gallery=None)
    model = byol(earlier, bare)
    before = batchnorm_statistics(model)
    metrics = model.validate()
    assert all(map(torch.equal, before, batchnorm_statistics(model)))
    assert model.objective == "val/rankme"
    assert not [name for name in metrics if name.startswith("val/view_")]


def test_a_study_of_the_second_rules_keeps_retrieval() -> None:
    second = replace(SMALL, train=replace(SMALL.train, rules=2))
    model = byol(second, replace(load_dataset(SMALL.data), gallery=None))
    metrics = model.validate()
    assert model.objective == "val/view_retrieval"
    assert 0 < metrics["val/view_retrieval"] < 1
    assert "val/view_rank" not in metrics


@pytest.mark.parametrize("metric", ["view_rank", "view_retrieval"])
def test_views_are_the_same_for_every_policy_of_the_trial(metric: str) -> None:
    """They are also the same in every call: the views belong to the study."""
    bare = replace(load_dataset(SMALL.data), gallery=None)
    train = replace(SMALL.train, objective=f"val/{metric}")
    found = []
    for policy in ("none", "simclr"):
        model = byol(replace(SMALL, train=train, aug=ViewConfig(policy=policy)), bare)
        found += [model.validate()[f"val/{metric}"] for _ in range(2)]
    assert 0 < found[0] < 1
    assert len(set(found)) == 1


@pytest.mark.parametrize("metric", ["view_rank", "view_retrieval"])
def test_a_collapsed_network_finds_no_view(metric: str) -> None:
    chosen = replace(SMALL, train=replace(SMALL.train, objective=f"val/{metric}"))
    model = byol(chosen, replace(load_dataset(SMALL.data), gallery=None))
    for parameter in model.backbone.parameters():
        nn.init.zeros_(parameter)
    for norm in model.backbone.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.ones_(norm.bias)
    found = model.validate()[f"val/{metric}"]
    nothing = {"view_rank": 0.0, "view_retrieval": 1 / len(model.data.val)}
    assert found == pytest.approx(nothing[metric])


def test_views_of_a_large_split_are_those_of_images_at_even_steps() -> None:
    data = replace(load_dataset(SMALL.data), gallery=None)
    rows = np.arange(3000) % len(data.test.images)
    some = replace(data.test, indices=rows[::3])
    large = byol(data=replace(data, test=replace(data.test, indices=rows))).test()
    small = byol(data=replace(data, test=some)).test()
    assert large["test/view_rank"] == pytest.approx(small["test/view_rank"])
    assert 0 < large["test/view_rank"] < 1


@pytest.mark.parametrize(("up", "mirrored"), [("none", False), ("horizontal", True)])
def test_letters_are_not_mirrored_in_fixed_views(up: str, mirrored: bool) -> None:
    views = FixedViews(200, 16, "half", up)
    assert all(draws.hflip.any() == mirrored for draws in views.draws)
    assert not any(draws.vflip.any() or draws.turns.any() for draws in views.draws)


def test_view_departures() -> None:
    one, two = ViewConfig(policy="byol", crop_scale_min=0.5, strength=2.0, rot90=0.3).views()
    paper_one, paper_two = PRESETS["byol"]
    assert one.crop_scale_min == two.crop_scale_min == 0.5
    assert one.brightness == 2 * paper_one.brightness
    assert (one.blur, two.blur, two.solarize) == (
        paper_one.blur,
        paper_two.blur,
        paper_two.solarize,
    )
    assert one.rot90 == two.rot90 == 0.3
    assert ViewConfig(policy="simclr", strength=2.0).views()[0].hue <= 0.5


class Tight(BYOL):
    """BYOL on a device whose memory holds a limited number of images."""

    memory: int
    seen: list[int | str]

    def forward(self, batch: Batch) -> torch.Tensor:
        self.seen.append(len(batch))
        if len(batch) > self.memory:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(batch)


def run_tight(directory: Path, batch: int, memory: int) -> list[int | str]:
    """Return the sizes of the micro-batches of one step, followed by the reason if it failed."""
    config = replace(SMALL, train=replace(SMALL.train, batch_size=batch))
    model = Tight(config, load_dataset(config.data))
    model.memory, model.seen = memory, []
    runtime = LocalRuntime(directory, lambda *_: True)
    state = fresh_state(model, config, runtime)
    try:
        train_step(state, config, runtime, step=0, total_steps=10)
    except TrialFailed as failure:
        return [*model.seen, failure.reason]
    return model.seen


@pytest.mark.parametrize(
    ("batch", "memory", "expected"),
    [
        (9, 4, [9, 4, 5, 3, 3, 3]),
        (8, 2, [8, 4, 2, 2, 2, 2]),
        (9, 2, [9, 4, 3, 2, 2, 2, 3, "oom"]),
        (8, 1, [8, 4, 2, "oom"]),
    ],
)
def test_memory_that_runs_out_never_comes_to_a_single_image(
    tmp_path: Path, batch: int, memory: int, expected: list[int | str]
) -> None:
    """The projector's BatchNorm refuses a single image with an assertion that does not mention
    memory."""
    assert run_tight(tmp_path, batch, memory) == expected


def test_one_step_lowers_the_loss_on_its_batch(tmp_path: Path) -> None:
    model = byol()
    optimizer = build_optimizer(model.param_groups(0.0), SMALL.optim)

    class Same:
        batch_size, unit = 32, 1

        def positions(self, step: int) -> np.ndarray:
            return np.arange(32)

    runtime = LocalRuntime(tmp_path, lambda epoch, metrics: True)
    state = fresh_state(model, SMALL, runtime, optimizer, Same())
    model.train()
    losses = [float(train_step(state, SMALL, runtime, step, 100)) for step in range(30)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
