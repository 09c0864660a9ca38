"""The segmentation trainable against torch, scikit-learn and an uninterrupted run, and the content
of its pictures."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score
from torch.nn import functional

from tests.shapes import CLASSES, COLORS, SIZE, Shapes, shapes_config
from trainables.augment.joint_augment import JointAugmentConfig
from trainables.augment.views import evaluation_view
from trainables.backbone.export import load_backbone_state, save_backbone
from trainables.backbone.freezing import FreezeConfig
from trainables.backbone.initial import InitConfig
from trainables.backbone.networks import BackboneConfig, build_backbone
from trainables.base import TrainConfig
from trainables.config import build
from trainables.data import IGNORE, Split
from trainables.data.sampling import generator
from trainables.engine.fit import fit
from trainables.errors import TrialFailed, UserError
from trainables.files import BEST, LAST
from trainables.optim import OptimConfig
from trainables.plots.class_colours import coloured
from trainables.plots.draw import draw
from trainables.segmentation import Segmentation, SegmentationConfig
from trainables.segmenters.class_pixels import class_pixels
from trainables.segmenters.losses import SegmentationLossConfig
from trainables.segmenters.networks import ModelConfig
from tune.execution.runtimes import LocalRuntime

AUGMENTED = JointAugmentConfig(
    scale_min=0.7, scale_max=1.5, hflip=0.5, vflip=0.5, rot90=0.5, jitter=0.5
)


def segmentation(config: SegmentationConfig | None = None) -> Shapes:
    config = config or shapes_config()
    torch.manual_seed(config.seed)
    return Shapes(config, Shapes.load_data(config.data))


def trained(
    config: SegmentationConfig,
    directory: Path,
    last: int | None = None,
    reports: list[Any] | None = None,
) -> Shapes:
    def report(epoch: int, metrics: dict[str, float]) -> bool:
        if epoch == last:
            raise KeyboardInterrupt
        if reports is not None:
            reports.append({k: v for k, v in metrics.items() if not k.startswith("time/")})
        return True

    directory.mkdir(exist_ok=True)
    model = segmentation(config)
    fit(model, config, LocalRuntime(directory, report))
    return model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shapes, Path]:
    folder = tmp_path_factory.mktemp("run")
    return trained(
        shapes_config(train=TrainConfig(epochs=6, epoch_images=96, batch_size=8)), folder
    ), folder


def test_it_learns_shapes(run: tuple[Shapes, Path]) -> None:
    metrics = run[0].test()
    assert metrics["test/miou"] > 0.8  # predicting only ground gives .24
    assert set(metrics) == {
        f"test/{name}"
        for name in (
            "miou",
            "miou_masked",
            "pixel_accuracy",
            "loss",
            *(f"iou/{c}" for c in CLASSES),
        )
    }


def test_metrics_are_scikit_learns(run: tuple[Shapes, Path]) -> None:
    model, split = run[0], run[0].data.val
    images, masks = split.batch(np.arange(len(split))), split.masks(np.arange(len(split)))
    model.eval()
    with torch.no_grad():
        logits = model.net(evaluation_view(images, SIZE, "imagenet"))[0]
    metrics, known = model.validate(), masks != IGNORE
    predicted = logits.argmax(1)
    expected = jaccard_score(
        masks[known].numpy(), predicted[known].numpy(), average=None, labels=range(len(CLASSES))
    )
    np.testing.assert_allclose(metrics["val/miou_masked"], expected.mean())
    np.testing.assert_allclose(
        metrics["val/pixel_accuracy"], (predicted[known] == masks[known]).double().mean()
    )
    reference = functional.cross_entropy(logits, masks.long(), ignore_index=IGNORE)
    np.testing.assert_allclose(metrics["val/loss"], reference.item(), rtol=1e-5)
    assert metrics["val/miou"] < metrics["val/miou_masked"]  # unknown rows give false positives


@pytest.mark.parametrize("die_after", [1, 2, 3])
def test_resume_is_exact(tmp_path: Path, die_after: int) -> None:
    config = shapes_config(aug=AUGMENTED, loss=SegmentationLossConfig(name="weighted_ce"))
    whole: list[Any] = []
    killed: list[Any] = []
    expected = trained(config, tmp_path / "whole", reports=whole)
    with pytest.raises(KeyboardInterrupt):
        trained(config, tmp_path / "killed", die_after, killed)
    torch.randn(5)
    got = trained(config, tmp_path / "killed", reports=killed)
    assert killed == whole
    assert all(
        torch.equal(a, b)
        for a, b in zip(got.state_dict().values(), expected.state_dict().values(), strict=True)
    )
    torch.load(tmp_path / "killed" / LAST, weights_only=True)


def test_out_of_memory_halves_the_micro_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, sizes = Segmentation.forward, []

    def tight(self: Segmentation, batch: Any) -> torch.Tensor:
        if len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(batch))
        return forward(self, batch)

    monkeypatch.setattr(Segmentation, "forward", tight)
    reports: list[Any] = []
    trained(
        shapes_config(train=TrainConfig(epochs=1, epoch_images=16, batch_size=8)),
        tmp_path,
        reports=reports,
    )
    assert set(sizes) == {2}
    assert reports[0]["train/micro_batch"] == 2


def test_a_diverging_trial_ends_with_a_reason(tmp_path: Path) -> None:
    with pytest.raises(TrialFailed) as failure:
        trained(shapes_config(optim=OptimConfig(name="sgd", lr=1e20)), tmp_path)
    assert failure.value.reason == "nan"


@pytest.mark.parametrize("name", ["ce", "weighted_ce", "ce_dice", "focal", "lovasz"])
def test_every_loss_has_a_step(name: str) -> None:
    model = segmentation(shapes_config(loss=SegmentationLossConfig(name=name), aug=AUGMENTED))  # type: ignore[arg-type]
    model.train()
    loss = model(model.draw(np.arange(4), generator(0, 1)))
    loss.backward()
    assert loss > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_loss_is_cross_entropy_of_the_untouched_image() -> None:
    model = segmentation().train()
    batch = model.draw(np.arange(6), generator(0, 1))
    split = model.data.train
    views, masks = (
        evaluation_view(split.batch(np.arange(6)), SIZE, "imagenet"),
        split.masks(np.arange(6)).long(),
    )
    known = (masks != IGNORE).double().mean().item()
    reference = functional.cross_entropy(model.net(views)[0], masks, ignore_index=IGNORE) * known
    torch.testing.assert_close(model(batch), reference, rtol=1e-4, atol=1e-5)


def test_auxiliary_head_adds_its_share() -> None:
    config = shapes_config(
        model=ModelConfig(name="deeplabv3-resnet50", dropout=0.0),
        loss=SegmentationLossConfig(aux_weight=0.4),
    )
    model = segmentation(config).train()
    model.net.aux_classifier[3].p = 0.0  # type: ignore[union-attr, index]
    batch = model.draw(np.arange(2), generator(0, 1))
    with torch.no_grad():
        logits, auxiliary = model.net(evaluation_view(batch.images, SIZE, "imagenet"))
        masks = model.data.train.masks(np.arange(2)).long()
        one, two = (
            functional.cross_entropy(x, masks, ignore_index=IGNORE, reduction="sum") / masks.numel()
            for x in (logits, auxiliary)
        )
        torch.testing.assert_close(model(batch), one + 0.4 * two, rtol=1e-4, atol=1e-5)
        model(batch.slice(0, 1))  # a micro-batch may shrink to one image when memory runs out
    without = segmentation(replace(config, loss=SegmentationLossConfig(aux_weight=0.0)))
    assert without.net.aux_classifier is None


def test_auxiliary_head_under_a_frozen_backbone(tmp_path: Path) -> None:
    """It exists in training only, whichever mode came first."""
    file = backbone_file(tmp_path / "b.pt", BackboneConfig(name="resnet50"))
    config = shapes_config(
        model=ModelConfig(name="deeplabv3-resnet50"),
        init=InitConfig(source="given", file=str(file)),
        freeze=FreezeConfig(policy="all"),
    )
    model, views = segmentation(config), torch.zeros(2, 3, SIZE, SIZE)
    with torch.no_grad():
        for mode in (False, True, False, True):
            assert (model.train(mode).net(views)[1] is not None) == mode


def test_class_pixels() -> None:
    split = segmentation().data.train
    masks = split.masks(np.arange(len(split))).numpy()
    np.testing.assert_array_equal(class_pixels(split, 3), [(masks == c).sum() for c in range(3)])


def test_a_class_of_one_mask_in_thousands_has_a_weight() -> None:
    masks = np.zeros((2000, 2, 2), np.uint8)
    masks[1::2] = 1
    masks[1234, 0, 0], masks[77, 1, 1] = 2, IGNORE
    split = Split(np.zeros((2000, 3, 2, 2), np.uint8), None, np.arange(2000), masks)
    np.testing.assert_array_equal(class_pixels(split, 4), [3999, 3999, 1, 0])
    np.testing.assert_array_equal(class_pixels(split, 2) > 0, True)
    assert class_pixels(split, 2).sum() <= 512 * 4  # a sample of the masks, where that is enough


def backbone_file(path: Path, config: BackboneConfig | None = None) -> Path:
    config = config or shapes_config().backbone
    torch.manual_seed(99)
    save_backbone(
        path,
        build_backbone(config),
        {"normalize": "half", "backbone": {"name": config.name, "width": config.width}},
    )
    return path


def test_a_loaded_backbone_is_frozen_to_the_byte(tmp_path: Path) -> None:
    path = backbone_file(tmp_path / "b.pt")
    config = shapes_config(
        init=InitConfig(source="given", file=str(path)), freeze=FreezeConfig(policy="all")
    )
    assert "tensors matched" in Shapes.check_startup(config, Shapes.load_data(config.data))
    model = trained(config, tmp_path / "run")
    state = load_backbone_state(path)
    assert all(torch.equal(value, state[key]) for key, value in model.backbone.state_dict().items())
    fresh = segmentation(config)
    assert any(
        not torch.equal(a, b)
        for a, b in zip(
            model.head.state_dict().values(), fresh.head.state_dict().values(), strict=True
        )
    )


def test_stages_learn_at_their_rates(tmp_path: Path) -> None:
    path = backbone_file(tmp_path / "b.pt")
    config = shapes_config(
        init=InitConfig(source="given", file=str(path)),
        freeze=FreezeConfig(backbone_lr=0.1, layer_decay=0.5),
    )
    groups = segmentation(config).param_groups(0.0)
    assert {g["name"]: g["lr_scale"] for g in groups} == {
        "head": 1.0,
        "layer3": 0.1,
        "layer2": 0.05,
        "layer1": 0.025,
        "stem": 0.0125,
    }
    assert sum(p.numel() for g in groups for p in g["params"]) == sum(
        p.numel() for p in segmentation(config).parameters()
    )


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    path = backbone_file(tmp_path / "b.pt", BackboneConfig(name="resnet18"))
    config = shapes_config(init=InitConfig(source="given", file=str(path)))
    with pytest.raises(
        UserError,
        match=r"is a resnet18, but model\.name=unet has a tiny; "
        r"add --set model\.name=unet --set backbone\.name=",
    ):
        segmentation(config)


def test_export_gives_back_the_model_and_its_backbone(
    run: tuple[Shapes, Path], tmp_path: Path
) -> None:
    model = run[0]
    model.export(tmp_path / BEST, {})
    other = segmentation(shapes_config(seed=5))
    assert other.validate()["val/miou"] != model.validate()["val/miou"]
    other.load_export(tmp_path / BEST)
    assert other.validate() == model.validate()
    # as `classify` loads it
    build_backbone(shapes_config().backbone).load_state_dict(load_backbone_state(tmp_path / BEST))


def test_baseline_is_calibrated() -> None:
    model = segmentation()
    before = {k: v.clone() for k, v in model.state_dict().items() if k.endswith("running_mean")}
    model.calibrate()
    assert all(not torch.equal(v, model.state_dict()[k]) for k, v in before.items())


def test_pictures_are_drawn_from_snapshots(run: tuple[Shapes, Path], tmp_path: Path) -> None:
    model, folder = run
    assert sorted(p.name for p in folder.glob("masks-*.npz")) == [
        "masks-0001.npz",
        "masks-0003.npz",
        "masks-0006.npz",
    ]
    with np.load(folder / "masks-0006.npz") as file:
        positions = file["rows"] - model.data.val.indices[0]
        assert positions[:3].tolist() == [0, 5, 11]
        assert file["captions"].tolist() == [
            "0000 (first)",
            "0005 (middle)",
            "0011 (last)",
            *(
                f"{position:04d} ({place})"
                for position, place in zip(
                    positions[3:], ("worst", "second worst", "third worst"), strict=True
                )
            ),
        ]
        np.testing.assert_array_equal(file["truth"], model.data.val.masks(positions))
        np.testing.assert_array_equal(file["images"], model.data.val.batch(positions))
        worst = file["accuracies"][3:]
        assert (worst <= np.delete(model._accuracies, positions).min()).all()
        right = (file["predicted"] == file["truth"]).mean((1, 2)) * SIZE / (SIZE - 1)
        np.testing.assert_allclose(right, file["accuracies"], rtol=1e-5)
        assert file["confusion"].sum() == len(model.data.val) * SIZE**2
    pictures = draw(folder / "masks-0006.npz", tmp_path / "plots", "shapes trial 0")
    assert [p.name for p in pictures] == [
        f"{kind}_masks-0006.png" for kind in ("predicted", "iou", "confusion")
    ]
    assert all(p.stat().st_size > 5000 for p in pictures)


def test_colours() -> None:
    picture = coloured(np.array([[0, 2], [1, IGNORE]], np.uint8), np.array(COLORS, np.uint8))
    np.testing.assert_array_equal(picture, [[COLORS[0], COLORS[2]], [COLORS[1], (0, 0, 0)]])


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        ({"data.image_size": 31}, "segmentation needs data.image_size >= 32, but got 31"),
        (
            {"backbone.name": "cnn"},
            "model.name=unet needs backbone.name to be one of tiny, resnet18",
        ),
        ({"model.name": "segnet"}, "model.name='segnet' is not valid"),
        ({"loss.name": "mse"}, "loss.name='mse' is not valid"),
    ],
)
def test_bad_values_are_named(flat: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        build(SegmentationConfig, flat)
