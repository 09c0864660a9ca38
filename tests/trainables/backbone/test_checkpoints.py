"""Backbone files of other tools, with tensors named as those tools name them: the same weights are
loaded, and the message says how names were changed."""

import argparse
import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from trainables.backbone.export import load_fc_state
from trainables.backbone.networks import BackboneConfig, build_backbone
from trainables.backbone.weights import Loaded, load_backbone
from trainables.errors import UserError

RESNET = BackboneConfig(name="resnet18")
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def whole() -> State:
    torch.manual_seed(5)
    state: State = torchvision.models.resnet18().state_dict()
    return state


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def body(state: State) -> State:
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


def followed(state: State) -> State:
    """Return a second copy with other values, like a moving average."""
    return {key: value + 1 for key, value in state.items()}


def head(name: str) -> State:
    return {f"{name}.0.weight": torch.rand(4, 512), f"{name}.0.bias": torch.rand(4)}


def numbered(whole: State) -> State:
    """Return the state with the names of `nn.Sequential(*list(resnet18().children())[:-1])`, as in
    lightly's examples."""
    net = torchvision.models.resnet18()
    net.load_state_dict(whole)
    state: State = nn.Sequential(*list(net.children())[:-1]).state_dict()
    return state


def load(path: Path, saved: Any) -> tuple[nn.Module, Loaded]:
    torch.save(saved, path)
    torch.manual_seed(6)
    backbone = build_backbone(RESNET)
    return backbone, load_backbone(backbone, RESNET, path)


def moco(whole: State) -> State:
    queue = {"module.queue": torch.rand(4, 8), "module.queue_ptr": torch.zeros(1)}
    query = under("module.encoder_q.", body(whole) | head("fc"))
    return query | under("module.encoder_k.", followed(body(whole) | head("fc"))) | queue


CASES = {
    "plain": (lambda w: w, "2 of a head left out"),
    "wrapped": (lambda w: {"epoch": 3, "state_dict": w}, "2 of a head left out"),
    "model": (lambda w: {"model": w, "optimizer": {"state": {}}}, "read from its dict model"),
    "model_state_dict": (
        lambda w: {"model_state_dict": body(w)},
        "read from its dict model_state_dict",
    ),
    "ema": (
        lambda w: {"state_dict_ema": followed(w), "state_dict": w},
        "2 of a head left out",
    ),
    "data parallel": (lambda w: under("module.", w), "prefix module. taken off"),
    "compiled": (lambda w: under("_orig_mod.", w), "prefix _orig_mod. taken off"),
    "compiled within": (
        lambda w: {"model": under("module._orig_mod.", w)},
        "read from its dict model, prefix module._orig_mod. taken off",
    ),
    "moco": (
        lambda w: {"arch": "resnet18", "state_dict": moco(w)},
        "prefix module.encoder_q. taken off, 124 other tensors left out "
        "(module.encoder_k., module.queue, module.queue_ptr)",
    ),
    "moco 3": (
        lambda w: {
            "state_dict": under("module.momentum_encoder.", followed(w))
            | under("module.base_encoder.", w)
        },
        "prefix module.base_encoder. taken off, 122 other tensors left out "
        "(module.momentum_encoder.)",
    ),
    "solo-learn": (
        lambda w: {
            "state_dict": under("momentum_backbone.", followed(body(w)))
            | under("backbone.", body(w))
            | head("projector")
        },
        "prefix backbone. taken off, 122 other tensors left out (momentum_backbone., projector.)",
    ),
    "lightly": (
        lambda w: {
            "state_dict": under("backbone.", numbered(w))
            | under("backbone_momentum.", followed(numbered(w)))
            | head("projection_head")
        },
        "prefix backbone. taken off, numbered layers named, 122 other tensors left out "
        "(backbone_momentum., projection_head.)",
    ),
    "lightly, backbone alone": (numbered, "numbered layers named"),
    "dino": (
        lambda w: {
            "student": under("module.backbone.", followed(body(w))) | head("module.head"),
            "teacher": under("backbone.", body(w)) | head("head"),
            "args": argparse.Namespace(lr=0.1),
            "best": np.float64(0.5),
        },
        "read from its dict teacher, prefix backbone. taken off, 2 other tensors left out (head.)",
    ),
    "byol-pytorch": (
        lambda w: under("net.", body(w)) | under("target_encoder.net.", followed(body(w))),
        "prefix net. taken off, 120 other tensors left out (target_encoder.)",
    ),
    "a name of one's own": (lambda w: under("resnet.", w), "prefix resnet. taken off"),
    "half precision": (
        lambda w: {k: v.half() if v.is_floating_point() else v for k, v in w.items()},
        "2 of a head left out",
    ),
}


@pytest.mark.parametrize("tool", CASES)
def test_the_weights_of_another_tool_arrive(tool: str, whole: State, tmp_path: Path) -> None:
    make, said = CASES[tool]
    backbone, loaded = load(tmp_path / "b.pth", make(whole))
    dtype = torch.float16 if tool == "half precision" else torch.float32
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, whole[key].to(dtype).to(value.dtype)), key
    assert loaded.matched == 120
    assert str(loaded).endswith(said)
    assert str(loaded).startswith("120 of 120 tensors matched, ")


def test_files_without_counters_of_batches_load(whole: State, tmp_path: Path) -> None:
    """torch's own `load_state_dict` also accepts files from before BatchNorm counted its
    batches."""
    old = {k: v for k, v in whole.items() if not k.endswith("num_batches_tracked")}
    backbone, _ = load(tmp_path / "b.pth", under("module.", old))
    assert torch.equal(backbone.get_buffer("bn1.running_var"), whole["bn1.running_var"])
    assert backbone.get_buffer("bn1.num_batches_tracked") == 0


def test_the_layer_of_1000_units_is_found_under_a_prefix(whole: State, tmp_path: Path) -> None:
    torch.save({"model": under("module.", whole)}, tmp_path / "b.pth")
    layer = load_fc_state(tmp_path / "b.pth", build_backbone(RESNET), "resnet18")
    assert layer is not None
    assert torch.equal(layer["weight"], whole["fc.weight"])
    assert torch.equal(layer["bias"], whole["fc.bias"])


def refusal(path: Path, saved: Any, config: BackboneConfig = RESNET) -> str:
    torch.save(saved, path)
    with pytest.raises(UserError) as caught:
        load_backbone(build_backbone(config), config, path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_refusal_names_the_first_missing_and_unexpected_tensors(
    whole: State, tmp_path: Path
) -> None:
    path = tmp_path / "b.pth"
    lacking = body(whole)
    del lacking["layer3.0.bn2.bias"]
    extra = {"attention.weight": torch.rand(2)}
    message = refusal(path, {"model": under("module.", lacking | extra)})
    assert (
        "does not fit backbone.name=resnet18 (read from its dict model, prefix module." in message
    )
    assert "119 of 120 tensors match; 1 missing (layer3.0.bn2.bias); " in message
    assert "1 left over (attention.weight)" in message

    message = refusal(path, {"state_dict": under("vit.", {"cls_token": torch.rand(2)})})
    assert "0 of 120 tensors match; 120 missing (conv1.weight, bn1.weight, " in message
    assert "1 left over (vit.cls_token)" in message

    assert "contains no state_dict" in refusal(path, {"epoch": 3, "args": argparse.Namespace()})


def test_a_stem_of_another_size_is_told_by_its_kernel(whole: State, tmp_path: Path) -> None:
    """solo-learn's ResNets for CIFAR have such a stem."""
    small = whole | {"conv1.weight": torch.rand(64, 3, 3, 3)}
    message = refusal(tmp_path / "b.pth", under("backbone.", small))
    assert (
        "119 of 120 tensors match; 1 of another shape (conv1.weight (64, 3, 3, 3) for " in message
    )
    assert "add --set backbone.small_stem=true" in message

    stem = BackboneConfig(name="resnet18", small_stem=True)
    assert "add --set backbone.small_stem=false" in refusal(tmp_path / "b.pth", whole, stem)

    grey = whole | {"conv1.weight": torch.rand(64, 1, 7, 7)}
    assert "small_stem" not in refusal(tmp_path / "b.pth", grey)


def test_what_could_run_code_is_named_and_not_read(whole: State, tmp_path: Path) -> None:
    message = refusal(tmp_path / "b.pth", {"state_dict": whole, "when": datetime.date(2024, 5, 1)})
    assert "contains more than weights (datetime.date), which could run code" in message
    assert "save its state_dict alone" in message
