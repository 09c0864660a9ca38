"""Backbones against torchvision's, and the exported file."""

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional

from trainables.backbone.export import load_backbone_meta, load_backbone_state, save_backbone
from trainables.backbone.networks import BackboneConfig, build_backbone, stages
from trainables.config import build
from trainables.errors import UserError


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("name", "dim"), [("resnet18", 512), ("resnet50", 2048)])
def test_same_network_as_torchvision_without_its_head(name, dim):
    reference = getattr(torchvision.models, name)(weights=None)
    backbone = build_backbone(BackboneConfig(name=name))
    assert backbone.feature_dim == dim
    assert parameters(backbone) == parameters(reference) - parameters(reference.fc)
    backbone.load_state_dict(
        {k: v for k, v in reference.state_dict().items() if not k.startswith("fc.")}, strict=True
    )
    reference.fc = nn.Identity()
    images = torch.rand(2, 3, 65, 65)
    with torch.no_grad():
        assert torch.equal(backbone.eval()(images), reference.eval()(images))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_small_stem_of_a_resnet(name):
    torch.manual_seed(0)
    plain, small = (
        build_backbone(BackboneConfig(name=name, small_stem=flag)) for flag in (False, True)
    )
    assert parameters(plain) - parameters(small) == 3 * 64 * (49 - 9)
    maps = []
    small.layer4.register_forward_hook(lambda module, inputs, output: maps.append(output.shape))
    with torch.no_grad():
        assert small.eval()(torch.rand(2, 3, 32, 32)).shape == (2, small.feature_dim)
    assert maps == [(2, small.feature_dim, 4, 4)]
    # He et al. 2015, fan_out: std = sqrt(2 / (9 * 64)); 1,728 draws leave 1.7 % of noise
    assert small.conv1.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.08)


@pytest.mark.parametrize(("small_stem", "last_map"), [(False, 4), (True, 7)])
@pytest.mark.parametrize(("width", "pool"), [(8, 1), (32, 4)])
def test_tiny_shapes_and_parameters(width, pool, small_stem, last_map):
    backbone = build_backbone(BackboneConfig(width=width, pool=pool, small_stem=small_stem))
    maps = []
    backbone.layer3.register_forward_hook(lambda module, inputs, output: maps.append(output.shape))
    assert backbone(torch.rand(2, 3, 28, 28)).shape == (2, 4 * width * pool**2)
    assert backbone.feature_dim == 4 * width * pool**2
    assert maps == [(2, 4 * width, last_map, last_map)]
    w = width
    kernels = (
        27 * w
        + 9 * (w * w + w * w)
        + 9 * (2 * w * w + 4 * w * w)
        + 2 * w * w
        + 9 * (8 * w * w + 16 * w * w)
        + 8 * w * w
    )
    norms = 2 * (w + 2 * w + 3 * 2 * w + 3 * 4 * w)
    assert parameters(backbone) == kernels + norms


@pytest.mark.parametrize(("pool", "side"), [(1, 7), (7, 1)])
def test_tiny_pools_cells_of_the_last_map(pool, side):
    backbone = build_backbone(BackboneConfig(width=8, pool=pool, small_stem=True)).eval()
    maps = []
    backbone.layer3.register_forward_hook(
        lambda module, inputs, output: maps.append(output.numpy())
    )
    with torch.no_grad():
        features = backbone(torch.rand(2, 3, 28, 28)).numpy()
    cells = maps[0].reshape(2, 32, pool, side, pool, side).mean((3, 5))
    np.testing.assert_allclose(features, cells.reshape(2, -1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1, 8, 27, 33])
@pytest.mark.parametrize(
    "cfg",
    [
        BackboneConfig(width=8),
        BackboneConfig(width=8, small_stem=True),
        BackboneConfig(name="resnet18"),
    ],
)
def test_odd_sizes_and_one_image(cfg, size):
    backbone = build_backbone(cfg).eval()
    with torch.no_grad():
        features = backbone(torch.rand(1, 3, size, size))
    assert features.shape == (1, backbone.feature_dim)
    assert features.isfinite().all()


@pytest.mark.parametrize("name", ["tiny", "resnet18", "resnet50"])
@pytest.mark.parametrize("small_stem", [False, True])
def test_in_channels(name, small_stem):
    backbone = build_backbone(
        BackboneConfig(name=name, width=8, small_stem=small_stem), in_channels=1
    ).eval()
    with torch.no_grad():
        assert backbone(torch.rand(2, 1, 32, 32)).shape == (2, backbone.feature_dim)


@pytest.mark.parametrize(("name", "blocks"), [("tiny", 3), ("resnet18", 8), ("resnet50", 16)])
def test_zero_init_residual(name, blocks):
    for flag, expected in ((False, 0), (True, blocks)):
        backbone = build_backbone(BackboneConfig(name=name, width=8, zero_init_residual=flag))
        zeroed = [n for n, p in backbone.named_parameters() if n.endswith("weight") and not p.any()]
        assert len(zeroed) == expected


def test_initialisation_is_a_function_of_the_seed():
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(build_backbone(BackboneConfig(width=8)).state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert not torch.equal(states[0]["conv1.weight"], states[2]["conv1.weight"])


@pytest.mark.parametrize("cfg", [BackboneConfig(width=8), BackboneConfig(name="resnet18")])
def test_saved_and_loaded_backbone_gives_equal_features(cfg, tmp_path):
    backbone = build_backbone(cfg).to(memory_format=torch.channels_last)
    backbone(torch.rand(4, 3, 32, 32))  # changes the running statistics
    meta = {"trial": 3, "metrics": {"val/knn_top1": 0.25}, "classes": ["a", "b"]}
    save_backbone(tmp_path / "b.pt", backbone, meta)

    state = load_backbone_state(tmp_path / "b.pt")
    assert all(value.is_contiguous() and value.device.type == "cpu" for value in state.values())
    fresh = build_backbone(cfg)
    fresh.load_state_dict(state, strict=True)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            fresh.eval()(images), backbone.eval()(images), rtol=1e-4, atol=1e-5
        )
    assert all(
        torch.equal(value, backbone.state_dict()[key]) for key, value in fresh.state_dict().items()
    )
    assert load_backbone_meta(tmp_path / "b.pt") == meta
    assert [p.name for p in tmp_path.iterdir()] == ["b.pt"]


def test_a_head_is_left_out(tmp_path):
    net = torchvision.models.resnet18(weights=None)
    save_backbone(tmp_path / "b.pt", net, {})
    assert load_backbone_state(tmp_path / "b.pt").keys() == {
        k for k in net.state_dict() if not k.startswith("fc.")
    }


def test_plain_state_dict_of_torchvision(tmp_path):
    net = torchvision.models.resnet18(weights=None)
    torch.save(net.state_dict(), tmp_path / "plain.pth")
    backbone = build_backbone(BackboneConfig(name="resnet18"))
    backbone.load_state_dict(load_backbone_state(tmp_path / "plain.pth"), strict=True)
    assert torch.equal(backbone.layer4[1].conv2.weight, net.layer4[1].conv2.weight)
    assert load_backbone_meta(tmp_path / "plain.pth") == {}


def test_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "b.pt"
    backbone = build_backbone(BackboneConfig(width=8))
    save_backbone(path, backbone, {"epoch": 1})

    def full_disk(payload, file):
        file.write(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_backbone(path, backbone, {"epoch": 2})
    assert load_backbone_meta(path) == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["b.pt"]


def test_meta_that_json_cannot_hold_is_refused_before_writing(tmp_path):
    with pytest.raises(TypeError):
        save_backbone(
            tmp_path / "b.pt", build_backbone(BackboneConfig(width=8)), {"path": tmp_path}
        )
    assert not list(tmp_path.iterdir())


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "empty.pt").touch()
    (tmp_path / "text.pt").write_text(json.dumps({"a": 1}))
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"epoch": 3}, tmp_path / "other.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    torch.save({"w": torch.rand(1000)}, tmp_path / "torn.pt")
    (tmp_path / "torn.pt").write_bytes((tmp_path / "torn.pt").read_bytes()[:2000])
    for name in (
        "missing.pt",
        "empty.pt",
        "text.pt",
        "list.pt",
        "other.pt",
        "module.pt",
        "torn.pt",
        ".",
    ):
        remedy = "save its state_dict alone" if name == "module.pt" else "give a backbone"
        with pytest.raises(UserError, match=remedy) as caught:
            load_backbone_state(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_bad_values_are_named():
    with pytest.raises(UserError, match="width=4"):
        build(BackboneConfig, {"width": 4})
    with pytest.raises(UserError, match="'resnet18'"):
        build(BackboneConfig, {"name": "resnet34"})


@pytest.mark.parametrize(
    ("name", "weights", "dim"),
    [
        ("resnet101", torchvision.models.ResNet101_Weights.IMAGENET1K_V2, 2048),
        ("vgg16", torchvision.models.VGG16_Weights.IMAGENET1K_V1, 4096),
        ("vgg16_bn", torchvision.models.VGG16_BN_Weights.IMAGENET1K_V1, 4096),
        ("vgg19", torchvision.models.VGG19_Weights.IMAGENET1K_V1, 4096),
        ("convnext_base", torchvision.models.ConvNeXt_Base_Weights.IMAGENET1K_V1, 1024),
    ],
)
def test_parameters_are_torchvisions_published_number(name, weights, dim):
    with torch.device("meta"):  # shapes without memory
        backbone = build_backbone(BackboneConfig(name=name))
        features = backbone(torch.empty(2, 3, 64, 64))
    assert parameters(backbone) == weights.meta["num_params"] - 1000 * (dim + 1)
    assert features.shape == (2, dim) == (2, backbone.feature_dim)


def test_small_networks_of_the_reports():
    """cnn has 3 x 3 convolutions to w and 2w channels; conv4 has four to w with BatchNorm (Snell et
    al. 2017)."""
    cnn = build_backbone(BackboneConfig(name="cnn", width=32, pool=8))
    assert parameters(cnn) == (27 * 32 + 32) + (9 * 32 * 64 + 64)
    assert cnn(torch.rand(2, 3, 32, 32)).shape == (2, 64 * 8 * 8) == (2, cnn.feature_dim)
    conv4 = build_backbone(BackboneConfig(name="conv4", width=64, pool=5))
    assert parameters(conv4) == (27 * 64 + 3 * 64) + 3 * (9 * 64 * 64 + 3 * 64) == 113_088
    images = torch.rand(2, 3, 84, 84)
    with torch.no_grad():
        reference = nn.Sequential(
            *(layer for block in conv4.blocks for layer in block), nn.Flatten()
        ).eval()
        # at 84 px the last map is 5x5, so nothing is averaged
        assert torch.equal(conv4.eval()(images), reference(images))
    assert build_backbone(BackboneConfig(name="cnn", width=8), in_channels=1)(
        torch.rand(2, 1, 16, 16)
    ).shape == (2, 256)


def test_resnet12_of_few_shot_learning():
    """It has 12.4 M parameters at width 64 (Lee et al. 2019), and 84 px leave a 5x5 map. A block
    equals torch's own functions with its weights."""
    with torch.device("meta"):
        net = build_backbone(BackboneConfig(name="resnet12", width=64, pool=1))
        features = net(torch.empty(2, 3, 84, 84))
    widths = (3, 64, 160, 320, 640)
    assert (
        parameters(net)
        == sum(9 * (a * b + 2 * b * b) + a * b + 4 * 2 * b for a, b in pairwise(widths))
        == 12_424_320
    )
    assert features.shape == (2, 640) == (2, net.feature_dim)
    assert list(stages(net)) == ["block1", "block2", "block3", "block4"]
    block = build_backbone(BackboneConfig(name="resnet12", width=8)).blocks.block1.eval()
    x = torch.randn(2, 3, 9, 9)
    w = [m.weight for m in block.branch if isinstance(m, nn.Conv2d)]
    scale = (1 + 1e-5) ** -0.5  # BatchNorm with its initial statistics
    y = x
    for number, kernel in enumerate(w):
        y = functional.conv2d(y, kernel, padding=1) * scale
        y = functional.leaky_relu(y, 0.1) if number < 2 else y
    y = functional.max_pool2d(
        functional.leaky_relu(y + functional.conv2d(x, block.shortcut[0].weight) * scale, 0.1), 2
    )
    with torch.no_grad():
        torch.testing.assert_close(block(x), y)


def test_three_channels_where_torchvision_wants_them():
    with pytest.raises(UserError, match="vgg16 takes images of 3 channels, not 1"):
        build_backbone(BackboneConfig(name="vgg16"), in_channels=1)
    with pytest.raises(
        UserError, match="small_stem and zero_init_residual are for tiny and the ResNets"
    ):
        build(BackboneConfig, {"name": "conv4", "small_stem": True})


def test_the_block_of_tiny_is_torchvisions_bit_for_bit() -> None:
    from torchvision.models.resnet import BasicBlock as Reference

    from trainables.backbone.small_networks import BasicBlock

    for inputs, outputs, stride in ((4, 4, 1), (4, 8, 2)):
        results = []
        for is_ours in (True, False):
            torch.manual_seed(3)
            if is_ours:
                block: Any = BasicBlock(inputs, outputs, stride)
            else:
                shortcut = None
                if stride == 2:
                    conv = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
                    shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs))
                block = Reference(inputs, outputs, stride=stride, downsample=shortcut)
            images = torch.randn(3, inputs, 8, 8, requires_grad=True)
            y = block(images)
            y.square().mean().backward()
            gradients = [p.grad for p in block.parameters()]
            results.append((list(block.state_dict().items()), y, images.grad, gradients))

        (ours, y, grad, grads), (theirs, y2, grad2, grads2) = results
        assert [name for name, _ in ours] == [name for name, _ in theirs]
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(ours, theirs, strict=True))
        assert torch.equal(y, y2)
        assert torch.equal(grad, grad2)
        assert all(torch.equal(a, b) for a, b in zip(grads, grads2, strict=True))
