"""timm weights load from the hub's cache with their normalisation, or are refused in one line."""

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("timm")

import huggingface_hub

from trainables.backbone.networks import BackboneConfig, build_backbone
from trainables.backbone.weights import load_backbone
from trainables.errors import UserError
from tune.backbones.resolve import find

VIT = "timm:test_vit"


def refusal(wanted: str, storage: Path, architecture: str) -> str:
    with pytest.raises(UserError) as caught:
        find(wanted, storage, architecture)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_cached_weights_are_taken_with_their_normalisation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    torch.manual_seed(0)
    state = build_backbone(BackboneConfig(name=VIT)).state_dict()
    head = {"head.weight": torch.zeros(1000, 64), "head.bias": torch.zeros(1000)}
    safetensors.save_file({**state, **head}, tmp_path / "model.safetensors")
    asked = []

    def cached(repository: str, name: str, **options: Any) -> str:
        asked.append((repository, name, options["local_files_only"]))
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", cached)
    origin = find("timm", tmp_path, VIT)
    assert asked == [("timm/test_vit.r160_in1k", "model.safetensors", True)]
    assert str(origin) == "timm:test_vit.r160_in1k"

    values = origin.config()
    assert values["normalize"] == "half"
    torch.manual_seed(1)
    fresh = build_backbone(BackboneConfig(name=VIT))
    loaded = load_backbone(fresh, BackboneConfig(name=VIT), origin.path, values["init.sha256"])
    assert loaded.matched == len(state)
    assert loaded.ignored == ("head.bias", "head.weight")


def test_offline_without_a_cached_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: Any, **options: Any) -> str:
        raise OSError("no network" if not options["local_files_only"] else "not cached")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    message = refusal("timm:r160_in1k", tmp_path, VIT)
    assert "timm/test_vit.r160_in1k cannot be downloaded (no network) and is not cached" in message


def test_what_timm_does_not_have(tmp_path: Path) -> None:
    assert "add e.g. --set backbone.name=timm:resnet18" in refusal("timm", tmp_path, "resnet18")
    assert "valid: r160_in1k" in refusal("timm:nobody", tmp_path, VIT)
    clip = refusal("timm:openai", tmp_path, "timm:vit_base_patch32_clip_224")
    assert "which is not one of imagenet, half, none" in clip
