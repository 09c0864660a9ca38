"""Backbones of timm against timm itself: features, stages, learning rates, files, error
messages."""

import copy
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

timm = pytest.importorskip("timm")

from timm.optim import param_groups_layer_decay  # noqa: E402

from trainables.backbone.export import save_backbone  # noqa: E402
from trainables.backbone.freezing import FreezeConfig, stage_groups  # noqa: E402
from trainables.backbone.networks import (  # noqa: E402
    BackboneConfig,
    build_backbone,
    head_prefix,
    stages,
)
from trainables.backbone.summary import layer_table  # noqa: E402
from trainables.backbone.timm_networks import map_shapes, timm_maps  # noqa: E402
from trainables.backbone.weights import load_backbone  # noqa: E402
from trainables.byol import BYOLConfig  # noqa: E402
from trainables.classifier import ClassifierConfig  # noqa: E402
from trainables.config import build  # noqa: E402
from trainables.errors import UserError  # noqa: E402
from trainables.segmentation import SegmentationConfig  # noqa: E402
from trainables.segmenters.unet import UNet  # noqa: E402

VIT = "timm:test_vit"  # timm's own small networks for tests
CONV = "timm:test_resnet"
NEXT = "timm:test_convnext"


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build_backbone(BackboneConfig(name=name))


@pytest.mark.parametrize("name", [VIT, CONV, NEXT, "timm:test_efficientnet", "timm:test_vit2"])
def test_features_are_what_timms_head_would_take(name: str) -> None:
    backbone = built(name).eval()
    reference = timm.create_model(name.removeprefix("timm:"), num_classes=7).eval()
    missing = reference.load_state_dict(backbone.state_dict(), strict=False).missing_keys
    assert missing
    assert all(key.startswith(head_prefix(name)) for key in missing)

    side = reference.default_cfg["input_size"][-1]
    images = torch.rand(2, 3, side, side)
    with torch.no_grad():
        features = backbone(images)
        maps = reference.forward_features(images)
        expected = reference.forward_head(maps, pre_logits=True)
    assert features.shape == (2, backbone.feature_dim)
    torch.testing.assert_close(features, expected)


@pytest.mark.parametrize("name", [VIT, CONV, NEXT, "timm:test_efficientnet"])
def test_every_parameter_is_in_exactly_one_stage(name: str) -> None:
    backbone = built(name)
    found = [
        id(parameter)
        for modules in stages(backbone).values()
        for module in modules
        for parameter in module.parameters()
    ]
    assert sorted(found) == sorted(id(parameter) for parameter in backbone.parameters())
    assert next(iter(stages(backbone))) == "stem"


def test_a_vision_transformers_blocks_are_stages_and_its_embeddings_the_stem() -> None:
    backbone = built(VIT)
    parts = stages(backbone)
    depth = len(backbone.blocks)
    assert list(parts) == ["stem", *(f"block{number}" for number in range(1, depth + 1))]

    stem = [id(p) for module in parts["stem"] for p in module.parameters()]
    assert {id(backbone.cls_token), id(backbone.pos_embed)} < set(stem)
    assert backbone.norm in parts[f"block{depth}"]


def test_layer_decay_is_timms_own() -> None:
    backbone = built(VIT)
    config = FreezeConfig(layer_decay=0.7)
    ours = stage_groups(stages(backbone), nn.Identity(), 0.05, config)
    theirs = param_groups_layer_decay(
        backbone,
        0.05,
        no_weight_decay_list=backbone.no_weight_decay(),
        layer_decay=0.7,
    )

    def by_parameter(groups: list[dict]) -> dict[int, tuple[float, float]]:
        return {
            id(parameter): (pytest.approx(group["lr_scale"]), group["weight_decay"])
            for group in groups
            for parameter in group["params"]
        }

    assert by_parameter(ours) == by_parameter(theirs)


def test_files_load_into_the_same_network(tmp_path: Path) -> None:
    trained = built(VIT)
    with_head = timm.create_model("test_vit", num_classes=5)
    with_head.load_state_dict(trained.state_dict(), strict=False)
    safetensors = pytest.importorskip("safetensors.torch")
    config = BackboneConfig(name=VIT)
    save_backbone(tmp_path / "ours.pt", trained, {"backbone": {"name": VIT}})
    safetensors.save_file(with_head.state_dict(), tmp_path / "model.safetensors")

    for file in ("ours.pt", "model.safetensors"):
        torch.manual_seed(1)
        fresh = build_backbone(config)
        loaded = load_backbone(fresh, config, tmp_path / file)
        assert loaded.matched == len(trained.state_dict())
        for key, value in trained.state_dict().items():
            assert torch.equal(fresh.state_dict()[key], value)


def test_a_file_of_the_authors_is_brought_into_timms_form(tmp_path: Path) -> None:
    """The file has one more token and a larger grid, like the files that the DINOv2 authors
    publish."""
    name = "timm:vit_tiny_patch16_224"
    trained = built(name)
    state = dict(trained.state_dict())
    width = state["pos_embed"].shape[-1]
    state["pos_embed"] = torch.randn(1, 1 + 20 * 20, width)
    state["mask_token"] = torch.zeros(1, width)
    torch.save(state, tmp_path / "large.pth")

    torch.manual_seed(1)
    fresh = build_backbone(BackboneConfig(name=name))
    load_backbone(fresh, BackboneConfig(name=name), tmp_path / "large.pth")
    assert fresh.pos_embed.shape == trained.pos_embed.shape
    assert torch.equal(fresh.norm.weight, trained.norm.weight)
    assert torch.equal(fresh.blocks[0].attn.qkv.weight, trained.blocks[0].attn.qkv.weight)


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    save_backbone(tmp_path / "file.pt", built(CONV), {"backbone": {"name": CONV}})
    with pytest.raises(UserError, match=r"add --set backbone.name=timm:test_resnet"):
        load_backbone(built(VIT), BackboneConfig(name=VIT), tmp_path / "file.pt")


@pytest.mark.parametrize(
    ("config", "values", "named"),
    [
        (ClassifierConfig, {"backbone.name": VIT, "data.image_size": 33}, "33 x 33 px"),
        (BYOLConfig, {"backbone.name": VIT, "data.image_size": 33}, "33 x 33 px"),
        (ClassifierConfig, {"backbone.name": "timm:vit_smal_patch14_dinov2"}, "did you mean"),
        (ClassifierConfig, {"backbone.name": "timm:resnet18.nobody"}, "no weights 'nobody'"),
        (SegmentationConfig, {"backbone.name": VIT}, "needs a convolutional network"),
        (ClassifierConfig, {"backbone.name": "resnet34"}, "'timm:NAME'"),
        (ClassifierConfig, {"backbone.name": CONV, "backbone.small_stem": True}, "small_stem"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(config, values, named: str) -> None:
    with pytest.raises(UserError, match=named) as caught:
        build(config, values)
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"pip install '?timm"):
        build(ClassifierConfig, {"backbone.name": "timm:resnet10t"})


def test_a_transformer_takes_images_of_another_size_than_its_own() -> None:
    backbone = built(VIT)
    patch = backbone.patch_embed.patch_size[0]
    config = build(ClassifierConfig, {"backbone.name": VIT, "data.image_size": 3 * patch})
    size = config.data.image_size
    assert backbone(torch.rand(2, 3, size, size)).shape == (2, backbone.feature_dim)


def test_checks_draw_no_random_number() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    build(SegmentationConfig, {"backbone.name": "timm:test_resnet", "data.image_size": 96})
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("name", [CONV, NEXT, "timm:test_efficientnet"])
def test_a_unet_around_a_network_of_timm(name: str) -> None:
    backbone = built(name)
    net = UNet(backbone, classes=5)
    images = torch.rand(2, 3, 64, 85)
    scores, _ = net(images)
    assert scores.shape == (2, 5, 64, 85)

    maps = timm_maps(backbone, images)
    assert [tuple(one.shape[1:]) for one in maps] == list(map_shapes(name, 64, 85))

    # With several workers, every parameter that trains must get a gradient.
    scores.sum().backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)
    staged = [p for part in stages(backbone).values() for m in part for p in m.parameters()]
    assert all(p.requires_grad for p in staged)


def test_maps_keep_the_places_of_pixels() -> None:
    """Cell i of a padded kernel of stride 2 is centred on row 2 i; that of a patch, on the patch's
    middle."""
    assert UNet(built(CONV), 2).last.centred
    assert not UNet(built(NEXT), 2).last.centred


def test_the_printed_architecture() -> None:
    backbone = built(VIT)
    before = copy.deepcopy(backbone.state_dict())
    table = layer_table(backbone, 4 * backbone.patch_embed.patch_size[0])
    count = sum(math.prod(p.shape) for p in backbone.parameters())
    assert f"{count:,}" in table
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, before[key])
