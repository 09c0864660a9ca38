"""The classifier against torch's own losses, a linear probe trained by hand, and an uninterrupted
run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from sklearn.metrics import balanced_accuracy_score, f1_score
from torch import nn
from torch.nn import functional
from torchmetrics.functional.classification import multiclass_accuracy

from trainables.augment.view_config import ViewConfig
from trainables.augment.views import evaluation_view
from trainables.backbone.export import load_backbone_meta, save_backbone
from trainables.backbone.freezing import FreezeConfig
from trainables.backbone.initial import InitConfig
from trainables.backbone.networks import BackboneConfig, build_backbone
from trainables.base import TrainConfig
from trainables.classifier import Classifier, ClassifierConfig
from trainables.classifiers.heads import ClassifierHeadConfig, build_head
from trainables.classifiers.losses import LossConfig, soft_loss
from trainables.config import build
from trainables.data import DataConfig
from trainables.data.sampling import Sampler, generator
from trainables.engine.fit import fit
from trainables.errors import UserError
from trainables.files import BEST, LAST
from trainables.metrics import calibrate_batchnorm
from trainables.optim import OptimConfig, ScheduleConfig
from tune.execution.runtimes import LocalRuntime

SMALL = ClassifierConfig(
    data=DataConfig(name="digits", image_size=16),
    backbone=BackboneConfig(width=8, pool=1),
    train=TrainConfig(epochs=4, epoch_images=64, batch_size=32),
    optim=OptimConfig(name="adamw", lr=3e-3, weight_decay=0.05),
)


def classifier(config: ClassifierConfig = SMALL) -> Classifier:
    torch.manual_seed(config.seed)
    return Classifier(config, Classifier.load_data(config.data))


def trained(config: ClassifierConfig, directory: Path) -> Classifier:
    model = classifier(config)
    fit(model, config, LocalRuntime(directory, lambda epoch, metrics: True))
    return model


@pytest.fixture(scope="module")
def backbone_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a backbone of another seed with calibrated statistics."""
    path = tmp_path_factory.mktemp("backbone") / "b.pt"
    torch.manual_seed(99)
    backbone = build_backbone(SMALL.backbone)
    calibrate_batchnorm(backbone, classifier().evaluation_views(classifier().data.train))
    save_backbone(path, backbone, {})
    return path


def from_file(path: Path, policy: str = "none", **freeze: Any) -> ClassifierConfig:
    return replace(
        SMALL,
        init=InitConfig(source="ssl", file=str(path)),
        freeze=FreezeConfig(policy=policy, **freeze),
    )  # type: ignore[arg-type]


def test_cross_entropy_and_label_smoothing_are_torchs() -> None:
    logits, labels = torch.randn(16, 7), torch.randint(7, (16,))
    truth = functional.one_hot(labels, 7).float()
    for smoothing in (0.0, 0.1, 0.5):
        expected = functional.cross_entropy(logits, labels, label_smoothing=smoothing)
        torch.testing.assert_close(soft_loss(logits, truth, smoothing, 0.0), expected)
    mixed = truth.roll(1, 0) * 0.3 + truth * 0.7
    torch.testing.assert_close(
        soft_loss(logits, mixed, 0.1, 0.0),
        functional.cross_entropy(logits, mixed, label_smoothing=0.1),
    )


def test_focal_loss_is_equation_4() -> None:
    logits, labels = torch.randn(16, 7, requires_grad=True), torch.randint(7, (16,))
    p = logits.softmax(1)[torch.arange(16), labels]
    for gamma in (0.5, 2.0):
        loss = soft_loss(logits, functional.one_hot(labels, 7).float(), 0.0, gamma)
        torch.testing.assert_close(loss, (-((1 - p) ** gamma) * p.log()).mean())
    certain = torch.tensor([[60.0, 0.0]], requires_grad=True)
    soft_loss(certain, torch.tensor([[1.0, 0.0]]), 0.0, 0.5).backward()
    assert certain.grad is not None
    assert certain.grad.isfinite().all()


def test_a_head_on_a_frozen_backbone_is_a_linear_probe_on_its_features(
    backbone_file: Path, tmp_path: Path
) -> None:
    """The reference trains on the same batches with torch's SGD and cross-entropy, on features
    computed once."""
    config = replace(
        from_file(backbone_file, "all"),
        optim=OptimConfig(name="sgd", lr=0.1, weight_decay=1e-3),
        loss=LossConfig(label_smoothing=0.1),
    )
    config = replace(config, schedule=ScheduleConfig(name="constant"))
    model = classifier(config)
    probe = nn.Linear(32, 10)
    probe.load_state_dict({k.removeprefix("0."): v for k, v in model.head.state_dict().items()})
    features, labels = (
        model.split_features(model.data.train),
        torch.from_numpy(model.data.train.targets()),
    )
    optimizer = torch.optim.SGD(
        [{"params": [probe.weight], "weight_decay": 1e-3}, {"params": [probe.bias]}],
        lr=0.1,
        momentum=0.9,
    )
    sampler = Sampler(len(labels), 32, config.seed)
    for step in range(8):
        at = sampler.positions(step)
        optimizer.zero_grad()
        functional.cross_entropy(probe(features[at]), labels[at], label_smoothing=0.1).backward()
        optimizer.step()
    fit(model, config, LocalRuntime(tmp_path, lambda epoch, metrics: True))
    torch.testing.assert_close(model.head[0].weight, probe.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.head[0].bias, probe.bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("policy", "until", "still"),
    [
        ("all", "", ("conv1", "bn1", "layer1", "layer2", "layer3")),
        ("until", "layer3", ("conv1", "bn1", "layer1", "layer2")),
    ],
)
def test_frozen_bytes_do_not_change(
    backbone_file: Path, tmp_path: Path, policy: str, until: str, still: tuple[str, ...]
) -> None:
    config = from_file(backbone_file, policy, until=until)
    before = {k: v.clone() for k, v in classifier(config).backbone.state_dict().items()}
    model = trained(config, tmp_path)
    changed = {
        k.split(".")[0]
        for k, v in model.backbone.state_dict().items()
        if not torch.equal(v, before[k])
    }
    assert changed == {"conv1", "bn1", "layer1", "layer2", "layer3"} - set(still)
    for name in ("weight", "bias"):
        assert not torch.equal(
            getattr(model.head[0], name), getattr(classifier(config).head[0], name)
        )


def test_frozen_batchnorm_keeps_statistics_and_learns_scales(
    backbone_file: Path, tmp_path: Path
) -> None:
    config = from_file(backbone_file, batchnorm="frozen")
    before = {k: v.clone() for k, v in classifier(config).backbone.state_dict().items()}
    after = trained(config, tmp_path).backbone.state_dict()
    same = {k for k in before if torch.equal(before[k], after[k])}
    assert same == {
        k
        for k in before
        if k.rsplit(".", 1)[1] in ("running_mean", "running_var", "num_batches_tracked")
    }


@pytest.mark.parametrize("policy", ["gradual", "probe_first"])
def test_what_thaws_is_still_until_its_epoch(
    backbone_file: Path, tmp_path: Path, policy: str
) -> None:
    """In 4 epochs that thaw after half of them, gradual trains [0, 2, 4, 4] stages and probe_first
    [0, 0, 4, 4]."""
    config = from_file(backbone_file, policy, thaw_frac=0.5)
    model = classifier(config)
    previous = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    moved = []

    def report(epoch: int, metrics: dict[str, float]) -> bool:
        state = model.backbone.state_dict()
        moved.append({k.split(".")[0] for k in state if not torch.equal(state[k], previous[k])})
        previous.update({k: v.clone() for k, v in state.items()})
        return True

    fit(model, config, LocalRuntime(tmp_path, report))
    everything = {"conv1", "bn1", "layer1", "layer2", "layer3"}
    assert moved == [
        set(),
        {"layer2", "layer3"} if policy == "gradual" else set(),
        everything,
        everything,
    ]


@pytest.mark.parametrize("die_after", [1, 2, 3])
def test_resume_is_exact_while_it_thaws(
    backbone_file: Path, tmp_path: Path, die_after: int
) -> None:
    mixed = LossConfig(label_smoothing=0.1, mixup=0.4, cutmix=1.0)
    head = ClassifierHeadConfig(kind="mlp", hidden=16, dropout=0.3)
    config = replace(
        from_file(backbone_file, "gradual", thaw_frac=0.5, layer_decay=0.7),
        loss=mixed,
        head=head,
        aug=ViewConfig(policy="simclr"),
    )
    reports: dict[str, list[dict[str, float]]] = {"whole": [], "killed": []}

    def run(name: str, last: int | None) -> Classifier:
        def report(epoch: int, metrics: dict[str, float]) -> bool:
            if epoch == last:
                raise KeyboardInterrupt
            reports[name].append({k: v for k, v in metrics.items() if not k.startswith("time/")})
            return True

        (tmp_path / name).mkdir(exist_ok=True)
        model = classifier(config)
        fit(model, config, LocalRuntime(tmp_path / name, report))
        return model

    whole = run("whole", None)
    with pytest.raises(KeyboardInterrupt):
        run("killed", die_after)
    torch.randn(5)
    killed = run("killed", None)
    assert reports["killed"] == reports["whole"]
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.state_dict().values(), killed.state_dict().values(), strict=True)
    )
    assert (tmp_path / "killed" / LAST).exists()


def test_micro_batches_of_mixtures_equal_the_whole_batch() -> None:
    config = replace(SMALL, loss=LossConfig(mixup=0.4, cutmix=1.0))
    model = classifier(config).eval()  # in eval mode BatchNorm does not depend on the batch
    batch = model.draw(np.arange(12), generator(0, 1))
    parts = sum(model(batch.slice(a, b)) * (b - a) / 12 for a, b in ((0, 5), (5, 12)))
    torch.testing.assert_close(model(batch), parts)


def test_metrics_are_counted_by_hand() -> None:
    model = classifier()
    metrics = model.validate()
    with torch.no_grad():
        images = evaluation_view(
            model.data.val.batch(np.arange(len(model.data.val))), 16, "imagenet"
        )
        p = model.head(model.backbone.eval()(images)).double().softmax(1).numpy()
    labels = model.data.val.targets()
    order = np.argsort(-p, axis=1)
    assert metrics["val/top1"] == pytest.approx(np.mean(order[:, 0] == labels))
    assert metrics["val/top5"] == pytest.approx(np.mean((order[:, :5] == labels[:, None]).any(1)))
    scores, truth = torch.from_numpy(p), torch.from_numpy(labels)
    for k in (1, 5):
        theirs = multiclass_accuracy(scores, truth, p.shape[1], average="micro", top_k=k)
        assert metrics[f"val/top{k}"] == pytest.approx(theirs.item(), abs=1e-6)
    assert metrics["val/loss"] == pytest.approx(
        -np.mean(np.log(p[np.arange(len(labels)), labels])), rel=1e-4
    )
    f1 = f1_score(labels, order[:, 0], average="macro", zero_division=0)
    assert metrics["val/macro_f1"] == pytest.approx(f1)
    recall = balanced_accuracy_score(labels, order[:, 0])
    assert metrics["val/balanced_accuracy"] == pytest.approx(recall)
    names = ("top1", "top5", "macro_f1", "balanced_accuracy", "loss")
    assert model.test().keys() == {f"test/{name}" for name in names}


def test_it_learns_and_its_export_restores_it(tmp_path: Path) -> None:
    config = replace(SMALL, train=TrainConfig(epochs=4, batch_size=32), optim=OptimConfig(lr=5e-3))
    model = classifier(config)
    fitted = fit(model, config, LocalRuntime(tmp_path, lambda epoch, metrics: True))
    assert fitted.best > 0.7  # chance .1
    other = classifier(replace(config, seed=5))
    other.load_export(tmp_path / BEST)
    assert other.validate()["val/top1"] == fitted.best
    started = classifier(
        replace(config, init=InitConfig(source="supervised", file=str(tmp_path / BEST)))
    )
    for key, value in started.backbone.state_dict().items():
        assert torch.equal(value, other.backbone.state_dict()[key])
    meta = load_backbone_meta(tmp_path / BEST)
    assert (meta["normalize"], meta["backbone"]["width"], meta["epoch"]) == (
        "imagenet",
        8,
        fitted.best_epoch,
    )


def test_heads() -> None:
    linear, mlp = (build_head(ClassifierHeadConfig(kind=kind), 20, 5) for kind in ("linear", "mlp"))  # type: ignore[arg-type]
    assert sum(p.numel() for p in linear.parameters()) == 20 * 5 + 5
    assert sum(p.numel() for p in mlp.parameters()) == 20 * 256 + 256 + 256 * 5 + 5
    zero = build_head(ClassifierHeadConfig(kind="mlp", zero_init=True), 20, 5)
    assert not zero(torch.randn(3, 20)).any()


def test_a_head_on_the_1000_units_of_imagenet() -> None:
    head = build_head(ClassifierHeadConfig(kind="fc1000"), 2048, 65)
    assert head(torch.zeros(3, 2048)).shape == (3, 65)
    # the head of report R2
    reference = nn.Sequential(torchvision.models.resnet50(weights=None).fc, nn.Linear(1000, 65))
    assert [p.shape for p in head.parameters()] == [p.shape for p in reference.parameters()]
    assert sum(p.numel() for p in head.parameters()) == 2048 * 1000 + 1000 + 1000 * 65 + 65


@pytest.mark.parametrize("with_fc", [True, False])
def test_the_1000_units_are_frozen_with_the_weights_they_came_with(
    with_fc: bool, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    net = torchvision.models.resnet18(weights=None)
    torch.save(
        {k: v for k, v in net.state_dict().items() if with_fc or not k.startswith("fc.")},
        tmp_path / "weights.pth",
    )
    config = replace(
        from_file(tmp_path / "weights.pth", "all"),
        backbone=BackboneConfig(name="resnet18", small_stem=False),
        head=ClassifierHeadConfig(kind="fc1000"),
        train=TrainConfig(epochs=1, epoch_images=64, batch_size=32),
    )
    before = classifier(config).head.state_dict()
    model = trained(config, tmp_path)
    after = model.head.state_dict()
    assert torch.equal(before["0.weight"], net.fc.weight) == with_fc
    assert torch.equal(before["0.weight"], after["0.weight"]) == with_fc
    assert torch.equal(before["0.bias"], after["0.bias"]) == with_fc
    assert not torch.equal(before["1.weight"], after["1.weight"])
    assert list(model.stages)[-1] == ("fc" if with_fc else "layer4")
    groups = model.param_groups(0.1)
    assert {id(p) for group in groups for p in group["params"]} == {
        id(p) for p in (model.head[1:] if with_fc else model.head).parameters()
    }
    thawing = classifier(replace(config, freeze=FreezeConfig(policy="none", backbone_lr=0.1)))
    own = [p for group in thawing.param_groups(0.1) for p in group["params"]]
    assert len(own) == len({id(p) for p in own}) == len(list(thawing.parameters()))


def test_settings_start_with_the_same_head(backbone_file: Path) -> None:
    scratch, loaded = classifier(), classifier(from_file(backbone_file, "all"))
    assert torch.equal(scratch.head[0].weight, loaded.head[0].weight)
    assert not torch.equal(scratch.backbone.conv1.weight, loaded.backbone.conv1.weight)


def test_the_untrained_baseline_keeps_loaded_statistics(backbone_file: Path) -> None:
    for config, moves in ((SMALL, True), (from_file(backbone_file), False)):
        model = classifier(config)
        before = model.backbone.bn1.running_mean.clone()
        model.calibrate()
        assert torch.equal(before, model.backbone.bn1.running_mean) != moves


@pytest.mark.parametrize(
    ("source", "policy"),
    [("supervised", "none"), ("ssl", "none"), ("supervised", "all"), ("ssl", "all")],
)
def test_settings_b_to_e_refuse_a_wrong_file(tmp_path: Path, source: str, policy: str) -> None:
    config = replace(
        SMALL,
        init=InitConfig(source=source, file=str(tmp_path / "b.pt")),
        freeze=FreezeConfig(policy=policy),
    )  # type: ignore[arg-type]
    data = Classifier.load_data(SMALL.data)
    with pytest.raises(UserError, match="no backbone file"):
        Classifier.check_startup(config, data)
    save_backbone(tmp_path / "b.pt", build_backbone(BackboneConfig(width=16, pool=1)), {})
    with pytest.raises(UserError, match=r"does not fit backbone\.name=tiny"):
        Classifier.check_startup(config, data)


def test_normalisation_is_the_configs_in_every_policy() -> None:
    for policy in ("none", "glyphs", "byol"):
        model = classifier(replace(SMALL, aug=ViewConfig(policy=policy), normalize="half"))  # type: ignore[arg-type]
        assert model.augment.config.normalize == "half"


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        ({"init.source": "ssl"}, "every source but scratch needs a file"),
        ({"init.file": "x.pt"}, "and scratch none"),
        ({"backbone.name": "vgg16"}, "backbone.name=vgg16 needs data.image_size >= 32, but got 28"),
        (
            {"backbone.name": "vgg16", "data.image_size": 32, "backbone.small_stem": True},
            "are for tiny and the ResNets",
        ),
        ({"loss.mixup": -1}, "loss.mixup=-1"),
    ],
)
def test_bad_values_are_named(flat: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(ClassifierConfig, flat)


def test_predictions_of_the_best_epoch_are_left_for_pictures(tmp_path: Path) -> None:
    model = trained(SMALL, tmp_path)
    model.load_export(tmp_path / BEST)
    model.snapshot_best(tmp_path, 3)
    with np.load(tmp_path / "predictions-val.npz") as file:
        labels, predicted, mistakes = file["labels"], file["predicted"], file["mistakes"]
        assert (labels == predicted).mean() == pytest.approx(model.validate()["val/top1"])
        assert (labels[mistakes] != predicted[mistakes]).all()
        np.testing.assert_array_equal(file["images"], model.data.val.batch(mistakes).numpy())
        assert (file["names"].tolist(), int(file["epoch"])) == (
            [str(digit) for digit in range(10)],
            3,
        )
