"""Freeze policies by hand, for every backbone: which stages and parameter groups train, and at
which learning rates."""

import re

import pytest
import torch
from torch import nn

from trainables.backbone.freezing import (
    FreezeConfig,
    frozen_modules,
    set_eval_mode,
    set_frozen,
    stage_groups,
    thaws_at,
)
from trainables.backbone.networks import BackboneConfig, build_backbone, stages
from trainables.config import build
from trainables.errors import UserError

# Backbone -> {stage: (kernels, biases and norm parameters)}, counted from the papers' tables. A
# bottleneck has 3 convolutions with 2 norm parameters each; the first block of a layer has one more
# on its shortcut. A ConvNeXt block has 3 weights with biases, a LayerNorm, and a layer scale, which
# is exempt although torchvision gives it the shape (C, 1, 1).
TENSORS = {
    "tiny": {"stem": (1, 2), "layer1": (2, 4), "layer2": (3, 6), "layer3": (3, 6)},
    "cnn": {"block1": (1, 1), "block2": (1, 1)},
    "conv4": {f"block{n}": (1, 3) for n in (1, 2, 3, 4)},
    "resnet12": {f"block{n}": (4, 8) for n in (1, 2, 3, 4)},
    "resnet18": {
        "stem": (1, 2),
        "layer1": (4, 8),
        "layer2": (5, 10),
        "layer3": (5, 10),
        "layer4": (5, 10),
    },
    "resnet50": {
        "stem": (1, 2),
        "layer1": (10, 20),
        "layer2": (13, 26),
        "layer3": (19, 38),
        "layer4": (10, 20),
    },
    "resnet101": {
        "stem": (1, 2),
        "layer1": (10, 20),
        "layer2": (13, 26),
        "layer3": (70, 140),
        "layer4": (10, 20),
    },
    "vgg16": {f"block{n}": (c, c) for n, c in enumerate((2, 2, 3, 3, 3), 1)}
    | {"fc6": (1, 1), "fc7": (1, 1)},
    "vgg16_bn": {f"block{n}": (c, 3 * c) for n, c in enumerate((2, 2, 3, 3, 3), 1)}
    | {"fc6": (1, 1), "fc7": (1, 1)},
    "vgg19": {f"block{n}": (c, c) for n, c in enumerate((2, 2, 4, 4, 4), 1)}
    | {"fc6": (1, 1), "fc7": (1, 1)},
    "convnext_base": {
        "stem": (1, 3),
        "stage1": (9, 18),
        "stage2": (9 + 1, 18 + 3),
        "stage3": (27 * 3 + 1, 27 * 6 + 3),
        "stage4": (9 + 1, 18 + 3 + 2),
    },
}
every_backbone = pytest.mark.parametrize("name", TENSORS)


def backbone_of(name: str) -> nn.Module:
    with torch.device("meta"):  # shapes without memory: VGG takes half a gigabyte
        return build_backbone(BackboneConfig(name=name, width=8))  # type: ignore[arg-type]


def test_the_table_has_every_backbone() -> None:
    with pytest.raises(UserError) as refused:
        build(BackboneConfig, {"name": "nothing"})
    _, _, known = str(refused.value).partition("must be ")
    assert set(TENSORS) == set(re.findall(r"[\w]+", known)) - {"or", "timm", "NAME"}


@every_backbone
def test_stages_cover_the_backbone_once_and_in_order(name: str) -> None:
    backbone = backbone_of(name)
    parts = stages(backbone)
    assert list(parts) == list(TENSORS[name])
    in_stages = [
        id(t)
        for modules in parts.values()
        for m in modules
        for t in (*m.parameters(), *m.buffers())
    ]
    assert len(in_stages) == len(set(in_stages))
    assert set(in_stages) == {id(t) for t in (*backbone.parameters(), *backbone.buffers())}
    assert [id(p) for p in backbone.parameters()] == [
        id(p) for modules in parts.values() for m in modules for p in m.parameters()
    ]


@every_backbone
def test_groups_by_hand(name: str) -> None:
    parts = stages(backbone_of(name))
    groups = stage_groups(
        parts, nn.Linear(4, 2), 0.01, FreezeConfig(backbone_lr=0.1, layer_decay=0.5)
    )
    found = [(g["name"], len(g["params"]), g["weight_decay"], g["lr_scale"]) for g in groups]
    expected: list[tuple[str, int, float, float]] = [("head", 1, 0.01, 1.0), ("head", 1, 0.0, 1.0)]
    scale = 0.1 * 0.5 ** (len(parts) - 1)
    for stage, (kernels, exempt) in TENSORS[name].items():
        expected += [
            (stage, kernels, 0.01, pytest.approx(scale)),
            (stage, exempt, 0.0, pytest.approx(scale)),
        ]
        scale *= 2
    assert found == expected


@every_backbone
def test_frozen_stages_leave_the_groups(name: str) -> None:
    parts = stages(backbone_of(name))
    last = list(TENSORS[name])[-1]
    set_frozen(parts, frozen_modules(0, 10, list(parts), FreezeConfig(policy="until", until=last)))
    groups = stage_groups(parts, nn.Linear(4, 2), 0.01, FreezeConfig(policy="until", until=last))
    assert {g["name"] for g in groups} == {"head", last}
    assert {g["lr_scale"] for g in groups} == {1.0}
    set_frozen(parts, frozen_modules(0, 10, list(parts), FreezeConfig(policy="all")))
    assert {
        g["name"] for g in stage_groups(parts, nn.Linear(4, 2), 0.01, FreezeConfig(policy="all"))
    } == {"head"}


Parts = dict[str, list[nn.Module]]


def trained_at(
    parts: Parts, name: str, epoch: int, config: FreezeConfig
) -> list[tuple[str, int, int, float]]:
    """Return (stage, kernels, exempt tensors, learning rate relative to the head's) of each stage
    that trains in an epoch of 10, from its gradients and parameter groups."""
    set_frozen(parts, frozen_modules(epoch, 10, list(parts), config))
    found: dict[str, tuple[str, int, int, float]] = {}
    for group in stage_groups(parts, nn.Linear(4, 2), 0.01, config)[2:]:
        assert all(p.requires_grad for p in group["params"])
        _, kernels, exempt, _ = found.get(group["name"], ("", 0, 0, 0.0))
        kernels, exempt = (
            (len(group["params"]), exempt)
            if group["weight_decay"]
            else (kernels, len(group["params"]))
        )
        found[group["name"]] = (group["name"], kernels, exempt, group["lr_scale"])
    still = [
        p
        for modules in parts.values()
        for m in modules
        for p in m.parameters()
        if not p.requires_grad
    ]
    assert len(still) == sum(k + e for stage, (k, e) in TENSORS[name].items() if stage not in found)
    return list(found.values())


def by_hand(name: str, thawed: int) -> list[tuple[str, int, int, float]]:
    """Return the last `thawed` stages. The last trains at .5 of the head's rate, each stage below
    at .8 of the one above it."""
    rows = [(stage, *counts) for stage, counts in TENSORS[name].items()]
    return [
        (*row, pytest.approx(0.5 * 0.8**below))
        for below, row in list(enumerate(reversed(rows)))[:thawed][::-1]
    ]  # type: ignore[misc]


@every_backbone
def test_until_any_stage_by_hand(name: str) -> None:
    parts = stages(backbone_of(name))
    for place, until in enumerate(TENSORS[name]):
        config = FreezeConfig(policy="until", until=until, backbone_lr=0.5, layer_decay=0.8)
        assert (
            trained_at(parts, name, 0, config)
            == trained_at(parts, name, 9, config)
            == by_hand(name, len(TENSORS[name]) - place)
        )


# Number of stages in a network -> how many of them train in epochs 0 to 5 of 10, if all train after
# half of the epochs.
GRADUAL = {
    2: (0, 0, 0, 1, 1, 2),
    4: (0, 0, 1, 2, 3, 4),
    5: (0, 1, 2, 3, 4, 5),
    7: (0, 1, 2, 4, 5, 7),
}


@every_backbone
def test_gradual_thawing_by_hand(name: str) -> None:
    parts = stages(backbone_of(name))
    gradual = FreezeConfig(policy="gradual", thaw_frac=0.5, backbone_lr=0.5, layer_decay=0.8)
    for epoch, thawed in enumerate(GRADUAL[len(TENSORS[name])]):
        assert trained_at(parts, name, epoch, gradual) == by_hand(name, thawed)


@every_backbone
def test_probe_first_by_hand(name: str) -> None:
    parts = stages(backbone_of(name))
    probe = FreezeConfig(policy="probe_first", thaw_frac=0.3, backbone_lr=0.5, layer_decay=0.8)
    assert trained_at(parts, name, 2, probe) == []
    assert trained_at(parts, name, 3, probe) == by_hand(name, len(TENSORS[name]))


# BatchNorm layers of every stage. Each convolution of a ResNet, ResNet12, Conv-4 or VGG-BN is
# followed by one; the other networks have none.
NORMS = {
    "tiny": (1, 2, 3, 3),
    "cnn": (0, 0),
    "conv4": (1, 1, 1, 1),
    "resnet12": (4, 4, 4, 4),
    "resnet18": (1, 4, 5, 5, 5),
    "resnet50": (1, 10, 13, 19, 10),
    "resnet101": (1, 10, 13, 70, 10),
    "vgg16": (0,) * 7,
    "vgg16_bn": (2, 2, 3, 3, 3, 0, 0),
    "vgg19": (0,) * 7,
    "convnext_base": (0,) * 5,
}


@every_backbone
def test_batchnorm_by_hand(name: str) -> None:
    """All layers of the frozen first stage are in eval mode. In the other stages BatchNorm follows
    `batchnorm`, and all other layers stay in training mode."""
    net = backbone_of(name)
    parts = stages(net)
    for batchnorm in ("train", "frozen"):
        net.train()
        set_eval_mode(parts, list(parts)[:1], FreezeConfig(batchnorm=batchnorm))  # type: ignore[arg-type]
        modules = {
            stage: [m for top in tops for m in top.modules()] for stage, tops in parts.items()
        }
        norms = {
            stage: [m.training for m in of if isinstance(m, nn.BatchNorm2d)]
            for stage, of in modules.items()
        }
        assert tuple(len(found) for found in norms.values()) == NORMS[name]
        first, *others = (set(found) for found in norms.values())
        assert first <= {False}
        assert all(found <= {batchnorm == "train"} for found in others)
        rest = [
            [m.training for m in of if not isinstance(m, nn.BatchNorm2d)] for of in modules.values()
        ]
        assert not any(rest[0])
        assert all(all(found) for found in rest[1:])


STAGES = ("stem", "layer1", "layer2", "layer3")


@pytest.mark.parametrize(
    ("config", "thawed_by_epoch"),
    [
        (FreezeConfig(), [4] * 10),
        (FreezeConfig(policy="all"), [0] * 10),
        (FreezeConfig(policy="until", until="layer2"), [2] * 10),
        (FreezeConfig(policy="until", until="stem"), [4] * 10),
        (FreezeConfig(policy="probe_first", thaw_frac=0.3), [0, 0, 0, 4, 4, 4, 4, 4, 4, 4]),
        (FreezeConfig(policy="gradual", thaw_frac=0.4), [0, 1, 2, 3, 4, 4, 4, 4, 4, 4]),
        (FreezeConfig(policy="gradual", thaw_frac=0.8), [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]),
        (FreezeConfig(policy="gradual", thaw_frac=0.2), [0, 2, 4, 4, 4, 4, 4, 4, 4, 4]),
        (FreezeConfig(policy="probe_first", thaw_frac=0.01), [0, 4, 4, 4, 4, 4, 4, 4, 4, 4]),
    ],
)
def test_frozen_by_epoch(config: FreezeConfig, thawed_by_epoch: list[int]) -> None:
    frozen = [frozen_modules(epoch, 10, STAGES, config) for epoch in range(10)]
    assert frozen == [STAGES[: 4 - thawed] for thawed in thawed_by_epoch]
    # without head parameters, the last stage trains instead
    if config.policy in ("gradual", "probe_first"):
        headless = [
            frozen_modules(epoch, 10, STAGES, config, head_trains=False) for epoch in range(10)
        ]
        assert headless == [STAGES[: 4 - max(1, thawed)] for thawed in thawed_by_epoch]


def test_modes_and_gradients() -> None:
    net = build_backbone(BackboneConfig(name="tiny", width=8))
    parts = stages(net)
    net(torch.rand(2, 3, 28, 28)).sum().backward()
    set_frozen(parts, ("stem", "layer1"))
    assert {n.split(".")[0] for n, p in net.named_parameters() if not p.requires_grad} == {
        "conv1",
        "bn1",
        "layer1",
    }
    assert {n.split(".")[0] for n, p in net.named_parameters() if p.grad is not None} == {
        "layer2",
        "layer3",
    }
    for batchnorm, training in (("train", {"layer2", "layer3"}), ("frozen", set())):
        net.train()
        set_eval_mode(parts, ("stem", "layer1"), FreezeConfig(batchnorm=batchnorm))  # type: ignore[arg-type]
        norms = {
            n.split(".")[0]
            for n, m in net.named_modules()
            if isinstance(m, nn.BatchNorm2d) and m.training
        }
        assert norms == training
        assert net.layer2.training
        assert not net.layer1.training
    set_frozen(parts, ())
    assert all(p.requires_grad for p in net.parameters())


def test_bad_values_are_named() -> None:
    with pytest.raises(
        UserError,
        match=r"freeze\.until='layer9' is not a stage of this backbone; "
        r"valid: stem, layer1, layer2, layer3",
    ):
        frozen_modules(0, 1, STAGES, FreezeConfig(policy="until", until="layer9"))
    with pytest.raises(UserError, match="policy='until' and a stage in `until` go together"):
        build(FreezeConfig, {"policy": "until"})
    with pytest.raises(UserError, match="policy='none', until='layer3'"):
        build(FreezeConfig, {"until": "layer3"})
    with pytest.raises(TypeError, match="Linear has no known stages"):
        stages(nn.Linear(2, 2))


@pytest.mark.parametrize("policy", ["none", "all", "until", "gradual", "probe_first"])
def test_stages_thaw_when_the_policy_says(policy: str) -> None:
    names = ("stem", "layer1", "layer2", "layer3")
    until = "layer2" if policy == "until" else ""
    config = FreezeConfig(policy=policy, until=until, thaw_frac=0.5)  # type: ignore[arg-type]
    for name in names:
        fraction = thaws_at(name, 8, names, config)
        frozen = [name in frozen_modules(epoch, 8, names, config) for epoch in range(8)]
        if fraction:
            assert frozen == [epoch < 8 * fraction for epoch in range(8)]
        else:
            assert len(set(frozen)) == 1  # always trains, or never does
